"""How many requests of a profile run at once, and how many may wait."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from moa_router.fusion.errors import APIError

if TYPE_CHECKING:
    from moa_router.telemetry.metrics import GaugeCell


class InUse:
    """Counts who uses something, and tells when nobody does any more."""

    __slots__ = ("_idle", "count")

    def __init__(self) -> None:
        self.count = 0
        self._idle: asyncio.Future[None] | None = None

    def __enter__(self) -> None:
        self.count += 1

    def __exit__(self, *_: object) -> None:
        self.count -= 1
        if self.count == 0 and self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    async def idle(self) -> None:
        """Wait until nobody uses it."""
        if self.count:
            self._idle = asyncio.get_running_loop().create_future()
            await self._idle


class Admission:
    """A bounded line in front of a bounded room; nobody waits without an end.

    Args:
        limit: requests served at once.
        max_line: requests that may wait.
        patience: seconds one may wait.
        inflight: gauge of requests being served.
        depth: gauge of requests waiting.
    """

    __slots__ = ("_depth", "_inflight", "_limit", "_line", "_max_line", "_patience", "active")

    def __init__(self, limit: int, max_line: int, patience: float, inflight: GaugeCell, depth: GaugeCell) -> None:
        self._limit = limit
        self._max_line = max_line
        self._patience = patience
        self._inflight = inflight
        self._depth = depth
        self._line: deque[asyncio.Future[None]] = deque()
        self.active = 0

    async def enter(self, timeout: float) -> None:
        """Come in, after waiting in line if the room is full; `leave` must follow.

        Args:
            timeout: seconds the request has left.

        Raises:
            APIError: 429 when the line is full or the wait was too long.
        """
        if self.active < self._limit and not self._line:
            self.active += 1
            self._inflight.inc()
            return
        if len(self._line) >= self._max_line:
            raise self._refusal()
        await self._wait(min(timeout, self._patience))
        self._inflight.inc()

    def leave(self) -> None:
        """Go out; the next in line comes in."""
        self._inflight.dec()
        self._hand_over()

    async def _wait(self, timeout: float) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._line.append(turn)
        self._depth.inc()
        try:
            async with asyncio.timeout(timeout):
                await turn
        except BaseException as error:
            if turn in self._line:
                self._line.remove(turn)
            elif turn.done() and not turn.cancelled():
                # the place was handed over in the very moment the wait ended
                self._hand_over()
            if isinstance(error, TimeoutError):
                raise self._refusal() from None
            raise
        finally:
            self._depth.dec()

    def _hand_over(self) -> None:
        while self._line:
            turn = self._line.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.active -= 1

    def _refusal(self) -> APIError:
        return APIError(
            429,
            f"Too many requests: {self._limit} are being served and {len(self._line)} are waiting.",
            code="overloaded",
            retry_after=1.0,
        )
