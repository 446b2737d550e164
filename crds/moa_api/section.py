"""What all parts of the resource have in common, and the schema extensions they use."""

from typing import Final

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic.alias_generators import to_camel
from pydantic.config import JsonDict

SET: Final[JsonDict] = {"x-kubernetes-list-type": "set"}
"""Schema of a list whose entries the API server keeps unique."""


def keyed_by(key: str) -> JsonDict:
    """Schema of a list whose entries the API server keeps unique by one of their fields."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]}


def cel(*rules: tuple[str, str]) -> JsonDict:
    """Schema extension that makes the API server check rules across the fields of an object.

    Args:
        rules: Expressions in the Common Expression Language over ``self``, each with what to tell who breaks it.
    """
    return {"x-kubernetes-validations": [{"rule": rule, "message": message} for rule, message in rules]}


def _without_nulls(document: object) -> object:
    """Drops absent-by-null fields, as an API server does before it fills in defaults."""
    if not isinstance(document, dict):
        return document
    return {key: value for key, value in document.items() if value is not None}


class Section(BaseModel):
    """A part of the resource: immutable, strict, written in camelCase, refusing what it does not know."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        allow_inf_nan=False,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        strict=True,
        use_attribute_docstrings=True,
        validate_by_name=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, document: object) -> object:
        return _without_nulls(document)
