"""The scalar types of the API: each knows its text form, its bounds and the schema an API server checks it with."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from itertools import chain
from typing import Annotated, Final

from pydantic import (
    BeforeValidator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    JsonValue,
    PlainSerializer,
    PlainValidator,
    StringConstraints,
    WithJsonSchema,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from moa_api.wording import kind

JSONObject = dict[str, JsonValue]

DNS_LABEL: Final = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
DNS_SUBDOMAIN: Final = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
DATA_KEY: Final = r"^[-._a-zA-Z0-9]+$"
MODEL_ID: Final = r"^[!-~]([ -~]*[!-~])?$"
PUBLIC_NAME: Final = r"^[!-9;-~]+$"
PATH: Final = r'^(/|(/[!"$-.0->@-~]+)+)$'
_PORT: Final = r"(6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[1-5][0-9]{4}|[1-9][0-9]{0,3})"
_HOST: Final = r"([a-zA-Z0-9]([-._a-zA-Z0-9]*[a-zA-Z0-9])?|\[[0-9a-fA-F:.]+\])"
ORIGIN: Final = rf"^https?://{_HOST}(:{_PORT})?/?$"
BASE_URL: Final = rf'^https?://{_HOST}(:{_PORT})?(/[!"$->@-~]*)?$'
HOST_NAME: Final = r"^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
IMAGE: Final = r"^[a-zA-Z0-9][-a-zA-Z0-9._:/@]*$"

PATTERN_HINTS: Final[Mapping[str, str]] = {
    DNS_LABEL: 'write lower-case letters, digits and "-", such as "qwen-32b"',
    DNS_SUBDOMAIN: 'write lower-case letters, digits, "-" and ".", such as "vllm-api-keys"',
    DATA_KEY: 'write letters, digits, "-", "_" and ".", such as "api-key"',
    MODEL_ID: 'write the printable ASCII name the upstream serves, such as "Qwen/Qwen3-32B"',
    PUBLIC_NAME: 'write printable ASCII without spaces and without ":" (it separates the mode), such as "gpt-4o"',
    PATH: 'write a path with a leading and no trailing slash, such as "/v1", or "/" for none',
    ORIGIN: (
        'write scheme, host and port only, such as "https://api.example.com"; the path goes into `path`, '
        "credentials into `apiKeySecretRef`"
    ),
    BASE_URL: 'write an http or https URL without credentials, query or fragment, such as "http://collector:4318"',
    HOST_NAME: 'write a DNS name in lower case, such as "models.example.com" or "*.example.com"',
    IMAGE: 'write a container image, such as "registry.example.com/moa-router:1.2"',
}
"""What to write instead, by the pattern a text did not match."""

Label = Annotated[str, StringConstraints(pattern=DNS_LABEL, min_length=1, max_length=63)]
"""A DNS label (RFC 1123): the form of names inside a profile, of Services and of namespaces."""

ProfileName = Annotated[str, StringConstraints(pattern=DNS_LABEL, min_length=1, max_length=59)]
"""A DNS label that leaves room for the suffix ``-moa`` of the profile's children."""

ObjectName = Annotated[str, StringConstraints(pattern=DNS_SUBDOMAIN, min_length=1, max_length=253)]
"""A DNS subdomain (RFC 1123): the name of a Secret or ConfigMap."""

DataKey = Annotated[str, StringConstraints(pattern=DATA_KEY, min_length=1, max_length=253)]
"""An entry of a Secret or ConfigMap."""

ModelID = Annotated[str, StringConstraints(pattern=MODEL_ID, min_length=1, max_length=253)]
"""What an upstream calls its model."""

PublicName = Annotated[str, StringConstraints(pattern=PUBLIC_NAME, min_length=1, max_length=253)]
"""A model name that clients may send; a colon would read as the start of a mode."""

URLPath = Annotated[str, StringConstraints(pattern=PATH, min_length=1, max_length=253)]
"""The path below which an upstream serves the OpenAI API."""

Origin = Annotated[str, StringConstraints(pattern=ORIGIN, min_length=1, max_length=512)]
"""Scheme, host and port of an upstream."""

BaseURL = Annotated[str, StringConstraints(pattern=BASE_URL, min_length=1, max_length=512)]
"""An http or https URL to append a path to."""

HostName = Annotated[str, StringConstraints(pattern=HOST_NAME, min_length=1, max_length=253)]
"""A DNS name that a route answers to; the first label may be a wildcard."""

Image = Annotated[str, StringConstraints(pattern=IMAGE, min_length=1, max_length=512)]
"""A container image, by tag or digest."""

Instruction = Annotated[str, StringConstraints(min_length=1, max_length=16_384)]
"""Text for a model to read."""


