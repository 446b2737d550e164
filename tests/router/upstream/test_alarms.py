"""Alarms: never early, hardly late, off when they are turned off."""

import asyncio
from time import monotonic

from moa_router.upstream.alarms import PER_SECOND, Alarms

DEADLINE = 5.0


class Sleeper:
    """Notes when it is woken."""

    def __init__(self) -> None:
        self.woken = asyncio.Event()
        self.at = 0.0
        self.times = 0

    def on_alarm(self) -> None:
        self.at = monotonic()
        self.times += 1
        self.woken.set()


async def wait(*sleepers: Sleeper) -> None:
    async with asyncio.timeout(DEADLINE):
        for sleeper in sleepers:
            await sleeper.woken.wait()


async def test_an_alarm_is_never_early() -> None:
    alarms, sleepers = Alarms(), [Sleeper() for _ in range(5)]
    dues = [monotonic() + 0.02 * number for number in range(5)]
    for due, sleeper in zip(dues, sleepers, strict=True):
        alarms.set(due, sleeper)
    await wait(*sleepers)
    # the loop's own clock is rounded to milliseconds
    assert all(sleeper.at > due - 0.002 for due, sleeper in zip(dues, sleepers, strict=True))
    assert [sleeper.times for sleeper in sleepers] == [1] * 5


async def test_one_that_is_overdue_goes_off_at_once() -> None:
    alarms, sleeper = Alarms(), Sleeper()
    alarms.set(monotonic() - 10, sleeper)
    await wait(sleeper)


async def test_one_that_is_turned_off_stays_silent() -> None:
    alarms, off, on = Alarms(), Sleeper(), Sleeper()
    due = monotonic() + 0.01
    waiting = alarms.set(due, off)
    alarms.set(due, on)
    waiting.discard(off)
    await wait(on)
    assert off.times == 0


async def test_one_may_be_turned_off_by_another_of_the_same_moment() -> None:
    alarms = Alarms()
    due = (int(monotonic() * PER_SECOND) + 1.5) / PER_SECOND

    class Jealous(Sleeper):
        def __init__(self) -> None:
            super().__init__()
            self.other: Sleeper | None = None

        def on_alarm(self) -> None:
            super().on_alarm()
            if self.other is not None:
                waiting.discard(self.other)

    one, two = Jealous(), Jealous()
    one.other, two.other = two, one
    waiting = alarms.set(due, one)
    assert alarms.set(due, two) is waiting
    async with asyncio.timeout(DEADLINE):
        await asyncio.wait(
            [asyncio.ensure_future(sleeper.woken.wait()) for sleeper in (one, two)],
            return_when=asyncio.FIRST_COMPLETED,
        )
    assert one.times + two.times == 1


async def test_a_woken_sleeper_may_sleep_on() -> None:
    alarms = Alarms()

    class Snoozer(Sleeper):
        def on_alarm(self) -> None:
            self.times += 1
            if self.times == 3:
                self.woken.set()
            else:
                alarms.set(monotonic(), self)

    snoozer = Snoozer()
    alarms.set(monotonic(), snoozer)
    await wait(snoozer)
    assert snoozer.times == 3
