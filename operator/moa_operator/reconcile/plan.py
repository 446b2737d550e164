"""What to do to each child: decided from what there is and what is wanted, without doing it. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from pydantic import JsonValue

from moa_api.fields import JSONObject
from moa_api.models import Metadata
from moa_operator.kube.objects import Live
from moa_operator.reconcile.compare import in_step
from moa_operator.reconcile.ownership import Ownership, may_prune, ownership
from moa_operator.resources import AUTOSCALERS, DEPLOYMENTS, SERVICES, Resource


@dataclass(frozen=True)
class Keep:
    """It is as it should be."""

    resource: Resource
    live: Live


@dataclass(frozen=True)
class Apply:
    """Apply its manifest.

    Attributes:
        resource: Its kind.
        manifest: What it should be.
        live: What it is; None where there is none.
        restore: A patch to merge first, where applying cannot undo what somebody did; None where it can.
        hand_over: Replicas to leave to the autoscaler to decide from; None where it has them, or there is none.
    """

    resource: Resource
    manifest: JSONObject
    live: Live | None
    restore: JSONObject | None = None
    hand_over: int | None = None


@dataclass(frozen=True)
class Prune:
    """It is no longer wanted."""

    resource: Resource
    live: Live


@dataclass(frozen=True)
class Blocked:
    """Something stands in its way.

    Attributes:
        resource: Its kind.
        live: What is there instead.
        ownership: Whose that is.
    """

    resource: Resource
    live: Live
    ownership: Ownership


Step: TypeAlias = Keep | Apply | Prune | Blocked


def plan(
    profile: Metadata, wanted: Mapping[Resource, JSONObject], world: Mapping[Resource, Live | None]
) -> tuple[Step, ...]:
    """Decides about every child.

    Args:
        profile: Whose children they are.
        wanted: Manifests of those that should be, in the order to apply them.
        world: What there is under their names, for every kind that the API server has; others are passed over.
    """
    first = _first_replicas(wanted)
    made: list[Step] = [
        _step(profile, resource, manifest, world[resource], first if resource is DEPLOYMENTS else None)
        for resource, manifest in wanted.items()
        if resource in world
    ]
    pruned: list[Step] = [
        Prune(resource, live)
        for resource, live in world.items()
        if resource not in wanted and live is not None and may_prune(live, profile)
    ]
    return (*made, *pruned)


def _step(profile: Metadata, resource: Resource, manifest: JSONObject, live: Live | None, replicas: int | None) -> Step:
    if live is None:
        return Apply(resource, manifest, None, hand_over=replicas)
    whose = ownership(live, profile)
    if whose is not Ownership.OURS:
        return Blocked(resource, live, whose)
    restore = _restoration(resource, manifest, live)
    if restore is None and in_step(live, manifest):
        return Keep(resource, live)
    return Apply(resource, manifest, live, restore, None if replicas is None else _held_replicas(live))


def _first_replicas(wanted: Mapping[Resource, JSONObject]) -> int | None:
    """The pods to begin with where an autoscaler decides how many there are; None where there is none."""
    autoscaler = wanted.get(AUTOSCALERS)
    least = _at(autoscaler, "spec", "minReplicas") if autoscaler is not None else None
    return least if isinstance(least, int) else None


def _held_replicas(live: Live) -> int | None:
    """The replicas of a Deployment, if they would fall back to one when the operator no longer said how many."""
    spec = live.applied_fields.get("f:spec")
    if not isinstance(spec, dict) or "f:replicas" not in spec:
        return None
    replicas = _at(live.raw, "spec", "replicas")
    return replicas if isinstance(replicas, int) else None


def _restoration(resource: Resource, manifest: JSONObject, live: Live) -> JSONObject | None:
    """The patch that takes out entries of lists which somebody put in our entries' place.

    What tells entries of a keyed list apart cannot be undone by applying: ours would come to stand beside theirs.
    """
    path = _KEYED.get(resource)
    if path is None:
        return None
    wanted = _at(manifest, *path)
    if _entries(_at(live.raw, *path)) <= _entries(wanted):
        return None
    patch: JsonValue = wanted
    for name in reversed(path):
        patch = {name: patch}
    return patch if isinstance(patch, dict) else None


_KEYED: Final[Mapping[Resource, tuple[str, ...]]] = {
    SERVICES: ("spec", "ports"),
    DEPLOYMENTS: ("spec", "template", "spec", "containers"),
}
"""Lists in which every entry is ours."""


def _entries(value: JsonValue) -> set[tuple[JsonValue, ...]]:
    """What tells apart the ports of a Service, or the containers of a pod and their ports."""
    entries = [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []
    keys: set[tuple[JsonValue, ...]] = set()
    for entry in entries:
        name = entry.get("name")
        keys.add((name, entry.get("port"), entry.get("protocol")))
        for port in _ports(entry):
            keys.add((name, port.get("containerPort"), port.get("protocol", "TCP")))
    return keys


def _ports(container: JSONObject) -> list[JSONObject]:
    ports = container.get("ports")
    return [port for port in ports if isinstance(port, dict)] if isinstance(ports, list) else []


def _at(value: JsonValue, *path: str) -> JsonValue:
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value
