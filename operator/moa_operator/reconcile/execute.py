"""Doing what was planned, one child after the other."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from moa_operator.keys import Key
from moa_operator.kube.client import Kube
from moa_operator.kube.errors import Refused
from moa_operator.kube.objects import Live
from moa_operator.metrics import Metrics
from moa_operator.reconcile.compare import digest, fingerprint
from moa_operator.reconcile.plan import Apply, Blocked, Keep, Prune, Step
from moa_operator.render.pod_template import merged
from moa_operator.resources import Resource

if TYPE_CHECKING:
    from moa_api.fields import JSONObject

_log = logging.getLogger(__name__)

HAND_OVER_MANAGER: Final = "moa-operator-replicas"
"""Holds a Deployment's replicas between the operator and an autoscaler, that they do not fall back to one meanwhile."""

Outcome = Literal["skipped", "created", "changed", "noop", "pruned", "blocked", "refused"]


@dataclass(frozen=True)
class Done:
    """What became of a child.

    Attributes:
        resource: Its kind.
        outcome: What was done.
        live: The child as it is now; None where there is none.
        refusal: What the API server said against it; None where it said nothing.
        blocked: What stands in its way; None where nothing does.
    """

    resource: Resource
    outcome: Outcome
    live: Live | None = None
    refusal: Refused | None = None
    blocked: Blocked | None = None


class Executor:
    """Does what was planned.

    An API server may store something else than it is sent (another spelling of the same quantity, say), so that a child
    never looks as its manifest wants it. That is noticed by an apply which changes nothing, and remembered, so that it
    is not tried again until either changes.

    Args:
        kube: The API server.
        metrics: Where outcomes are counted.
    """

    def __init__(self, kube: Kube, metrics: Metrics) -> None:
        self._kube = kube
        self._metrics = metrics
        self._settled: dict[Key, dict[Resource, tuple[str, str]]] = {}

    def forget(self, key: Key) -> None:
        """Drops what is remembered of a profile that is gone."""
        self._settled.pop(key, None)

    async def carry_out(self, key: Key, steps: Iterable[Step]) -> tuple[Done, ...]:
        """Takes every step; what an API server refuses for good does not keep the others from being taken.

        Args:
            key: Whose children they are.
            steps: What to do, in this order.

        Raises:
            KubeError: Something that may work a little later; steps after it were not taken.
        """
        done = []
        for step in steps:
            result = await self._take(key, step)
            self._metrics.applies.labels(step.resource.kind, result.outcome).inc()
            if result.outcome not in {"skipped", "noop"}:
                _log.log(
                    logging.WARNING if result.refusal else logging.INFO,
                    "child %s",
                    result.outcome,
                    extra=_facts(key, result),
                )
            done.append(result)
        return tuple(done)

    async def _take(self, key: Key, step: Step) -> Done:
        match step:
            case Keep():
                return Done(step.resource, "skipped", step.live)
            case Blocked():
                return Done(step.resource, "blocked", blocked=step)
            case Prune():
                await self._kube.delete(step.resource, step.live)
                return Done(step.resource, "pruned")
            case Apply():
                return await self._apply_unless_settled(key, step)

    async def _apply_unless_settled(self, key: Key, step: Apply) -> Done:
        settled = self._settled.setdefault(key, {})
        wanted = digest(step.manifest)
        if step.live is not None and settled.get(step.resource) == (wanted, fingerprint(step.live)):
            return Done(step.resource, "skipped", step.live)
        try:
            live = await self._apply(step)
        except Refused as refusal:
            if refusal.transient or refusal.conflict:
                raise
            return Done(step.resource, "refused", step.live, refusal)
        settled[step.resource] = (wanted, fingerprint(live))
        if step.live is None:
            return Done(step.resource, "created", live)
        is_same = step.live.meta.resource_version == live.meta.resource_version
        return Done(step.resource, "noop" if is_same else "changed", live)

    async def _apply(self, step: Apply) -> Live:
        if step.live is not None and step.restore is not None:
            await self._kube.patch(step.resource, step.live, step.restore)
        if step.hand_over is not None:
            await self._hand_over(step, step.hand_over)
        return await self._kube.apply(step.resource, step.manifest)

    async def _hand_over(self, step: Apply, replicas: int) -> None:
        spec: JSONObject = {"spec": {"replicas": replicas}}
        if step.live is None:
            await self._kube.apply(step.resource, merged(step.manifest, spec))
        envelope = {name: step.manifest[name] for name in ("apiVersion", "kind")}
        meta = Live(step.manifest).meta
        held: JSONObject = {**envelope, "metadata": {"name": meta.name, "namespace": meta.namespace}, **spec}
        await self._kube.apply(step.resource, held, manager=HAND_OVER_MANAGER)


def _facts(key: Key, done: Done) -> dict[str, str]:
    refusal = {"refusal": str(done.refusal)} if done.refusal is not None else {}
    return {"profile": str(key), "kind": done.resource.kind, **refusal}
