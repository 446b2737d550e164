"""How many requests run at once, and how many may wait: nobody waits without an end, no place is lost."""

import asyncio
import contextlib
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moa_router.fusion.admission import Admission, InUse
from moa_router.fusion.errors import APIError
from moa_router.telemetry.metrics import GaugeCell

SOON = 0.01
LONG = 60.0


class Room:
    """An admission, its gauges, and who is where."""

    def __init__(self, limit: int, line: int, patience: float = LONG) -> None:
        self.inflight, self.depth = GaugeCell(), GaugeCell()
        self.admission = Admission(limit, line, patience, self.inflight, self.depth)
        self.inside = 0
        self.most = 0
        self.refused = 0

    async def visit(self, leave: asyncio.Event, timeout: float = LONG) -> None:
        try:
            await self.admission.enter(timeout)
        except APIError:
            self.refused += 1
            return
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            await leave.wait()
        finally:
            self.inside -= 1
            self.admission.leave()

    def is_empty(self) -> bool:
        return (self.admission.active, self.inflight.value, self.depth.value, self.inside) == (0, 0, 0, 0)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_who_finds_no_room_waits_and_comes_in_by_turn() -> None:
    room = Room(1, 2)
    leave = [asyncio.Event() for _ in range(3)]
    visits = [asyncio.create_task(room.visit(event)) for event in leave]
    await settle()
    assert (room.inside, room.inflight.value, room.depth.value) == (1, 1, 2)
    leave[0].set()
    await settle()
    assert visits[0].done()
    assert (room.inside, room.depth.value) == (1, 1)
    leave[2].set()
    await settle()
    assert not visits[2].done()
    leave[1].set()
    await asyncio.gather(*visits)
    assert room.most == 1
    assert room.is_empty()


async def test_a_full_line_refuses_at_once() -> None:
    room = Room(1, 1)
    leave = asyncio.Event()
    visits = [asyncio.create_task(room.visit(leave)) for _ in range(3)]
    await settle()
    assert room.refused == 1
    assert visits[2].done()
    leave.set()
    await asyncio.gather(*visits)
    assert room.is_empty()


async def test_the_refusal_says_how_it_stands() -> None:
    admission = Admission(1, 0, LONG, GaugeCell(), GaugeCell())
    await admission.enter(LONG)
    with pytest.raises(APIError, match="1 are being served and 0 are waiting") as refusal:
        await admission.enter(LONG)
    assert (refusal.value.status, refusal.value.code, refusal.value.retry_after) == (429, "overloaded", 1.0)


@pytest.mark.parametrize(("patience", "timeout"), [(SOON, LONG), (LONG, SOON)])
async def test_nobody_waits_longer_than_the_profile_or_the_request_allows(patience: float, timeout: float) -> None:
    room = Room(1, 1, patience)
    leave = asyncio.Event()
    first = asyncio.create_task(room.visit(leave))
    await settle()
    await asyncio.wait_for(room.visit(leave, timeout), LONG)
    assert room.refused == 1
    leave.set()
    await first
    assert room.is_empty()


async def test_a_place_handed_over_to_one_who_is_just_leaving_goes_to_the_next() -> None:
    room = Room(1, 2)
    leave = [asyncio.Event() for _ in range(3)]
    visits = [asyncio.create_task(room.visit(event)) for event in leave]
    await settle()
    leave[0].set()
    await asyncio.sleep(0)
    visits[1].cancel()
    await settle()
    assert visits[1].cancelled()
    assert room.inside == 1
    leave[2].set()
    await visits[2]
    assert room.is_empty()


Step = tuple[str, int]


@given(
    st.integers(1, 3),
    st.integers(0, 3),
    st.lists(st.tuples(st.sampled_from(["visit", "leave", "cancel", "turn"]), st.integers(0, 20)), max_size=40),
)
def test_no_place_is_lost_in_any_order_of_events(limit: int, line: int, steps: list[Step]) -> None:
    asyncio.run(play(Room(limit, line), limit, steps))


async def play(room: Room, limit: int, steps: Sequence[Step]) -> None:
    visits: list[tuple[asyncio.Task[None], asyncio.Event]] = []
    for what, index in steps:
        match what:
            case "visit":
                event = asyncio.Event()
                visits.append((asyncio.create_task(room.visit(event)), event))
            case "turn":
                await asyncio.sleep(0)
            case "leave" if visits:
                visits[index % len(visits)][1].set()
            case "cancel" if visits:
                visits[index % len(visits)][0].cancel()
            case _:
                pass
        assert room.inside <= limit
    # whoever still waits must get in as those before go
    for task, event in visits:
        event.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait_for(task, LONG)
    assert room.most <= limit
    assert room.is_empty()


class TestInUse:
    async def test_is_idle_when_the_last_has_gone(self) -> None:
        use = InUse()
        await use.idle()
        with use:
            with use:
                waiting = asyncio.create_task(use.idle())
                await settle()
            await settle()
            assert not waiting.done()
        await waiting
        assert use.count == 0