def _whole(value: object) -> object:
    """An API server counts 3.0 as a whole number; so do we."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


@dataclass(frozen=True, slots=True)
class Between:
    """Marks a whole number within bounds, both included; text and booleans are refused."""

    least: int
    most: int | None = None

    def __get_pydantic_core_schema__(self, _source: object, _handler: GetCoreSchemaHandler) -> CoreSchema:
        number = core_schema.int_schema(strict=True, ge=self.least, le=self.most)
        return core_schema.no_info_before_validator_function(_whole, number)


_UNITS: Final[Mapping[str, Decimal]] = {
    "h": Decimal(3600),
    "m": Decimal(60),
    "s": Decimal(1),
    "ms": Decimal("0.001"),
}
_DURATION: Final = r"^([0-9]{1,9}(\.[0-9]{1,9})?(h|m|s|ms))+$"
_DURATION_PART: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|h|m|s)")
_DURATION_LENGTH: Final = 32
_NANOSECONDS: Final = 1_000_000_000
_DURATION_HINT: Final = 'write a number and a unit (h, m, s, ms), such as "300ms", "5s" or "1h5m"'


def parse_duration(text: str) -> Decimal:
    """Reads a duration in the syntax of Go's ``time.ParseDuration``, units ``h``, ``m``, ``s`` and ``ms``.

    Args:
        text: One or more numbers with a unit, such as ``1h5m`` or ``1.5s``.

    Returns:
        Seconds, exactly.

    Raises:
        ValueError: The text is no such duration.
    """
    if len(text) > _DURATION_LENGTH or not re.fullmatch(_DURATION.strip("^$"), text, re.ASCII):
        raise ValueError(f"not a duration; {_DURATION_HINT}")
    return sum((Decimal(number) * _UNITS[unit] for number, unit in _DURATION_PART.findall(text)), Decimal(0))


def format_duration(seconds: float) -> str:
    """Writes seconds as the shortest duration of whole units that reads back the same.

    Args:
        seconds: Zero or more; finer than a nanosecond is rounded.

    Returns:
        Text that `parse_duration` reads, such as ``1m30s`` or ``300ms``.
    """
    rest = Decimal(round(seconds * _NANOSECONDS)) / _NANOSECONDS
    hours, rest = divmod(rest, 3600)
    minutes, rest = divmod(rest, 60)
    parts = [f"{hours}h" if hours else "", f"{minutes}m" if minutes else ""]
    if 0 < rest < 1:
        parts.append(f"{(rest * 1000).normalize():f}ms")
    elif rest:
        parts.append(f"{rest.normalize():f}s")
    return "".join(parts) or "0s"


@dataclass(frozen=True, slots=True)
class DurationBetween:
    """Marks seconds that a document writes as a Go-style duration within bounds, both included."""

    least: str
    most: str

    def __get_pydantic_core_schema__(self, _source: object, _handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self._read,
            serialization=core_schema.plain_serializer_function_ser_schema(
                format_duration, return_schema=core_schema.str_schema()
            ),
        )

    def __get_pydantic_json_schema__(self, _schema: CoreSchema, _handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        within = f"duration(self) >= duration('{self.least}') && duration(self) <= duration('{self.most}')"
        return {
            "type": "string",
            "pattern": _DURATION,
            "maxLength": _DURATION_LENGTH,
            "x-kubernetes-validations": [{"rule": within, "message": f"write {self.least} to {self.most}"}],
        }

    def _read(self, value: object) -> float:
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= _NANOSECONDS:
            text = f'a bare number is not a duration; write "{value:g}s" for seconds'
            raise PydanticCustomError("duration_unit", "{text}", {"text": text})
        if not isinstance(value, str):
            raise PydanticCustomError("duration_type", "{text}", {"text": f"not a duration; {_DURATION_HINT}"})
        try:
            seconds = parse_duration(value)
        except ValueError as error:
            raise PydanticCustomError("duration_syntax", "{text}", {"text": str(error)}) from None
        if not parse_duration(self.least) <= seconds <= parse_duration(self.most):
            text = f'"{value}" is out of bounds; write {self.least} to {self.most}'
            raise PydanticCustomError("duration_bounds", "{text}", {"text": text})
        return float(seconds)


Duration = Annotated[float, DurationBetween("1ms", "24h")]
"""Seconds, more than none; written as a Go-style duration such as ``1.5s``."""

DurationOrNone = Annotated[float, DurationBetween("0s", "24h")]
"""Seconds, of which ``0s`` means none; written as a Go-style duration."""

_MOST_EXPENSIVE: Final = 1_000_000


def _exact(value: object) -> object:
    """Keeps a price as the decimal that was written: through its shortest text, not through its binary value."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise PydanticCustomError("price_type", "not a price; write a number without quotes, such as 0.15")
    return Decimal(repr(value)) if isinstance(value, float) else Decimal(value)


