"""Sends a stream's events when they are due.

Due times are absolute (first token + step x interval), so that pacing does not drift. One timer and no task switch per
event: at thousands of streams that is what a simulator's time goes into.
"""

import asyncio
from collections.abc import Callable, Iterator
from typing import Final

from moa_simulator.books import CallRecord
from moa_simulator.protocol.answer import Event
from moa_simulator.wire.connection import Connection

_BATCH: Final = 64
"""Events sent before others get a turn."""
_SLACK: Final = 0.0005
"""Timers of the event loop are this coarse, in seconds."""


class Pacer:
    """Plays events on a connection and books their tokens.

    Args:
        connection: Where to.
        events: What.
        frame: Turns an event's bytes into bytes on the wire.
        call: The record that tokens are booked on.
        start: When step 0 is due, in the event loop's time.
        interval: Seconds between steps.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        events: Iterator[Event],
        frame: Callable[[bytes], bytes],
        call: CallRecord,
        start: float,
        interval: float,
    ) -> None:
        self._connection = connection
        self._events = events
        self._frame = frame
        self._call = call
        self._start = start
        self._interval = interval
        self._loop = asyncio.get_running_loop()
        self._pending: Event | None = None
        self._left: int | None = None
        self._timer: asyncio.Handle | None = None
        self._done: asyncio.Future[None] = self._loop.create_future()

    async def play(self, limit: int | None = None) -> None:
        """Sends so many events more, or all there are."""
        self._left = limit
        self._done = done = self._loop.create_future()
        self._tick()
        try:
            await done
        finally:
            if self._timer is not None:
                self._timer.cancel()

    def _tick(self) -> None:
        if self._done.done():
            return
        horizon = self._loop.time() + _SLACK
        batch: list[bytes] = []
        while len(batch) < _BATCH:
            if self._left == 0:
                self._done.set_result(None)
                break
            event = self._pending or next(self._events, None)
            if event is None:
                self._done.set_result(None)
                break
            due = self._start + event.step * self._interval
            if due > horizon:
                self._pending = event
                self._timer = self._loop.call_at(due, self._resume)
                break
            self._pending = None
            if self._left is not None:
                self._left -= 1
            self._book(event)
            batch.append(self._frame(event.data))
        else:
            self._timer = self._loop.call_soon(self._resume)
        if batch:
            self._connection.write(batch[0] if len(batch) == 1 else b"".join(batch))

    def _resume(self) -> None:
        blocked = self._connection.blocked
        if blocked is None:
            self._tick()
        else:
            blocked.add_done_callback(lambda _: self._tick())

    def _book(self, event: Event) -> None:
        call = self._call
        call.completion_tokens += event.tokens
        call.reasoning_tokens += event.reasoning
        call.sent_tokens += event.tokens
