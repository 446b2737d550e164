"""One replica works, the others stand by: leadership by a Lease.

The leader stops working before its Lease can be taken, whatever its own clock or the network does:

- It counts its time from before it asked for a renewal, the others theirs from when they saw it; both by clocks that
  only run forward, neither by the times written in the Lease.
- `renew_deadline` and the longest a write may take (`kube.client.WRITE_SECONDS`, which the API server enforces) are
  less than `duration` together.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Protocol

from moa_operator.kube.client import WRITE_SECONDS
from moa_operator.kube.errors import KubeError
from moa_operator.kube.leases import Lease
from moa_operator.metrics import Metrics

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Timing:
    """How long leadership lasts.

    Attributes:
        duration: Seconds that a Lease holds without being renewed.
        renew_deadline: Seconds without a renewal after which the leader stops by itself.
        retry: Seconds between two looks at the Lease, or two renewals.
    """

    duration: int = 10
    renew_deadline: float = 6.0
    retry: float = 1.0

    def __post_init__(self) -> None:
        if self.renew_deadline + WRITE_SECONDS >= self.duration:
            raise ValueError("a leader could still write when its lease has run out; write a longer duration")


TIMING: Final = Timing()


class LeaseStore(Protocol):
    """Where the Lease is; `kube.leases.Leases` is one."""

    async def read(self) -> Lease | None:
        """Returns the Lease as it is."""
        ...

    async def write(self, former: Lease | None, holder: str, seconds: int) -> Lease | None:
        """Writes the Lease; None where somebody else was faster."""
        ...


class LeadershipLost(Exception):  # noqa: N818 - nothing of ours is wrong
    """Somebody else leads, or may lead soon."""


class Elector:
    """Stands for election, and works while it leads.

    Args:
        store: Where the Lease is.
        identity: Our name in it, which no other replica may have.
        metrics: Where leadership is shown.
        timing: How long leadership lasts.
    """

    def __init__(self, store: LeaseStore, identity: str, metrics: Metrics, timing: Timing = TIMING) -> None:
        self._store = store
        self._identity = identity
        self._metrics = metrics
        self._timing = timing
        self._lease: Lease | None = None
        self._renewed = 0.0
        self._seen: tuple[str, float] | None = None
        self._renewing: asyncio.Future[None] | None = None

    @property
    def leading(self) -> bool:
        """Whether we are the one that works."""
        return self._lease is not None

    async def run(self, work: Callable[[], Awaitable[None]]) -> None:
        """Waits for leadership, then works until either ends.

        When cancelled, or when the work ends, the Lease is given up once the work has stopped.

        Args:
            work: What the leader does; cancelled as soon as leadership cannot be kept.

        Raises:
            LeadershipLost: It could not be kept; the work has stopped.
        """
        await self._acquire()
        _log.info("leading", extra={"lease": str(self._store), "identity": self._identity})
        self._metrics.leader.set(1)
        try:
            await self._work_while_leading(work)
        finally:
            self._metrics.leader.set(0)
            await self._release()

    async def _work_while_leading(self, work: Callable[[], Awaitable[None]]) -> None:
        working = asyncio.ensure_future(work())
        renewing = asyncio.ensure_future(self._keep())
        try:
            await asyncio.wait({working, renewing}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            working.cancel()
            await asyncio.wait({working})
            renewing.cancel()
            await asyncio.wait({renewing})
        for ended in (renewing, working):
            if not ended.cancelled():
                ended.result()

    async def _acquire(self) -> None:
        while True:
            if await self._try_to_acquire():
                return
            await asyncio.sleep(self._timing.retry)

    async def _try_to_acquire(self) -> bool:
        started = time.monotonic()
        try:
            lease = await self._store.read()
            if lease is not None and not self._may_take(lease):
                return False
            taken = await self._store.write(lease, self._identity, self._timing.duration)
        except KubeError as error:
            _log.warning("cannot stand for election", extra={"error": str(error)})
            return False
        self._lease, self._renewed = taken, started
        return taken is not None

    def _may_take(self, lease: Lease) -> bool:
        if not lease.spec.holder_identity:
            return True
        # Ours from a former life counts as a stranger's: a write of that life may still be under way.
        now = time.monotonic()
        version = lease.metadata.resource_version
        if self._seen is None or self._seen[0] != version:
            self._seen = (version, now)
        return now - self._seen[1] > (lease.spec.lease_duration_seconds or self._timing.duration)

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(self._timing.retry)
            left = self._renewed + self._timing.renew_deadline - time.monotonic()
            if left <= 0 or not await self._renew_within(left):
                raise LeadershipLost("the lease was not renewed in time")

    async def _renew_within(self, seconds: float) -> bool:
        """Tries to renew the Lease; returns whether it came to an end, good or bad, in time."""
        self._renewing = asyncio.ensure_future(self._renew())
        # Not a timeout around it: a renewal under way would be waited for, and the work would go on meanwhile.
        done, _ = await asyncio.wait({self._renewing}, timeout=seconds)
        if not done:
            return False
        try:
            self._renewing.result()
        except KubeError as error:
            _log.warning("the lease is not renewed", extra={"error": str(error), "seconds_left": round(seconds, 1)})
        return True

    async def _renew(self) -> None:
        started = time.monotonic()
        renewed = await self._store.write(self._lease, self._identity, self._timing.duration)
        if renewed is None:
            renewed = await self._claim_again()
        self._lease, self._renewed = renewed, started

    async def _claim_again(self) -> Lease:
        """Sees who was faster: perhaps ourselves, by a write whose answer was lost."""
        lease = await self._store.read()
        if lease is None or lease.spec.holder_identity != self._identity:
            holder = lease.spec.holder_identity if lease is not None else ""
            raise LeadershipLost(f"the lease is {holder or 'nobody'}'s")
        return lease

    async def _release(self) -> None:
        self._lease = None
        try:
            async with asyncio.timeout(self._timing.duration):
                if self._renewing is not None:
                    await asyncio.gather(self._renewing, return_exceptions=True)
                current = await self._store.read()
                if current is not None and current.spec.holder_identity == self._identity:
                    await self._store.write(current, "", 1)
        except (KubeError, TimeoutError) as error:
            _log.warning("the lease runs out by itself", extra={"error": str(error)})
