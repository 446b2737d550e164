"""Whether an object is as its manifest wants it, so that nothing is written where nothing differs.

Server-side apply would find out by itself, but by a write. What it compares is there to be read: the values, and in
``managedFields`` who wants which of them. An object is in step when the operator owns exactly the fields of its
manifest, and each has the manifest's value. Fields that others own and the manifest does not mention are theirs.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Final

from pydantic import JsonValue

from moa_api.fields import JSONObject
from moa_operator.kube.objects import Live

_ENVELOPE: Final = frozenset({"apiVersion", "kind"})
_IDENTITY: Final = frozenset({"name", "namespace"})

Owned = Mapping[str, object]
"""Fields as ``fieldsV1`` writes them: ``f:name`` for a field, ``k:{…}`` for an entry of a keyed list, ``v:…`` for one
of a set, and ``.`` for the thing itself; an empty object for a value that is owned as a whole."""


def in_step(live: Live, manifest: JSONObject) -> bool:
    """Whether applying a manifest would change nothing.

    Args:
        live: The object as it is.
        manifest: What it should be.
    """
    wanted: JSONObject = {key: value for key, value in manifest.items() if key not in _ENVELOPE}
    metadata = wanted.get("metadata")
    if isinstance(metadata, dict):
        wanted["metadata"] = {key: value for key, value in metadata.items() if key not in _IDENTITY}
    return bool(live.applied_fields) and _same(wanted, live.raw, live.applied_fields)


def digest(value: JsonValue) -> str:
    """Returns a fingerprint of a JSON value, whatever the order of its fields."""
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=16).hexdigest()


def fingerprint(live: Live) -> str:
    """Returns what changes when anything of an object changes that an apply could have to do with."""
    metadata = live.raw.get("metadata")
    kept = dict(metadata) if isinstance(metadata, dict) else {}
    for name in ("resourceVersion", "managedFields", "generation"):
        kept.pop(name, None)
    rest: JSONObject = {key: value for key, value in live.raw.items() if key not in {"status", "metadata"}}
    return digest({**rest, "metadata": kept})


def _same(wanted: JsonValue, live: JsonValue, owned: Owned) -> bool:
    if not (owned.keys() - {"."}):
        return covers(live, wanted)
    if isinstance(wanted, dict) and isinstance(live, dict):
        return _same_fields(wanted, live, owned)
    if isinstance(wanted, list) and isinstance(live, list):
        return _same_entries(wanted, live, owned)
    return False


def _same_fields(wanted: JSONObject, live: JSONObject, owned: Owned) -> bool:
    if {f"f:{name}" for name in wanted} != owned.keys() - {"."}:
        return False
    return all(_same(value, live.get(name), _owned(owned, f"f:{name}")) for name, value in wanted.items())


def _same_entries(wanted: list[JsonValue], live: list[JsonValue], owned: Owned) -> bool:
    entries = {key: owned[key] for key in owned if key != "."}
    if len(entries) != len(wanted):
        return False
    return all(_has_entry(wanted, live, key, _owned(owned, key)) for key in entries)


def _has_entry(wanted: list[JsonValue], live: list[JsonValue], key: str, owned: Owned) -> bool:
    sort, _, text = key.partition(":")
    identity = json.loads(text)
    if sort == "v":
        return identity in wanted and identity in live
    one, other = _entry(wanted, identity), _entry(live, identity)
    return one is not None and other is not None and _same(one, other, owned)


def _entry(entries: list[JsonValue], identity: Mapping[str, JsonValue]) -> JSONObject | None:
    for entry in entries:
        if isinstance(entry, dict) and all(entry.get(name) == value for name, value in identity.items()):
            return entry
    return None


def _owned(owned: Owned, name: str) -> Owned:
    inner = owned.get(name)
    return inner if isinstance(inner, dict) else {}


def covers(live: JsonValue, wanted: JsonValue) -> bool:
    """Whether a value has everything that is wanted; it may have more fields, which a server has filled in."""
    if isinstance(wanted, dict):
        return isinstance(live, dict) and all(
            name in live and covers(live[name], each) for name, each in wanted.items()
        )
    if isinstance(wanted, list):
        return (
            isinstance(live, list)
            and len(live) == len(wanted)
            and all(covers(*pair) for pair in zip(live, wanted, strict=True))
        )
    return live == wanted and isinstance(live, bool) == isinstance(wanted, bool)
