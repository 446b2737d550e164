"""One reconcile: read the world, judge the spec, resolve what it refers to, render, apply, prune, report."""

import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final, Literal

from pydantic import JsonValue

from moa_api.fields import JSONObject
from moa_api.models import MoAProfile
from moa_operator.keys import Key
from moa_operator.kube.client import Kube
from moa_operator.kube.events import Occurrence, tell
from moa_operator.kube.objects import Live
from moa_operator.metrics import Metrics
from moa_operator.reconcile import conditions
from moa_operator.reconcile.accept import accept
from moa_operator.reconcile.conditions import Condition, Finding
from moa_operator.reconcile.execute import Done, Executor
from moa_operator.reconcile.ownership import Ownership, ownership
from moa_operator.reconcile.plan import plan
from moa_operator.reconcile.readiness import Readiness, readiness, trouble
from moa_operator.reconcile.resolve import Resolution, read_references, resolve
from moa_operator.reconcile.status import figures
from moa_operator.reconcile.world import World, read_world
from moa_operator.references import Reference, needs
from moa_operator.render.children import children
from moa_operator.render.labels import selector
from moa_operator.resources import CONFIG_MAPS, DEPLOYMENTS, PODS, PROFILES, Resource

Result = Literal["ok", "changed", "refused", "waiting", "gone"]

WAIT_SECONDS: Final = 2.0
"""Time after which to look again at a child of an earlier profile that is about to go."""

HELD_UP_SECONDS: Final = 30.0
"""Time after which to look again at what somebody has to put right: foreign objects, quotas, rights."""

_QUIET_AT_FIRST: Final = frozenset({"Degraded", "Paused"})


@dataclass(frozen=True)
class Report:
    """What came of a reconcile.

    Attributes:
        result: What it came to, for metrics.
        again: Seconds after which to look again; None to leave it at that.
        references: What the profile refers to, each with the version that was seen; empty for a missing one.
    """

    result: Result
    again: float | None
    references: Mapping[Reference, str]


@dataclass(frozen=True)
class Settings:
    """What every profile has in common.

    Attributes:
        router_image: The router's image where a profile names none.
        instance: Name of this replica, for events.
    """

    router_image: str
    instance: str


