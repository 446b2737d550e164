"""The queue's promises: once at most, one worker at a time, later after a failure."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moa_operator.backoff import Backoff
from moa_operator.metrics import Metrics
from moa_operator.workqueue import WorkQueue

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

DEADLINE = 10.0
AT_ONCE = Backoff(base=0.001, cap=0.002)


class Workplace:
    """A queue with workers whose work a test holds up and lets go on."""

    def __init__(self, backoff: Backoff = AT_ONCE) -> None:
        self.metrics = Metrics()
        self.queue: WorkQueue[str] = WorkQueue(self.metrics, backoff)
        self.gate = asyncio.Event()
        self.gate.set()
        self.done: list[str] = []
        self.at_work: set[str] = set()
        self.reports: list[tuple[str, str]] = []
        self.failing: set[str] = set()
        self.again: dict[str, float] = {}
        self.progress = asyncio.Condition()

    async def do(self, key: str) -> float | None:
        assert key not in self.at_work
        self.at_work.add(key)
        await self._tell()
        try:
            await self.gate.wait()
            if key in self.failing:
                raise RuntimeError(f"{key} fails")
        finally:
            self.at_work.discard(key)
            self.done.append(key)
            await self._tell()
        return self.again.pop(key, None)

    def report(self, key: str, error: Exception) -> None:
        self.reports.append((key, str(error)))

    async def until(self, *, done: int = 0, at_work: int = 0) -> None:
        async with asyncio.timeout(DEADLINE), self.progress:
            await self.progress.wait_for(lambda: len(self.done) >= done and len(self.at_work) >= at_work)

    async def _tell(self) -> None:
        async with self.progress:
            self.progress.notify_all()

    @contextlib.asynccontextmanager
    async def staffed(self, workers: int) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self.queue.work(self.do, self.report)) for _ in range(workers)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            self.queue.close()


async def test_a_key_that_waits_is_worked_on_once_however_often_it_is_added() -> None:
    place = Workplace()
    for _ in range(3):
        place.queue.add("a")
    assert len(place.queue) == 1
    async with place.staffed(2):
        await place.until(done=1)
        await asyncio.sleep(0)
        assert place.done == ["a"]
        assert place.queue.idle


async def test_a_key_added_while_it_is_worked_on_comes_once_more_and_never_at_the_same_time() -> None:
    place = Workplace()
    place.gate.clear()
    place.queue.add("a")
    async with place.staffed(4):
        await place.until(at_work=1)
        place.queue.add("a")
        place.queue.add("a")
        assert len(place.queue) == 0
        place.gate.set()
        await place.until(done=2)
    assert place.done == ["a", "a"]


async def test_keys_are_worked_on_side_by_side_in_the_order_they_came() -> None:
    place = Workplace()
    place.gate.clear()
    for key in "abc":
        place.queue.add(key)
    async with place.staffed(2):
        await place.until(at_work=2)
        assert place.at_work == {"a", "b"}
        assert place.queue.oldest_age() > 0
        assert place.queue.longest_work() > 0
        place.gate.set()
        await place.until(done=3)
    assert place.queue.oldest_age() == place.queue.longest_work() == 0


async def test_a_key_that_fails_is_reported_and_comes_back_until_it_works() -> None:
    place = Workplace()
    place.failing = {"a"}
    place.queue.add("a")
    place.queue.add("b")
    async with place.staffed(1):
        await place.until(done=4)
        place.failing.clear()
        await place.until(done=len(place.done) + 1)
        worked = len(place.done)
        await asyncio.sleep(AT_ONCE.cap * 5)
        assert len(place.done) == worked
    assert place.reports[0] == ("a", "a fails")
    assert place.metrics.registry.get_sample_value("moa_operator_queue_retries_total") == len(place.reports)


async def test_work_may_ask_to_be_done_again_later() -> None:
    place = Workplace()
    place.again = {"a": 0.001}
    place.queue.add("a")
    async with place.staffed(1):
        await place.until(done=2)
    assert place.done == ["a", "a"]


async def test_of_several_times_to_come_back_the_first_counts() -> None:
    place = Workplace()
    place.queue.add_after("a", 3600.0)
    place.queue.add_after("a", 0.001)
    place.queue.add_after("a", 3600.0)
    async with place.staffed(1):
        await place.until(done=1)


async def test_what_is_added_now_is_not_done_later_again() -> None:
    place = Workplace()
    place.queue.add_after("a", 0.01)
    place.queue.add("a")
    async with place.staffed(1):
        await place.until(done=1)
        await asyncio.sleep(0.05)
    assert place.done == ["a"]


async def test_depth_and_age_are_shown() -> None:
    place = Workplace()
    place.queue.add("a")
    place.queue.add("b")
    assert place.metrics.registry.get_sample_value("moa_operator_queue_depth") == 2
    age = place.metrics.registry.get_sample_value("moa_operator_queue_oldest_age_seconds")
    assert age is not None
    assert age > 0


async def test_nothing_comes_back_to_a_queue_that_is_closed() -> None:
    place = Workplace()
    place.queue.add_after("a", 0.001)
    place.queue.close()
    await asyncio.sleep(0.02)
    assert len(place.queue) == 0


@given(failures=st.integers(1, 10_000))
def test_a_back_off_is_bounded_and_never_less_than_half(failures: int) -> None:
    delay = Backoff(base=0.5, cap=60.0).delay(failures)
    longest = min(60.0, 0.5 * 2 ** min(failures - 1, 20))
    assert longest / 2 <= delay <= longest


@pytest.mark.parametrize("failures", [1, 5])
def test_two_who_failed_together_do_not_come_back_together(failures: int) -> None:
    assert len({Backoff(base=1.0, cap=60.0).delay(failures) for _ in range(20)}) > 1
