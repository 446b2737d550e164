"""What children are called, whose they are, and how they are found again."""

from typing import Final

from moa_api.fields import JSONObject
from moa_api.models import API_VERSION, KIND, MoAProfile
from moa_operator.resources import Resource

PROFILE: Final = "moa-operator.io/profile"
"""Label: name of the profile that an object belongs to."""

PROFILE_UID: Final = "moa-operator.io/profile-uid"
"""Label: identity of that profile. Who carries it is ours; who does not is somebody else's."""

CONFIG_CHECKSUM: Final = "moa-operator.io/config-checksum"
"""Annotation of pods: changes with everything that the router reads when it starts."""

GENERATION: Final = "moa-operator.io/generation"
"""Annotation of the ConfigMap: generation of the spec that was accepted last."""

_NAME: Final = "app.kubernetes.io/name"
_APPLICATION: Final = "moa-router"


def child_name(profile: str) -> str:
    """Returns the name of a profile's children."""
    return f"{profile}-moa"


def profile_name(child: str) -> str:
    """Returns the name of the profile whose child would be called so."""
    return child.removesuffix("-moa")


def selector(profile: str) -> dict[str, str]:
    """Returns the labels that tell a profile's router pods from all others. They can never change."""
    return {_NAME: _APPLICATION, PROFILE: profile}


def pod_labels(profile: str) -> dict[str, str]:
    """Returns the labels of a profile's router pods; whatever is added here replaces all pods of a cluster."""
    return {
        **selector(profile),
        "app.kubernetes.io/instance": profile,
        "app.kubernetes.io/component": "router",
        "app.kubernetes.io/part-of": "moa",
    }


def labels(profile: MoAProfile) -> dict[str, str]:
    """Returns the labels of a profile's children."""
    return {
        **pod_labels(profile.metadata.name),
        "app.kubernetes.io/managed-by": "moa-operator",
        PROFILE_UID: profile.metadata.uid or "",
    }


def manifest(
    resource: Resource,
    profile: MoAProfile,
    content: JSONObject,
    *,
    annotations: dict[str, str] | None = None,
    more_labels: dict[str, str] | None = None,
) -> JSONObject:
    """Returns the manifest of a child.

    Args:
        resource: Its kind.
        profile: Whose it is.
        content: Everything but the envelope.
        annotations: Its annotations.
        more_labels: Labels besides those of all children, which win.
    """
    metadata: JSONObject = {
        "name": child_name(profile.metadata.name),
        "namespace": profile.metadata.namespace,
        "labels": {**(more_labels or {}), **labels(profile)},
        "ownerReferences": [
            {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "name": profile.metadata.name,
                "uid": profile.metadata.uid or "",
                "controller": True,
                # Blocking would need the right to change finalizers, for nothing: children go in the background.
                "blockOwnerDeletion": False,
            }
        ],
    }
    if annotations:
        metadata["annotations"] = {**annotations}
    return {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": metadata, **content}
