"""A cap on concurrent calls with a bounded line in front of it."""

from __future__ import annotations

from collections import deque
from typing import Protocol


class Waiter(Protocol):
    """Something that wants a slot."""

    def on_slot(self) -> bool:
        """Take the slot that has become free; False if it is no longer wanted."""
        ...


class Slots:
    """Hands out `limit` slots, first come, first served; `limit=None` never makes anybody wait.

    It is callback-shaped because a call without contention must not pay for a future and a task switch.
    """

    __slots__ = ("_limit", "_line", "_max_line", "in_use")

    def __init__(self, limit: int | None, max_line: int) -> None:
        self._limit = limit
        self._max_line = max_line
        self._line: deque[Waiter] = deque()
        self.in_use = 0

    def acquire(self, waiter: Waiter) -> bool | None:
        """True: the slot is taken; False: `waiter` stands in line; None: the line is full."""
        if self._limit is None or (self.in_use < self._limit and not self._line):
            self.in_use += 1
            return True
        if len(self._line) >= self._max_line:
            return None
        self._line.append(waiter)
        return False

    def leave(self, waiter: Waiter) -> None:
        """Step out of the line."""
        if waiter in self._line:
            self._line.remove(waiter)

    def release(self) -> None:
        """Give a slot back; the next in line takes it at once."""
        while self._line:
            if self._line.popleft().on_slot():
                return
        self.in_use -= 1

    @property
    def waiting(self) -> int:
        """How many stand in line."""
        return len(self._line)
