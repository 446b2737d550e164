"""Leadership, with a Lease in memory that a test can take away, hold up and break."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from moa_operator.kube.errors import Unreachable
from moa_operator.kube.leases import Lease, LeaseSpec
from moa_operator.kube.objects import Meta
from moa_operator.leader import Elector, LeadershipLost, Timing
from moa_operator.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Callable

DEADLINE = 20.0
TIMING = Timing(duration=4, renew_deadline=0.6, retry=0.02)


class Store:
    """A Lease."""

    def __init__(self) -> None:
        self.lease: Lease | None = None
        self.version = 0
        self.writes: list[str] = []
        self.broken = False
        self.reachable = asyncio.Event()
        self.reachable.set()

    async def read(self) -> Lease | None:
        await self._reach()
        return self.lease

    async def write(self, former: Lease | None, holder: str, seconds: int) -> Lease | None:
        await self._reach()
        if (former and former.metadata.resource_version) != (self.lease and self.lease.metadata.resource_version):
            return None
        self.put(holder, seconds)
        return self.lease

    def put(self, holder: str, seconds: int = 4) -> None:
        self.version += 1
        self.writes.append(holder)
        spec = LeaseSpec(holder_identity=holder, lease_duration_seconds=seconds)
        self.lease = Lease(metadata=Meta(name="l", resource_version=str(self.version)), spec=spec)

    async def _reach(self) -> None:
        await self.reachable.wait()
        if self.broken:
            raise Unreachable("no network")


class Replica:
    """An operator that does nothing but lead."""

    def __init__(self, store: Store, name: str) -> None:
        self.metrics = Metrics()
        self.working = asyncio.Event()
        self.stopped = asyncio.Event()
        self.elector = Elector(store, name, self.metrics, TIMING)
        self.task = asyncio.create_task(self.elector.run(self._work))

    async def _work(self) -> None:
        self.working.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.working.clear()
            self.stopped.set()

    async def end(self) -> None:
        self.task.cancel()
        with suppress(asyncio.CancelledError, LeadershipLost):
            await self.task


async def soon(check: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not check():  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(0.005)


async def test_the_first_leads_and_the_second_stands_by() -> None:
    store = Store()
    first = Replica(store, "first")
    await soon(first.working.is_set)
    second = Replica(store, "second")
    await soon(lambda: len(store.writes) > 5)
    assert set(store.writes) == {"first"}
    assert not second.working.is_set()
    assert first.metrics.registry.get_sample_value("moa_operator_leader") == 1
    assert second.metrics.registry.get_sample_value("moa_operator_leader") == 0
    await second.end()
    await first.end()


async def test_who_is_told_to_stop_stops_working_then_gives_up_the_lease() -> None:
    store = Store()
    first = Replica(store, "first")
    await soon(first.working.is_set)
    second = Replica(store, "second")
    await first.end()
    assert first.stopped.is_set()
    assert store.writes.count("") == 1
    await soon(second.working.is_set)
    assert first.metrics.registry.get_sample_value("moa_operator_leader") == 0
    await second.end()


async def test_who_died_is_followed_when_the_lease_has_run_out_and_not_before() -> None:
    store = Store()
    store.put("dead", seconds=1)
    replica = Replica(store, "next")
    started = asyncio.get_running_loop().time()
    await soon(replica.working.is_set)
    assert asyncio.get_running_loop().time() - started > 1.0
    await replica.end()


async def test_a_lease_that_is_renewed_is_not_taken_however_old_it_looks() -> None:
    """Only what a replica has seen itself counts: clocks differ."""
    store = Store()
    store.put("other", seconds=1)
    replica = Replica(store, "next")
    for _ in range(15):
        await asyncio.sleep(0.1)
        store.put("other", seconds=1)
    assert not replica.working.is_set()
    await replica.end()


async def test_who_cannot_renew_stops_working_in_time() -> None:
    store = Store()
    replica = Replica(store, "first")
    await soon(replica.working.is_set)
    store.broken = True
    with pytest.raises(LeadershipLost):
        await asyncio.wait_for(replica.task, DEADLINE)
    assert replica.stopped.is_set()


async def test_a_renewal_that_hangs_does_not_keep_the_work_going() -> None:
    store = Store()
    replica = Replica(store, "first")
    await soon(replica.working.is_set)
    store.reachable.clear()
    await asyncio.wait_for(replica.stopped.wait(), DEADLINE)
    assert not replica.task.done()
    store.reachable.set()
    with pytest.raises(LeadershipLost):
        await asyncio.wait_for(replica.task, DEADLINE)
    assert store.lease is not None
    assert store.lease.spec.holder_identity == ""


async def test_who_sees_somebody_else_lead_stops_at_once_and_leaves_the_lease_alone() -> None:
    store = Store()
    replica = Replica(store, "first")
    await soon(replica.working.is_set)
    store.put("usurper")
    with pytest.raises(LeadershipLost, match="usurper"):
        await asyncio.wait_for(replica.task, DEADLINE)
    assert replica.stopped.is_set()
    assert store.writes[-1] == "usurper"


async def test_a_renewal_whose_answer_was_lost_is_recognized() -> None:
    store = Store()
    replica = Replica(store, "first")
    await soon(replica.working.is_set)
    store.put("first")
    written = len(store.writes)
    await soon(lambda: len(store.writes) > written + 2)
    assert replica.working.is_set()
    await replica.end()


async def test_an_outage_before_anybody_leads_is_waited_out() -> None:
    store = Store()
    store.broken = True
    replica = Replica(store, "first")
    await asyncio.sleep(TIMING.retry * 5)
    store.broken = False
    await soon(replica.working.is_set)
    await replica.end()


async def test_work_that_fails_ends_leadership_and_is_heard() -> None:
    store = Store()

    async def fail() -> None:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        await Elector(store, "first", Metrics(), TIMING).run(fail)
    assert store.writes[-1] == ""


def test_a_lease_that_ends_before_the_last_write_may_is_refused() -> None:
    with pytest.raises(ValueError, match="longer duration"):
        Timing(duration=8, renew_deadline=6.0)
