"""A model's engine: who runs, who waits, and what it has cached."""

import asyncio
from collections import deque

from moa_simulator.config import ModelConfig
from moa_simulator.metrics import EngineMetrics
from moa_simulator.prefix_cache import PrefixCache


class Engine:
    """One simulated model at work. A request holds one slot, however many choices it asks for.

    Args:
        config: The model.
    """

    def __init__(self, config: ModelConfig) -> None:
        self.config = config
        self.cache = PrefixCache(config.cache_blocks)
        self.metrics = EngineMetrics(self.cache)
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def running(self) -> int:
        """Requests that hold a slot."""
        return self.metrics.running

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return self.metrics.waiting

    def try_admit(self) -> bool:
        """Takes a slot if one is free; a slot is never free while somebody waits for it."""
        limit = self.config.max_concurrent
        if limit is not None and self.metrics.running >= limit:
            return False
        self.metrics.running += 1
        return True

    @property
    def full(self) -> bool:
        """Whether a request would find neither a slot nor a place in the queue."""
        slots, places = self.config.max_concurrent, self.config.max_waiting
        if slots is None or places is None:
            return False
        return self.metrics.running >= slots and self.metrics.waiting >= places

    async def admit(self) -> None:
        """Takes a slot, waiting in order for it."""
        if self.try_admit():
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self.metrics.waiting += 1
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self.release()
            raise
        finally:
            self.metrics.waiting -= 1

    def release(self) -> None:
        """Gives the slot to whoever waits longest, or back."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.cancelled():
                turn.set_result(None)
                return
        self.metrics.running -= 1

    def reset(self) -> None:
        """Empties the prefix cache."""
        self.cache.clear()