Price = Annotated[
    Decimal,
    BeforeValidator(_exact),
    Field(ge=0, le=_MOST_EXPENSIVE),
    PlainSerializer(float, return_type=float, when_used="json"),
    WithJsonSchema({"type": "number", "minimum": 0, "maximum": _MOST_EXPENSIVE}),
]
"""An amount of money, exact, in whatever currency the profile's owner counts."""

_PERCENT: Final = r"^(100|[1-9][0-9]?)%$"
_MOST_SAMPLES: Final = 512
_QUORUM_HINT: Final = 'write a whole number such as 2, or a percentage from "1%" to "100%"'


def _read_quorum(value: object) -> int | str:
    value = _whole(value)
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _MOST_SAMPLES:
        return value
    if isinstance(value, str) and re.fullmatch(_PERCENT.strip("^$"), value):
        return value
    raise PydanticCustomError("quorum", "{text}", {"text": f"not a quorum; {_QUORUM_HINT}"})


Quorum = Annotated[
    int | str,
    PlainValidator(_read_quorum),
    WithJsonSchema({"x-kubernetes-int-or-string": True, "pattern": _PERCENT, "minimum": 1, "maximum": _MOST_SAMPLES}),
]
"""How many answers are enough: a whole number, or a percentage as text."""

_MOST_PODS: Final = 1_000
_INT_OR_PERCENT_HINT: Final = 'write a whole number such as 1, or a percentage from "1%" to "100%"'


