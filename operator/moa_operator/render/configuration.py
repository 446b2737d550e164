"""What the router reads: the profile without what only the operator needs, and its checksum."""

import hashlib
import json
from functools import lru_cache
from typing import Final, cast

import yaml

from moa_api.fields import JSONObject
from moa_api.models import MoAProfile
from moa_operator.render.labels import GENERATION, manifest
from moa_operator.resources import CONFIG_MAPS

PROFILE_FILE: Final = "profile.yaml"
"""Entry of the ConfigMap that the router reads."""

ACCEPTED_FILE: Final = "accepted.json"
"""Entry of the ConfigMap with the whole profile as it was accepted last; the operator falls back on it."""


def config_map(profile: MoAProfile) -> JSONObject:
    """Returns the ConfigMap that holds the profile."""
    data: JSONObject = {
        PROFILE_FILE: _as_yaml(json.dumps(router_profile(profile))),
        ACCEPTED_FILE: json.dumps(_written(profile), separators=(",", ":"), sort_keys=True),
    }
    annotations = {GENERATION: str(profile.metadata.generation or 0)}
    return manifest(CONFIG_MAPS, profile, {"data": data}, annotations=annotations)


def router_profile(profile: MoAProfile) -> JSONObject:
    """Returns the part of a profile that the router needs, as a profile one could apply.

    Fields that have their default are left out: a newer operator that knows more of them writes the same text, and
    pods that need not change do not roll.
    """
    document = _written(profile)
    spec = cast("JSONObject", document["spec"])
    drain = cast("JSONObject", spec.pop("router", {})).get("drain")
    telemetry = cast("JSONObject", spec.get("telemetry", {}))
    telemetry.pop("serviceMonitor", None)
    spec.pop("paused", None)
    if drain:
        spec["router"] = {"drain": drain}
    if not telemetry:
        spec.pop("telemetry", None)
    return document


def checksum(profile: MoAProfile, references: str) -> str:
    """Returns what changes exactly when running pods would read something else.

    Args:
        profile: The profile.
        references: Digest of the Secrets and ConfigMaps it refers to.
    """
    text = json.dumps([router_profile(profile), references], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@lru_cache(maxsize=4096)
def _as_yaml(document: str) -> str:
    """Writes a JSON document as YAML; remembered, for it takes milliseconds and every look at a profile wants it."""
    return yaml.safe_dump(json.loads(document), sort_keys=False, allow_unicode=True, width=120)


def _written(profile: MoAProfile) -> JSONObject:
    """Writes a profile as its author might have: without defaults, and without what belongs to the API server."""
    document = cast("JSONObject", profile.model_dump(by_alias=True, mode="json", exclude_defaults=True))
    metadata: JSONObject = {"name": profile.metadata.name, "namespace": profile.metadata.namespace}
    return {**document, "metadata": metadata}
