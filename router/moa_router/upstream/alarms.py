"""Deadlines of many calls, hardly any of which is ever reached."""

from __future__ import annotations

import asyncio
from typing import Protocol

#: Alarms due within the same fraction of a second go off together, at its end.
PER_SECOND = 32


class Sleeper(Protocol):
    """Something with a deadline; hashed by identity."""

    def on_alarm(self) -> None:
        """The time is up, by `1 / PER_SECOND` seconds at the most."""
        ...


class Alarms:
    """Wakes sleepers at the end of the fraction of a second in which they are due.

    A timer of the event loop costs some 2 us to set and to cancel, for every call, to be late by nothing in a case that
    hardly ever comes. Sleepers of one fraction share one timer here, and setting an alarm is adding to a set. A timer
    whose sleepers have all left still goes off, and does nothing.
    """

    __slots__ = ("_due",)

    def __init__(self) -> None:
        self._due: dict[int, set[Sleeper]] = {}

    def set(self, due: float, sleeper: Sleeper) -> set[Sleeper]:
        """Set an alarm; may be late by `1 / PER_SECOND` seconds, is never early.

        Args:
            due: when it is to go off, on the event loop's clock.
            sleeper: whom to wake.

        Returns:
            The set it waits in: to turn the alarm off, discard it from there.
        """
        fraction = int(due * PER_SECOND) + 1
        sleepers = self._due.get(fraction)
        if sleepers is None:
            sleepers = self._due[fraction] = set()
            asyncio.get_running_loop().call_at(fraction / PER_SECOND, self._ring, fraction)
        sleepers.add(sleeper)
        return sleepers

    def _ring(self, fraction: int) -> None:
        sleepers = self._due.pop(fraction)
        while sleepers:
            sleepers.pop().on_alarm()
