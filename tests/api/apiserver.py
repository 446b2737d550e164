"""What an API server does with a document and a CustomResourceDefinition, as far as that can be had without one.

Nulls and unknown fields are dropped, defaults filled in, then types and bounds are checked (by `jsonschema`), the keys
of lists, and the rules (by `cel-python`). Where an API server differs, the real one has the last word.
"""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from typing import cast

import celpy
from celpy import celtypes
from celpy.adapter import json_to_cel
from jsonschema import Draft4Validator

JSONSchema = Mapping[str, object]


@dataclass(frozen=True)
class Verdict:
    """What an API server says, by who says it."""

    unknown: list[str]
    schema: list[str]
    rules: list[str]
    stored: object
    """The document with defaults, as it would be stored."""


def judge(crd: Mapping[str, object], document: object) -> Verdict:
    """Returns what an API server with this definition says of a document."""
    schema = open_api_schema(crd)
    stored = _as_parsed(deepcopy(document))
    unknown = list(_drop_unknown(schema, stored, ""))
    _drop_nulls(schema, stored)
    _fill_in_defaults(schema, stored)
    misshapen = [f"{error.json_path}: {error.message}" for error in Draft4Validator(_plain(schema)).iter_errors(stored)]
    # An API server does not look further into a document whose types do not fit.
    misshapen = misshapen or _list_faults(schema, stored, "")
    broken = [] if misshapen else list(_broken_rules(schema, stored, ""))
    return Verdict(unknown, misshapen, broken, stored)


def open_api_schema(crd: Mapping[str, object]) -> JSONSchema:
    """Returns the schema of a definition's only version."""
    versions = cast("list[Mapping[str, object]]", _object(crd["spec"])["versions"])
    return _object(_object(versions[0]["schema"])["openAPIV3Schema"])


def walk(schema: JSONSchema, path: str = "") -> Iterator[tuple[str, JSONSchema]]:
    """Yields every schema within a schema, with the path of what it describes."""
    yield path, schema
    for name, each in _properties(schema).items():
        yield from walk(each, f"{path}.{name}" if path else name)
    if "items" in schema:
        yield from walk(_object(schema["items"]), f"{path}[]")
    if "additionalProperties" in schema:
        yield from walk(_object(schema["additionalProperties"]), f"{path}{{}}")


def _object(value: object) -> Mapping[str, object]:
    assert isinstance(value, dict), value
    return value


def _properties(schema: JSONSchema) -> Mapping[str, JSONSchema]:
    return cast("Mapping[str, JSONSchema]", schema.get("properties", {}))


def _children(schema: JSONSchema, value: object, path: str) -> Iterator[tuple[str, JSONSchema, object]]:
    if isinstance(value, dict):
        for name in value:
            if (each := _value_of(schema, name)) is not None:
                yield f"{path}.{name}" if path else name, each, value[name]
    if isinstance(value, list) and "items" in schema:
        for index, entry in enumerate(value):
            yield f"{path}[{index}]", _object(schema["items"]), entry


def _value_of(schema: JSONSchema, name: str) -> JSONSchema | None:
    """The schema of a field of an object, or of an entry of a map."""
    return _properties(schema).get(name, cast("JSONSchema | None", schema.get("additionalProperties")))


def _is_open(schema: JSONSchema, path: str) -> bool:
    return path == "metadata" or "x-kubernetes-preserve-unknown-fields" in schema or "additionalProperties" in schema


def _as_parsed(value: object) -> object:
    """An API server reads whole numbers beyond 64 bits as floats."""
    if isinstance(value, dict):
        return {name: _as_parsed(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_as_parsed(each) for each in value]
    return float(value) if isinstance(value, int) and abs(value) >= 2**63 else value


def _drop_unknown(schema: JSONSchema, value: object, path: str) -> Iterator[str]:
    if isinstance(value, dict) and not _is_open(schema, path):
        for name in value.keys() - _properties(schema).keys():
            del value[name]
            yield f"{path}.{name}" if path else name
    for child_path, child_schema, child in _children(schema, value, path):
        yield from _drop_unknown(child_schema, child, child_path)


def _drop_nulls(schema: JSONSchema, value: object) -> None:
    if isinstance(value, dict):
        for name in _properties(schema):
            if value.get(name, ...) is None:
                del value[name]
    for _, child_schema, child in _children(schema, value, ""):
        _drop_nulls(child_schema, child)


def _fill_in_defaults(schema: JSONSchema, value: object) -> None:
    if isinstance(value, dict):
        for name, each in _properties(schema).items():
            if "default" in each:
                value.setdefault(name, deepcopy(each["default"]))
    for _, child_schema, child in _children(schema, value, ""):
        _fill_in_defaults(child_schema, child)


def _plain(schema: JSONSchema) -> dict[str, object]:
    """Translates what only Kubernetes knows."""
    plain = dict(schema)
    if "x-kubernetes-int-or-string" in plain:
        plain["type"] = ["integer", "string"]
    if "properties" in plain:
        plain["properties"] = {name: _plain(each) for name, each in _properties(schema).items()}
    if "items" in plain:
        plain["items"] = _plain(_object(plain["items"]))
    return plain


def _list_faults(schema: JSONSchema, value: object, path: str) -> list[str]:
    faults = []
    if isinstance(value, list):
        keys = cast("list[str]", schema.get("x-kubernetes-list-map-keys", []))
        identities = [tuple(entry.get(key) for key in keys) if keys else entry for entry in value]
        if "x-kubernetes-list-type" in schema and len(set(identities)) < len(identities):
            faults.append(f"{path}: duplicate entries")
    for child_path, child_schema, child in _children(schema, value, path):
        faults += _list_faults(child_schema, child, child_path)
    return faults


def _broken_rules(schema: JSONSchema, value: object, path: str) -> Iterator[str]:
    for rule in cast("list[Mapping[str, str]]", schema.get("x-kubernetes-validations", [])):
        if not _program(rule["rule"]).evaluate({"self": json_to_cel(cast("dict[str, object]", value))}):
            yield f"{path}: {rule['message']}"
    for child_path, child_schema, child in _children(schema, value, path):
        yield from _broken_rules(child_schema, child, child_path)


@cache
def _program(rule: str) -> celpy.Runner:
    environment = celpy.Environment()
    # `sum` of lists is one of Kubernetes' own additions to the language.
    return environment.program(environment.compile(rule), functions={"sum": _sum})


def _sum(numbers: list[celtypes.IntType]) -> celtypes.IntType:
    return celtypes.IntType(sum(numbers))
