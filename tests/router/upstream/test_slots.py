"""The cap on concurrent calls: nobody is forgotten, and no slot is lost."""

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from moa_router.upstream.slots import Slots


class Caller:
    """Somebody who wants a slot."""

    def __init__(self, *, interested: bool = True) -> None:
        self.interested = interested
        self.served = False

    def on_slot(self) -> bool:
        self.served = self.interested
        return self.interested


def test_without_a_limit_nobody_waits() -> None:
    slots = Slots(None, 0)
    assert all(slots.acquire(Caller()) for _ in range(100))
    assert slots.in_use == 100


def test_the_line_is_served_in_order_and_is_bounded() -> None:
    slots, first, second, third = Slots(1, 2), Caller(), Caller(), Caller()
    assert slots.acquire(Caller()) is True
    assert slots.acquire(first) is False
    assert slots.acquire(second) is False
    assert slots.acquire(third) is None
    slots.release()
    assert (first.served, second.served) == (True, False)
    slots.release()
    assert second.served
    assert (slots.in_use, slots.waiting) == (1, 0)


def test_who_lost_interest_is_passed_over() -> None:
    slots, gone, next_one = Slots(1, 5), Caller(interested=False), Caller()
    slots.acquire(Caller())
    slots.acquire(gone)
    slots.acquire(next_one)
    slots.release()
    assert next_one.served


def test_who_steps_out_is_not_called() -> None:
    slots, gone = Slots(1, 5), Caller()
    slots.acquire(Caller())
    slots.acquire(gone)
    slots.leave(gone)
    slots.leave(gone)
    slots.release()
    assert not gone.served
    assert slots.in_use == 0


@given(st.integers(1, 4), st.integers(0, 4))
def test_a_slot_given_back_inside_on_slot_goes_on(limit: int, length: int) -> None:
    """A call that ends in the moment it is sent gives its slot back while the line is being served."""

    class Hasty(Caller):
        def on_slot(self) -> bool:
            self.served = True
            slots.release()
            return True

    slots = Slots(limit, length)
    for _ in range(limit):
        slots.acquire(Caller())
    line = [Hasty() for _ in range(length)]
    for caller in line:
        slots.acquire(caller)
    slots.release()
    assert all(caller.served for caller in line)
    assert (slots.in_use, slots.waiting) == (limit - 1, 0)


class AnyOrder(RuleBasedStateMachine):
    """Acquire, give up and release in any order."""

    LIMIT, LINE = 3, 4

    def __init__(self) -> None:
        super().__init__()
        self.slots = Slots(self.LIMIT, self.LINE)
        self.holding = 0
        self.line: list[Caller] = []

    @rule()
    def acquire(self) -> None:
        caller = Caller()
        granted = self.slots.acquire(caller)
        assert granted is (None if len(self.line) == self.LINE else self.holding < self.LIMIT)
        if granted:
            self.holding += 1
        elif granted is False:
            self.line.append(caller)

    @precondition(lambda self: self.line)
    @rule(place=st.integers(0, LINE - 1))
    def give_up(self, place: int) -> None:
        self.slots.leave(self.line.pop(place % len(self.line)))

    @precondition(lambda self: self.holding)
    @rule()
    def release(self) -> None:
        self.slots.release()
        if self.line:
            assert self.line.pop(0).served
        else:
            self.holding -= 1

    @invariant()
    def is_accounted_for(self) -> None:
        assert self.slots.in_use == self.holding <= self.LIMIT
        assert self.slots.waiting == len(self.line)
        assert not self.line or self.holding == self.LIMIT


test_no_slot_is_lost = AnyOrder.TestCase
