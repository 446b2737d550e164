"""An operator that dies between any two writes, before or after either: who comes next finishes the work."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from kubernetes.aio import client
from tests.api.table import SMALLEST, edited
from tests.operator.cluster.access import at
from tests.operator.cluster.proxy import Cut, proxied
from tests.operator.documents import EVERYTHING

from moa_operator.keys import Key
from moa_operator.kube.client import Kube
from moa_operator.kube.errors import KubeError
from moa_operator.metrics import Metrics
from moa_operator.reconcile.reconciler import Reconciler, Settings
from moa_operator.resources import BUILT_IN_CHILDREN, DEPLOYMENTS, PROFILES, SERVICES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
    from pathlib import Path

    from aiohttp import web
    from tests.operator.cluster.access import Access
    from tests.operator.cluster.proxy import Call, Proxy

AUTOSCALED = edited(SMALLEST, {"spec.router": {"autoscaling": {"minReplicas": 3, "maxReplicas": 9}}})
FULL = edited(
    SMALLEST, {"spec.router.networkPolicy": {"enabled": True}, "spec.telemetry": EVERYTHING["spec.telemetry"]}
)
MOST_WRITES = 40


@dataclass
class Death:
    """The end of an operator at its n-th write.

    Attributes:
        at_write: Which write it is, counted from one.
        after: Whether the API server has done it.
    """

    at_write: int
    after: bool
    writes: int = 0
    died: bool = False

    async def before_write(self, call: Call) -> web.Response | None:
        """A rule of the proxy."""
        if call.is_write:
            self.writes += 1
            self._die_if(call, after=False)
        return None

    def after_write(self, call: Call) -> None:
        """Told by the proxy."""
        if call.is_write:
            self._die_if(call, after=True)

    def _die_if(self, call: Call, *, after: bool) -> None:
        if self.died or (self.after is after and self.writes == self.at_write):
            self.died = True
            raise Cut(call.path)


@contextlib.asynccontextmanager
async def lives(proxy: Proxy) -> AsyncIterator[Callable[[], Reconciler]]:
    """Makes operators of which none knows what the ones before did."""
    async with client.ApiClient(client.Configuration(host=proxy.url)) as api:

        def born() -> Reconciler:
            metrics = Metrics()
            return Reconciler(Kube(api, metrics), metrics, Settings("i:1", "test"), lambda: BUILT_IN_CHILDREN)

        yield born


async def created(access: Access) -> None:
    await access.profile(FULL)


async def switched_to_an_autoscaler(access: Access, born: Callable[[], Reconciler]) -> None:
    await access.profile(edited(SMALLEST, {"spec.router": {"replicas": 5, "networkPolicy": {"enabled": True}}}))
    await born().reconcile(Key(access.namespace, "research"))
    await access.profile(AUTOSCALED)


async def damaged(access: Access, born: Callable[[], Reconciler]) -> None:
    await access.profile(SMALLEST)
    await born().reconcile(Key(access.namespace, "research"))
    await access.edit(SERVICES, "research-moa", [{"op": "replace", "path": "/spec/ports/0/port", "value": 81}])
    await access.edit(DEPLOYMENTS, "research-moa", {"metadata": {"labels": None, "ownerReferences": None}})
    await access.edit(PROFILES, "research", {"spec": {"router": {"image": "new:2"}}})


SITUATIONS: Mapping[str, Callable[[Access, Callable[[], Reconciler]], Awaitable[None]]] = {
    "created": lambda access, _: created(access),
    "autoscaler": switched_to_an_autoscaler,
    "damaged": damaged,
}


async def desired(access: Access) -> dict[str, object]:
    """What there is, but for what every incarnation has of its own."""
    found: dict[str, object] = {}
    for resource in BUILT_IN_CHILDREN:
        child = await access.get(resource, "research-moa")
        if child is not None:
            spec = {name: each for name, each in _object(child.get("spec")).items() if not name.startswith("cluster")}
            found[resource.kind] = (spec, bool(at(child, "metadata", "ownerReferences")), _object(child.get("data")))
    return found


def _object(value: object) -> dict[str, object]:
    return dict(value) if isinstance(value, dict) else {}


@pytest.mark.parametrize("after", [False, True], ids=["before it", "after it"])
@pytest.mark.parametrize("situation", SITUATIONS)
async def test_whenever_it_dies_the_next_one_finishes(
    access: Access, kubeconfig: Path, situation: str, after: bool
) -> None:
    key = Key(access.namespace, "research")
    async with proxied(kubeconfig) as proxy, lives(proxy) as born:
        await SITUATIONS[situation](access, born)
        await born().reconcile(key)
        undisturbed = await desired(access)
        for at_write in range(1, MOST_WRITES):
            await _away(access)
            await SITUATIONS[situation](access, born)
            death = Death(at_write, after)
            proxy.rules.append(death.before_write)
            proxy.after.append(death.after_write)
            with contextlib.suppress(KubeError):
                await born().reconcile(key)
            proxy.rules.clear()
            proxy.after.clear()
            await born().reconcile(key)
            assert await desired(access) == undisturbed, f"died at write {at_write}"
            proxy.calls.clear()
            await born().reconcile(key)
            assert [call.path for call in proxy.writes() if call.path.endswith("-moa")] == [], at_write
            if not death.died:
                break
        assert 3 < at_write < MOST_WRITES - 1


async def _away(access: Access) -> None:
    """The profile and its children, without waiting for the garbage collector."""
    await access.delete(PROFILES, "research")
    for resource in BUILT_IN_CHILDREN:
        if await access.get(resource, "research-moa") is not None:
            with contextlib.suppress(Exception):
                await access.delete(resource, "research-moa")