def _read_int_or_percent(value: object) -> int | str:
    value = _whole(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST_PODS:
        return value
    if isinstance(value, str) and re.fullmatch(_PERCENT.strip("^$"), value):
        return value
    text = f"neither a number of pods nor a share of them; {_INT_OR_PERCENT_HINT}"
    raise PydanticCustomError("int_or_percent", "{text}", {"text": text})


IntOrPercent = Annotated[
    int | str,
    PlainValidator(_read_int_or_percent),
    WithJsonSchema({"x-kubernetes-int-or-string": True, "pattern": _PERCENT, "minimum": 0, "maximum": _MOST_PODS}),
]
"""A number of pods, or a share of them as text."""

_QUANTITY: Final = r"^(([0-9]{1,12}(\.[0-9]{1,3})?([kMGTP]|[KMGTP]i)?)|([0-9]{1,15}m))$"
_MOST_WHOLE: Final = 10**12 - 1
_QUANTITY_HINT: Final = 'write a number with a unit if any, such as "500m" or 2 cores, "512Mi" or "1Gi" bytes'
_BINARY: Final[Mapping[str, int]] = {f"{unit}i": 1024**power for power, unit in enumerate("KMGTP", start=1)}
_DECIMAL: Final[Mapping[str, Decimal]] = {
    "m": Decimal("0.001"),
    "": Decimal(1),
    **{unit: Decimal(1000) ** power for power, unit in enumerate("kMGTPE", start=1)},
}


def canonical_quantity(text: str) -> str:
    """Writes a quantity of a resource the way an API server gives it back, so that the two can be compared.

    Args:
        text: A number with a unit, such as ``0.5`` or ``1024Mi``.

    Returns:
        The largest unit that leaves a whole number: ``500m``, ``1Gi``. Binary units stay binary.

    Raises:
        ValueError: The text is no such quantity.
    """
    if not re.fullmatch(_QUANTITY.strip("^$"), text, re.ASCII):
        raise ValueError(f"not a quantity; {_QUANTITY_HINT}")
    number = text.rstrip("mkMGTPKi")
    unit = text.removeprefix(number)
    if unit in _BINARY:
        value = Decimal(number) * _BINARY[unit]
        if value >= 1024 and value == value.to_integral_value():  # noqa: PLR2004 - the smallest binary unit
            return _in_largest_unit(value, {"": Decimal(1), **{name: Decimal(size) for name, size in _BINARY.items()}})
    else:
        value = Decimal(number) * _DECIMAL[unit]
    return _in_largest_unit(value, _DECIMAL)


def _in_largest_unit(value: Decimal, units: Mapping[str, Decimal]) -> str:
    if not value:
        return "0"
    for unit, size in sorted(units.items(), key=lambda each: each[1], reverse=True):
        if value % size == 0:
            return f"{value // size:f}{unit}"
    return f"{value.normalize():f}"


def _read_quantity(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise PydanticCustomError("quantity", "{text}", {"text": f"not a quantity; {_QUANTITY_HINT}"})
    try:
        return canonical_quantity(str(value))
    except ValueError as error:
        raise PydanticCustomError("quantity", "{text}", {"text": str(error)}) from None


Quantity = Annotated[
    str,
    PlainValidator(_read_quantity),
    WithJsonSchema(
        {
            "x-kubernetes-int-or-string": True,
            "pattern": _QUANTITY,
            "minimum": 0,
            "maximum": _MOST_WHOLE,
            "maxLength": 24,
        }
    ),
]
"""An amount of a resource in Kubernetes' notation, canonical."""

_STRING_MAP_SIZE: Final = 64
_STRING_MAP_VALUE: Final = 16_384

StringMap = Annotated[
    dict[str, Annotated[str, StringConstraints(max_length=_STRING_MAP_VALUE)]],
    Field(max_length=_STRING_MAP_SIZE),
    WithJsonSchema(
        {
            "type": "object",
            "maxProperties": _STRING_MAP_SIZE,
            "additionalProperties": {"type": "string", "maxLength": _STRING_MAP_VALUE},
        }
    ),
]
"""Labels or annotations; which keys and values are valid, the API server says."""

ROUTER_OWNED: Final[Mapping[str, JsonSchemaValue]] = {
    "model": {"type": "string", "maxLength": 253},
    "messages": {
        "type": "array",
        "maxItems": 64,
        "items": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
    },
    "stream": {"type": "boolean"},
    "stream_options": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
    "n": {"type": "integer"},
}
"""Fields of a request body that the router writes itself, with the type each has there."""

_PARAMETERS_DEPTH: Final = 16
_PARAMETERS_SIZE: Final = 64
_INT64: Final = 2**63


def _json_fault(value: object, levels: int) -> str | None:
    """Says why a value could not be sent as JSON, or returns None where it can be."""
    if not isinstance(value, dict | list):
        return _scalar_fault(value)
    if levels == 0:
        return f"nested deeper than {_PARAMETERS_DEPTH} levels; write a flatter object"
    children = value.values() if isinstance(value, dict) else value
    names = value.keys() if isinstance(value, dict) else ()
    faults = chain(map(_name_fault, names), (_json_fault(child, levels - 1) for child in children))
    return next((fault for fault in faults if fault), None)


def _scalar_fault(value: object) -> str | None:
    match value:
        case float() if not math.isfinite(value):
            return "holds a number that JSON cannot write; write a finite one"
        case int() if abs(value) >= _INT64:
            return "holds a whole number beyond 64 bits; write it as text"
        case str() if not _is_unicode(value):
            return "holds text that is not valid Unicode; write it anew"
        case str() | int() | float() | None:
            return None
        case _:
            return f"holds {kind(value)}; put it in quotes"


def _name_fault(name: object) -> str | None:
    return (
        None
        if isinstance(name, str) and _is_unicode(name)
        else "holds a field whose name is not text; put it in quotes"
    )


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _check_free_form(value: object) -> object:
    if isinstance(value, dict) and (fault := _json_fault(value, _PARAMETERS_DEPTH)):
        raise PydanticCustomError("free_form_json", "{text}", {"text": fault})
    return value


FreeForm = Annotated[
    JSONObject,
    Field(max_length=_PARAMETERS_SIZE),
    BeforeValidator(_check_free_form),
    WithJsonSchema({"type": "object", "maxProperties": _PARAMETERS_SIZE, "x-kubernetes-preserve-unknown-fields": True}),
]
"""Part of a Kubernetes object whose schema is the API server's business."""


def _check_parameters(value: object) -> object:
    if not isinstance(value, dict):
        return value
    if owned := [f"`{name}`" for name in ROUTER_OWNED if name in value]:
        text = f"the router writes {', '.join(owned)} itself; remove it (samples set `n`, the upstream sets `model`)"
        raise PydanticCustomError("router_owned", "{text}", {"text": text})
    return _check_free_form(value)


Parameters = Annotated[
    JSONObject,
    Field(max_length=_PARAMETERS_SIZE),
    BeforeValidator(_check_parameters),
    WithJsonSchema(
        {
            "type": "object",
            "maxProperties": _PARAMETERS_SIZE,
            "x-kubernetes-preserve-unknown-fields": True,
            "properties": {
                name: {**schema, "description": "Refused: the router writes this field itself."}
                for name, schema in ROUTER_OWNED.items()
            },
            "x-kubernetes-validations": [
                {"rule": f"!has(self.{name})", "message": f"the router writes `{name}` itself; remove it"}
                for name in ROUTER_OWNED
            ],
        }
    ),
]
"""Free-form fields of a request body."""
