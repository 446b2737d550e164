"""The CustomResourceDefinition of MoAProfile, made from the models.

``python -m moa_api.schema`` prints it, ``--write FILE`` writes it, ``--check FILE`` fails with a diff if FILE differs.

An API server wants a *structural* schema: no references, a type at every level, defaults it can fill in itself. What
pydantic writes is translated; see `structural` for the differences.
"""

import argparse
import difflib
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, cast

import yaml
from pydantic import BaseModel, JsonValue

from moa_api.fields import JSONObject
from moa_api.models import KIND, MoAProfile, MoAProfileSpec
from moa_api.section import cel
from moa_api.status import MoAProfileStatus

GROUP: Final = "moa-operator.io"
VERSION: Final = "v1alpha1"
PLURAL: Final = "moaprofiles"

_HEADER: Final = "# Generated from crds/moa_api/models.py by `make crds`; change the models, not this file.\n"
_UNKNOWN_TO_KUBERNETES: Final = frozenset({"title", "$defs"})
_NAME_RULE: Final = (
    "self.metadata.name.size() <= 59 && !self.metadata.name.contains('.')",
    'metadata.name must be 59 characters at most and without "." (the children\'s names add "-moa")',
)


def structural(model: type[BaseModel]) -> JSONObject:
    """Returns the schema of a model as an API server understands it.

    References are inlined, optional fields lose their null (an API server drops nulls of its own accord), exclusive
    bounds take OpenAPI 3.0's form, empty defaults go, and an object that may be left out defaults to its fields'
    defaults, written out because an API server checks the rules of a default before it fills in what is missing.

    Args:
        model: A section of the resource.
    """
    # In this mode defaults are written as a document would: a duration as text, not as seconds.
    schema = model.model_json_schema(by_alias=True, mode="serialization")
    definitions = schema.get("$defs", {})
    return _translate(schema, definitions)


def _translate(schema: Mapping[str, JsonValue], definitions: Mapping[str, JSONObject]) -> JSONObject:
    schema = _inlined(schema, definitions)
    result: JSONObject = {}
    for key, value in schema.items():
        if key == "properties":
            result[key] = {name: _property(name, each, schema, definitions) for name, each in _objects(value)}
        elif key == "items":
            result[key] = _translate(cast("JSONObject", value), definitions)
        elif key == "additionalProperties":
            # Objects are closed by the properties they have; only maps say what their values are.
            result |= {key: value} if isinstance(value, dict) else {}
        elif key == "const":
            result["enum"] = [value]
        elif key == "exclusiveMinimum":
            result |= {"minimum": value, "exclusiveMinimum": True}
        elif key == "description":
            result[key] = _one_line(str(value))
        elif key not in _UNKNOWN_TO_KUBERNETES and not _is_empty_default(key, value):
            result[key] = value
    return {key: result[key] for key in ("type", "description") if key in result} | result


def _objects(value: JsonValue) -> list[tuple[str, JSONObject]]:
    return [(name, cast("JSONObject", each)) for name, each in cast("JSONObject", value).items()]


def _property(
    name: str, schema: JSONObject, parent: Mapping[str, JsonValue], definitions: Mapping[str, JSONObject]
) -> JSONObject:
    result = _translate(schema, definitions)
    required = cast("list[str]", parent.get("required", []))
    is_section = "properties" in result and "x-kubernetes-preserve-unknown-fields" not in result
    if is_section and name not in required and "anyOf" not in schema:
        result["default"] = {key: each["default"] for key, each in _objects(result["properties"]) if "default" in each}
    return result


def _inlined(schema: Mapping[str, JsonValue], definitions: Mapping[str, JSONObject]) -> JSONObject:
    """Replaces a reference, or a choice between something and null, by what is meant; words of the field win."""
    own = {key: value for key, value in schema.items() if key not in {"$ref", "anyOf"}}
    if "$ref" in schema:
        return {**_inlined(definitions[str(schema["$ref"]).rpartition("/")[2]], definitions), **own}
    for choice in cast("list[JSONObject]", schema.get("anyOf", [])):
        if choice.get("type") != "null":
            return {**_inlined(choice, definitions), **own}
    return own


