"""Two replicas: one writes, the other takes over, and never do both."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.api.table import SMALLEST, edited
from tests.operator.cluster.access import at, eventually
from tests.operator.cluster.processes import running
from tests.operator.cluster.proxy import proxied

from moa_operator.resources import DEPLOYMENTS, LEASES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.operator.cluster.access import Access
    from tests.operator.cluster.processes import Process
    from tests.operator.cluster.proxy import Call, Proxy

TAKE_OVER_SECONDS = 60.0
"""A lease is ten seconds; the rest is for slow machines."""


@dataclass(frozen=True)
class Replica:
    """An operator, and everything that passes between it and the API server."""

    process: Process
    proxy: Proxy

    async def leads(self) -> bool:
        """Whether it says so."""
        return await self.process.total("moa_operator_leader") == 1


@contextlib.asynccontextmanager
async def replica(access: Access, kubeconfig: Path, directory: Path, name: str) -> AsyncIterator[Replica]:
    arguments = (f"--namespace={access.namespace}", f"--lease-namespace={access.namespace}")
    async with proxied(kubeconfig) as proxy:
        config = proxy.kubeconfig(directory / f"{name}.kubeconfig")
        async with running(config, directory / f"{name}.log", *arguments) as process:
            yield Replica(process, proxy)


@contextlib.asynccontextmanager
async def two(access: Access, kubeconfig: Path, directory: Path) -> AsyncIterator[tuple[Replica, Replica]]:
    """The one that leads, and the one that stands by; a profile is served."""
    async with replica(access, kubeconfig, directory, "first") as first:
        await eventually(first.leads, bool)
        async with replica(access, kubeconfig, directory, "second") as second:
            await access.profile(SMALLEST)
            await access.until("research", Ready="True")
            assert not await second.leads()
            yield first, second


def writes(replicas: tuple[Replica, Replica]) -> list[tuple[str, Call]]:
    """Every write of both, and who did it."""
    named = zip(("first", "second"), replicas, strict=True)
    return [(name, call) for name, each in named for call in each.proxy.writes()]


def assert_no_double_writer(replicas: tuple[Replica, Replica]) -> None:
    """Whoever wrote had the Lease, from before the write was passed on until after it was answered."""
    taken = [
        (call.began, name)
        for name, each in zip(("first", "second"), replicas, strict=True)
        for call in each.proxy.calls
        if call.is_lease and call.method != "GET" and call.status in {200, 201} and call.holder
    ]
    firsts = [began for began, name in sorted(taken) if name == "second"]
    assert firsts, "nobody took over"
    for name, call in writes(replicas):
        if name == "first":
            assert call.began < firsts[0]
            assert call.ended is None or call.ended < firsts[0]
        else:
            assert call.began > firsts[0]


async def works(access: Access, image: str) -> float:
    """Changes the profile and waits until the router has followed; returns how long it took."""
    started = time.monotonic()
    await access.profile(edited(SMALLEST, {"spec.router": {"image": image}}))

    async def found() -> object:
        return at(await access.child(DEPLOYMENTS), "spec", "template", "spec", "containers", 0, "image")

    await eventually(found, lambda now: now == image, TAKE_OVER_SECONDS)
    return time.monotonic() - started


async def test_a_leader_that_is_killed_is_followed(access: Access, kubeconfig: Path, tmp_path: Path) -> None:
    async with two(access, kubeconfig, tmp_path) as replicas:
        await replicas[0].process.stop(signal.SIGKILL)
        print(f"taken over and done {await works(access, 'killed:1'):.1f} s after SIGKILL")
        assert_no_double_writer(replicas)


async def test_a_leader_that_is_told_to_stop_hands_over_at_once(
    access: Access, kubeconfig: Path, tmp_path: Path
) -> None:
    async with two(access, kubeconfig, tmp_path) as replicas:
        stopping = asyncio.create_task(replicas[0].process.stop())
        print(f"taken over and done {await works(access, 'stopped:1'):.1f} s after SIGTERM")
        assert await stopping == 0
        assert_no_double_writer(replicas)
        lease = await access.get(LEASES, "moa-operator")
        assert at(lease, "spec", "leaseTransitions") == 2


async def test_a_leader_that_is_cut_off_has_stopped_before_anybody_follows(
    access: Access, kubeconfig: Path, tmp_path: Path
) -> None:
    async with two(access, kubeconfig, tmp_path) as replicas:
        first, second = replicas
        first.proxy.flowing.clear()
        cut_off = works(access, "partition:1")
        await cut_off
        await asyncio.wait_for(first.process.process.wait(), TAKE_OVER_SECONDS)
        assert first.process.process.returncode == 1
        first.proxy.flowing.set()
        assert await second.leads()
        assert_no_double_writer(replicas)
