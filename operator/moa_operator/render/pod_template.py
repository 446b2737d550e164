"""Merging what a profile's author adds to the pods into what the operator gives them.

The rules are those of a strategic merge patch: objects are merged field by field, lists of named things entry by entry,
all other lists are replaced, and a null removes.
"""

from collections.abc import Mapping
from typing import Final

from pydantic import JsonValue

from moa_api.fields import JSONObject

_MERGE_KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "containers": ("name",),
    "initContainers": ("name",),
    "env": ("name",),
    "ports": ("containerPort", "protocol"),
    "volumes": ("name",),
    "volumeMounts": ("mountPath",),
    "volumeDevices": ("devicePath",),
    "imagePullSecrets": ("name",),
    "hostAliases": ("ip",),
    "topologySpreadConstraints": ("topologyKey", "whenUnsatisfiable"),
}
"""What tells the entries of a list in a PodSpec apart, by the list's field (``patchMergeKey`` in Kubernetes' API)."""

_DEFAULTS: Final[Mapping[str, JsonValue]] = {"protocol": "TCP"}


def merged(base: JSONObject, patch: Mapping[str, JsonValue]) -> JSONObject:
    """Returns `base` with `patch` merged into it; neither is changed."""
    result = dict(base)
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = _merged_value(name, result.get(name), value)
    return result


def _merged_value(name: str, base: JsonValue, patch: JsonValue) -> JsonValue:
    if isinstance(base, dict) and isinstance(patch, dict):
        return merged(base, patch)
    if isinstance(base, list) and isinstance(patch, list) and name in _MERGE_KEYS:
        return _merged_list(_MERGE_KEYS[name], base, patch)
    return merged({}, patch) if isinstance(patch, dict) else patch


def _merged_list(keys: tuple[str, ...], base: list[JsonValue], patch: list[JsonValue]) -> list[JsonValue]:
    result = list(base)
    places = {_identity(keys, entry): index for index, entry in enumerate(base)}
    for entry in patch:
        place = places.get(_identity(keys, entry))
        if place is None:
            result.append(entry)
        else:
            result[place] = _merged_value("", result[place], entry)
    return result


def _identity(keys: tuple[str, ...], entry: JsonValue) -> tuple[object, ...]:
    if not isinstance(entry, dict):
        return (repr(entry),)
    return tuple(repr(entry.get(key, _DEFAULTS.get(key))) for key in keys)