def _is_empty_default(key: str, value: JsonValue) -> bool:
    return key == "default" and value in (None, [], {})


def _one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text.replace("``", "")).strip()


def _described(model: type[BaseModel], attribute: str) -> str:
    return _one_line(model.model_fields[attribute].description or "")


def _column(name: str, path: str, kind: str, description: str, *, wide: bool = False) -> JSONObject:
    column: JSONObject = {"name": name, "type": kind, "jsonPath": path, "description": description}
    return column | {"priority": 1} if wide else column


def _condition(kind: str, field: str) -> str:
    return f'.status.conditions[?(@.type=="{kind}")].{field}'


def _columns() -> list[JsonValue]:
    return [
        _column("Ready", _condition("Ready", "status"), "string", "Whether requests are answered."),
        _column("Endpoint", ".status.endpoint", "string", "Base URL for clients."),
        _column("Panel", ".status.panelSize", "integer", "Candidates of a full panel."),
        _column("Replicas", ".status.readyReplicas", "integer", "Router pods that answer requests."),
        _column("Strategy", ".spec.aggregator.strategy", "string", "How one answer comes of many.", wide=True),
        _column("Calls", ".status.callsPerRequest", "integer", "Upstream calls per fused request.", wide=True),
        _column("Accepted", _condition("Accepted", "reason"), "string", "What became of the spec.", wide=True),
        _column("Message", _condition("Ready", "message"), "string", "Why it is ready, or why not.", wide=True),
        _column("Age", ".metadata.creationTimestamp", "date", "Time since the profile was created."),
    ]


def custom_resource_definition() -> JSONObject:
    """Returns the CustomResourceDefinition as a manifest."""
    schema: JSONObject = {
        "type": "object",
        "description": _one_line(MoAProfile.__doc__ or ""),
        "required": ["metadata", "spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": _described(MoAProfile, "api_version")},
            "kind": {"type": "string", "description": _described(MoAProfile, "kind")},
            "metadata": {"type": "object"},
            "spec": structural(MoAProfileSpec),
            "status": structural(MoAProfileStatus),
        },
        **cel(_NAME_RULE),
    }
    version: JSONObject = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "subresources": {
            "status": {},
            "scale": {
                "specReplicasPath": ".spec.router.replicas",
                "statusReplicasPath": ".status.replicas",
                "labelSelectorPath": ".status.selector",
            },
        },
        "additionalPrinterColumns": _columns(),
        "schema": {"openAPIV3Schema": schema},
    }
    names: JSONObject = {
        "kind": KIND,
        "listKind": f"{KIND}List",
        "plural": PLURAL,
        "singular": KIND.lower(),
        "shortNames": ["moap"],
        "categories": ["moa"],
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {"group": GROUP, "scope": "Namespaced", "names": names, "versions": [version]},
    }


class _Dumper(yaml.SafeDumper):
    """Writes shared parts out each time: an anchor means nothing to who reads a CustomResourceDefinition."""

    def ignore_aliases(self, _data: object) -> bool:
        return True


# To a YAML 1.1 parser such as kubectl's a plain `n` is a boolean; this makes the dumper quote it.
_Dumper.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^[yYnN]$"), list("yYnN"))


def render() -> str:
    """Returns the CustomResourceDefinition as YAML; the same models give the same bytes."""
    return _HEADER + yaml.dump(
        custom_resource_definition(), Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True
    )


def drift(path: Path) -> str:
    """Returns the difference between a file and what the models say, empty where there is none."""
    written = path.read_text(encoding="utf-8") if path.exists() else ""
    lines = difflib.unified_diff(
        written.splitlines(keepends=True), render().splitlines(keepends=True), str(path), "the models"
    )
    return "".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m moa_api.schema", description="The CRD of MoAProfile, as YAML.")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--write", type=Path, metavar="FILE", help="write it to FILE")
    mode.add_argument("--check", type=Path, metavar="FILE", help="fail with a diff if FILE is out of date")
    options = parser.parse_args(arguments)
    if options.write:
        options.write.write_text(render(), encoding="utf-8")
        return 0
    output = drift(options.check) if options.check else render()
    sys.stdout.write(output)
    return 1 if options.check and output else 0


if __name__ == "__main__":
    sys.exit(main())