class Reconciler:
    """Makes the world what profiles say.

    Args:
        kube: The API server.
        metrics: Where results are counted.
        settings: What every profile has in common.
        kinds: Returns the kinds of children that the API server has.
    """

    def __init__(
        self, kube: Kube, metrics: Metrics, settings: Settings, kinds: Callable[[], Iterable[Resource]]
    ) -> None:
        self._kube = kube
        self._metrics = metrics
        self._settings = settings
        self._kinds = kinds
        self._executor = Executor(kube, metrics)

    async def reconcile(self, key: Key) -> Report:
        """Makes the world what one profile says, and reports how it is.

        Raises:
            KubeError: The API server cannot be asked now; whatever was not done is done next time.
        """
        started = time.perf_counter()
        result = "error"
        try:
            report = await self._reconcile(key)
            result = report.result
            return report
        finally:
            self._metrics.reconciles.labels(result).inc()
            self._metrics.reconcile_seconds.observe(time.perf_counter() - started)

    async def _reconcile(self, key: Key) -> Report:
        written = await self._kube.get(PROFILES, key.namespace, key.name)
        if written is None or written.meta.deletion_timestamp is not None:
            # Children have an owner reference: the garbage collector sees to them, with us or without.
            self._executor.forget(key)
            self._metrics.profile_is(key, {})
            return Report("gone", None, {})
        world = await read_world(self._kube, key, self._kinds())
        judged = accept(written, world.get(CONFIG_MAPS))
        generation = written.meta.generation
        findings = [conditions.accepted(judged.problems, generation)]
        if judged.profile is None:
            findings.append(conditions.never_accepted(generation))
            changed = await self._publish(key, written, findings, {})
            return Report("changed" if changed else "refused", None, {})
        return await self._reconcile_accepted(key, written, judged.profile, world, findings)

    async def _reconcile_accepted(
        self, key: Key, written: Live, profile: MoAProfile, world: World, findings: list[Finding]
    ) -> Report:
        named = needs(profile)
        resolution = resolve(named, await read_references(self._kube, named))
        done: tuple[Done, ...] = ()
        if _is_paused(written, profile):
            findings += _still_programmed(written, profile)
        else:
            wanted = children(profile, resolution.digest, self._settings.router_image)
            done = await self._executor.carry_out(key, plan(profile.metadata, wanted, world))
            left_out = [resource for resource in wanted if resource not in world]
            findings.append(conditions.programmed(done, left_out, profile.metadata.generation or 0))
        state = await self._readiness(profile, done, world)
        findings += _state_findings(written, profile, resolution, state)
        changed = await self._publish(key, written, findings, figures(profile, state, resolution))
        return Report(_result(done, changed=changed), _again(done), resolution.versions)

    async def _readiness(self, profile: MoAProfile, done: tuple[Done, ...], world: World) -> Readiness:
        applied = {each.resource: each.live for each in done}
        deployment = applied.get(DEPLOYMENTS) or world.get(DEPLOYMENTS)
        if deployment is not None and ownership(deployment, profile.metadata) is not Ownership.OURS:
            deployment = None
        state = readiness(deployment)
        if state.desired is None or state.complete:
            return state
        # Only pods know why they are not ready; there is no need to ask them when they are.
        labels = ",".join(f"{name}={value}" for name, value in selector(profile.metadata.name).items())
        pods = [pod async for pod in self._kube.list_all(PODS, profile.metadata.namespace, labels)]
        return replace(state, trouble=trouble(pods))

    async def _publish(self, key: Key, written: Live, findings: Iterable[Finding], more: JSONObject) -> bool:
        """Reports what was found, if it is news; then tells of what has turned."""
        former = conditions.reported(written)
        current = conditions.merged(former, findings, datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
        known = written.raw.get("status")
        kept = {name: value for name, value in known.items() if name not in more} if isinstance(known, dict) else {}
        status: JSONObject = {
            **kept,
            **more,
            "observedGeneration": written.meta.generation,
            "conditions": [*conditions.written(current)],
        }
        self._metrics.profile_is(key, {condition.type: condition.status for condition in current})
        if _normal(status) == _normal(known):
            return False
        await self._kube.apply(PROFILES, _status_manifest(written, status), subresource="status")
        for occurrence in _turned(former, current):
            await tell(self._kube, written, occurrence, self._settings.instance)
        return True


def _is_paused(written: Live, profile: MoAProfile) -> bool:
    """Whether to leave children alone: also where the spec that says so is not valid as a whole."""
    spec = written.raw.get("spec")
    return profile.spec.paused or (isinstance(spec, dict) and spec.get("paused") is True)


def _still_programmed(written: Live, profile: MoAProfile) -> list[Finding]:
    """While paused, what was applied last still holds, if anything was."""
    if "Programmed" in conditions.reported(written):
        return []
    return [conditions.not_programmed_yet(profile.metadata.generation or 0)]


def _state_findings(written: Live, profile: MoAProfile, resolution: Resolution, state: Readiness) -> list[Finding]:
    generation = profile.metadata.generation or 0
    return [
        conditions.resolved(resolution, generation),
        conditions.ready(state, generation),
        conditions.degraded(state, resolution, generation),
        conditions.paused(_is_paused(written, profile), generation),
    ]


def _normal(status: JsonValue) -> JsonValue:
    """Puts a status' lists in order: they are keyed, and an API server that merges keeps the order they had."""
    if not isinstance(status, dict):
        return status
    return {
        name: sorted(value, key=lambda entry: json.dumps(entry, sort_keys=True)) if isinstance(value, list) else value
        for name, value in status.items()
    }


def _status_manifest(written: Live, status: JSONObject) -> JSONObject:
    return {
        "apiVersion": PROFILES.api_version,
        "kind": PROFILES.kind,
        "metadata": {"name": written.meta.name, "namespace": written.meta.namespace},
        "status": status,
    }


def _turned(former: Mapping[str, Condition], current: Iterable[Condition]) -> list[Occurrence]:
    return [
        Occurrence(
            action=condition.type,
            reason=condition.reason,
            note=f"{condition.type} is {condition.status}: {condition.message}",
            is_warning=_is_bad(condition),
            identity=f"{condition.type}/{condition.status}/{condition.last_transition_time}",
        )
        for condition in current
        if _is_turn(former.get(condition.type), condition)
    ]


def _is_bad(condition: Condition) -> bool:
    if condition.type == "Degraded":
        return condition.status == "True"
    return condition.status == "False" and condition.type != "Paused" and condition.reason != "Starting"


def _is_turn(former: Condition | None, current: Condition) -> bool:
    if former is None:
        return not (current.type in _QUIET_AT_FIRST and current.status == "False")
    return former.status != current.status


def _result(done: Iterable[Done], *, changed: bool) -> Result:
    outcomes = {each.outcome for each in done}
    if "refused" in outcomes:
        return "refused"
    if "blocked" in outcomes:
        return "waiting"
    return "changed" if changed or outcomes - {"skipped", "noop"} else "ok"


def _again(done: Iterable[Done]) -> float | None:
    """When to look again, for what no watch will tell of."""
    blocked = [each.blocked.ownership for each in done if each.blocked is not None]
    if any(whose is not Ownership.FOREIGN for whose in blocked):
        return WAIT_SECONDS
    return HELD_UP_SECONDS if blocked or any(each.refusal for each in done) else None
