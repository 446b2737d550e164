"""The reference of a MoAProfile's fields, made from the CustomResourceDefinition.

`make docs` writes it to `docs/profile.md`; a test fails when that differs.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, cast

import yaml
from pydantic import JsonValue

from moa_api.schema import custom_resource_definition

Schema = Mapping[str, JsonValue]

_PREAMBLE: Final = """\
# MoAProfile, field by field

<!-- Generated from the models by `make docs`; change them, not this file. -->

`apiVersion: moa-operator.io/v1alpha1`, `kind: MoAProfile`, short name `moap`. A profile's name is a DNS label of at
most 59 characters. Durations are Go-style strings (`300ms`, `1m30s`). Unknown fields are refused. What the schema can
refuse, the API server refuses at once, with a message that says what to write instead; `moa-router serve` refuses the
same, all problems of a file together.
"""


def render() -> str:
    """Returns the reference as Markdown."""
    crd = cast("dict[str, dict[str, list[dict[str, dict[str, JsonValue]]]]]", custom_resource_definition())
    root = _schema(crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"])
    properties = _properties(root)
    parts = [_PREAMBLE]
    for name in ("spec", "status"):
        parts += _section(name, properties[name])
    return "\n".join(parts)


def _section(path: str, schema: Schema) -> Iterator[str]:
    properties = _properties(schema)
    yield f"## `{path}`\n"
    if description := schema.get("description"):
        yield f"{description}\n"
    yield "| field | type | default | |\n|---|---|---|---|"
    required = cast("Sequence[str]", schema.get("required", ()))
    for name, field in properties.items():
        default = "**required**" if name in required else _default(field)
        yield f"| `{name}` | {_type(field)} | {default} | {_text(str(field.get('description', '')))} |"
    yield ""
    yield from _rules(schema)
    for name, field in properties.items():
        inner, suffix = (_schema(field["items"]), "[]") if field.get("type") == "array" else (field, "")
        if _properties(inner):
            yield from _section(f"{path}.{name}{suffix}", inner)


def _rules(schema: Schema) -> Iterator[str]:
    rules = cast("Sequence[Mapping[str, str]]", schema.get("x-kubernetes-validations", ()))
    if rules:
        yield "Rules:\n"
        yield from (f"- {rule.get('message', rule['rule'])}" for rule in rules)
        yield ""


def _type(field: Schema) -> str:
    if field.get("x-kubernetes-int-or-string"):
        return "integer or string"
    if field.get("type") == "array":
        return f"list of {_type(_schema(field['items']))}"
    if enum := field.get("enum"):
        return " \\| ".join(f"`{value}`" for value in cast("Sequence[str]", enum))
    bounds = _bounds(field)
    return f"{field.get('type', 'any')}{f' ({bounds})' if bounds else ''}"


def _bounds(field: Schema) -> str:
    low, high = field.get("minimum"), field.get("maximum")
    if low is not None and high is not None:
        return f"{low} to {high}"
    return f"at least {low}" if low is not None else f"at most {high}" if high is not None else ""


def _default(field: Schema) -> str:
    if "default" not in field or isinstance(field["default"], dict):
        return ""
    return f"`{yaml.safe_dump(field['default'], default_flow_style=True).removesuffix('...' + chr(10)).strip()}`"


def _text(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _schema(value: JsonValue) -> Schema:
    return cast("Schema", value)


def _properties(schema: Schema) -> Mapping[str, Schema]:
    return cast("Mapping[str, Schema]", schema.get("properties", {}))
