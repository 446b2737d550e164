"""Instances satisfy their schemas, whatever the dice."""

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moa_simulator.dice import Dice
from moa_simulator.instances import instance

SCHEMAS: dict[str, dict[str, object]] = {
    "object": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "minLength": 3, "maxLength": 5},
            "age": {"type": "integer", "minimum": 18, "exclusiveMaximum": 21},
            "ratio": {"type": "number", "exclusiveMinimum": 0, "maximum": 0.25},
            "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 3, "maxItems": 3},
            "flag": {"type": "boolean"},
            "nothing": {"type": "null"},
            "kind": {"const": "person"},
        },
        "required": ["name", "age"],
        "additionalProperties": False,
    },
    "references": {
        "$ref": "#/$defs/node",
        "$defs": {
            "node": {
                "type": "object",
                "properties": {"value": {"type": "integer"}, "next": {"$ref": "#/$defs/node"}},
                "required": ["value"],
            }
        },
    },
    "choices": {"anyOf": [{"type": "string", "format": "date"}, {"type": "integer"}]},
    "everything": {
        "allOf": [
            {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
            {"properties": {"b": {"type": ["string", "null"]}}, "required": ["b"]},
        ]
    },
    "tuple": {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "items": False},
    "below zero": {"type": "integer", "maximum": -5},
    "multiples": {"type": "integer", "multipleOf": 7, "minimum": 1, "maximum": 20},
    "narrow": {"type": "number", "minimum": 0.0001, "maximum": 0.0002},
    "undeclared": {"type": "object", "required": ["surprise"]},
    "untyped": {"properties": {"x": {}}},
}


@pytest.mark.parametrize("name", SCHEMAS)
@given(seed=st.integers(min_value=0, max_value=2**64 - 1))
def test_an_instance_satisfies_its_schema(name: str, seed: int) -> None:
    made = instance(SCHEMAS[name], Dice(seed))
    jsonschema.Draft202012Validator(SCHEMAS[name]).validate(made)


def test_equal_dice_make_equal_instances() -> None:
    assert instance(SCHEMAS["object"], Dice(1)) == instance(SCHEMAS["object"], Dice(1))


def test_a_required_loop_ends() -> None:
    schema = {"type": "object", "properties": {"me": {"$ref": "#"}}, "required": ["me"]}
    assert "me" in str(instance(schema, Dice(1)))


def test_a_reference_to_itself_ends() -> None:
    assert isinstance(instance({"$ref": "#"}, Dice(1)), str)
