"""A queue of keys: each waits once at most, is worked on by one worker at a time, and comes back later when that fails.

A key says *that* there is something to look at, never *what*: who takes it reads the world as it is then. So however
often a key is added while it waits, once is enough; and added while it is worked on, it comes once more.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Final, Generic, TypeVar

from moa_operator.backoff import Backoff
from moa_operator.metrics import Metrics

K = TypeVar("K", bound=Hashable)

RETRY: Final = Backoff(base=0.5, cap=120.0)


class WorkQueue(Generic[K]):
    """A queue of keys. It belongs to one event loop.

    Args:
        metrics: Where depth, age and retries are shown.
        backoff: How long a key that failed stays away.
    """

    def __init__(self, metrics: Metrics, backoff: Backoff = RETRY) -> None:
        self._metrics = metrics
        self._backoff = backoff
        self._waiting: dict[K, float] = {}
        self._working: dict[K, float] = {}
        self._again: set[K] = set()
        self._failures: dict[K, int] = {}
        self._timers: dict[K, asyncio.TimerHandle] = {}
        self._arrived = asyncio.Event()
        metrics.queue_depth.set_function(lambda: len(self._waiting))
        metrics.queue_age_seconds.set_function(self.oldest_age)

    def __len__(self) -> int:
        """How many keys wait for a worker; those that come back later are not counted."""
        return len(self._waiting)

    @property
    def idle(self) -> bool:
        """Whether no key waits or is worked on."""
        return not self._waiting and not self._working

    def oldest_age(self) -> float:
        """Returns how many seconds the key has waited that has waited longest."""
        return time.monotonic() - next(iter(self._waiting.values())) if self._waiting else 0.0

    def longest_work(self) -> float:
        """Returns for how many seconds the slowest worker has been at its key."""
        return time.monotonic() - min(self._working.values()) if self._working else 0.0

    def add(self, key: K) -> None:
        """Has a key worked on, soon."""
        if timer := self._timers.pop(key, None):
            timer.cancel()
        if key in self._working:
            self._again.add(key)
        elif key not in self._waiting:
            self._waiting[key] = time.monotonic()
            self._arrived.set()

    def add_after(self, key: K, seconds: float) -> None:
        """Has a key worked on later; sooner, if it was to be or is added meanwhile."""
        loop = asyncio.get_running_loop()
        due = loop.time() + seconds
        known = self._timers.get(key)
        if key in self._waiting or (known is not None and known.when() <= due):
            return
        if known is not None:
            known.cancel()
        self._timers[key] = loop.call_at(due, self.add, key)

    async def work(self, do: Callable[[K], Awaitable[float | None]], report: Callable[[K, Exception], None]) -> None:
        """Works on keys, one after the other, for ever; several of these may run.

        Args:
            do: Works on a key; returns seconds after which to look again, or None to leave it at that. Where it raises,
                the key comes back after a back-off.
            report: Is told of what was raised.
        """
        while True:
            with self._taken(await self._next()) as key:
                try:
                    again = await do(key)
                except Exception as error:  # noqa: BLE001 - whatever it is, other keys must not wait for it
                    report(key, error)
                    self._retry(key)
                else:
                    self._failures.pop(key, None)
                    if again is not None:
                        self.add_after(key, again)

    def close(self) -> None:
        """Drops everything that was to come later."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    async def _next(self) -> K:
        while not self._waiting:
            self._arrived.clear()
            await self._arrived.wait()
        key = next(iter(self._waiting))
        self._metrics.queue_wait_seconds.observe(time.monotonic() - self._waiting.pop(key))
        return key

    @contextmanager
    def _taken(self, key: K) -> Iterator[K]:
        self._working[key] = time.monotonic()
        try:
            yield key
        finally:
            del self._working[key]
            if key in self._again:
                self._again.discard(key)
                self.add(key)

    def _retry(self, key: K) -> None:
        self._failures[key] = failures = self._failures.get(key, 0) + 1
        self._metrics.queue_retries.inc()
        self.add_after(key, self._backoff.delay(failures))
