"""Wires the operator together: who leads works, and what works is watched over."""

import asyncio
import logging
import secrets
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from moa_operator.discovery import Discovery
from moa_operator.health import serving
from moa_operator.keys import Key
from moa_operator.kube.client import Kube
from moa_operator.kube.connection import connect
from moa_operator.kube.leases import Leases
from moa_operator.leader import Elector
from moa_operator.metrics import Metrics
from moa_operator.reconcile import reconciler
from moa_operator.reconcile.reconciler import Reconciler
from moa_operator.relist import Relist
from moa_operator.resources import PROFILES
from moa_operator.watch import Change, Watch
from moa_operator.watchlist import Watchlist
from moa_operator.workqueue import WorkQueue

_log = logging.getLogger(__name__)

RECONCILE_SECONDS: Final = 60.0
"""Time a reconcile may take."""

_STUCK_WORKER_SECONDS: Final = 2 * RECONCILE_SECONDS
_SILENT_WATCH_SECONDS: Final = 60.0


@dataclass(frozen=True)
class Settings:
    """What the command line says.

    Attributes:
        namespaces: Where profiles are looked for; everywhere if empty.
        admin_host: Address of the admin port.
        admin_port: The admin port; 0 for any free one.
        leader_elect: Whether other replicas may run.
        lease_namespace: Where the Lease is.
        lease_name: What it is called.
        router_image: The router's image where a profile names none.
        workers: Profiles worked on at the same time.
        relist_seconds: Time between two looks at every profile.
    """

    namespaces: tuple[str, ...]
    admin_host: str
    admin_port: int
    leader_elect: bool
    lease_namespace: str
    lease_name: str
    router_image: str
    workers: int
    relist_seconds: float


class Operator:
    """An operator process, without its signals.

    Args:
        kube: The API server.
        metrics: Where everything is counted.
        settings: What the command line says.
    """

    def __init__(self, kube: Kube, metrics: Metrics, settings: Settings) -> None:
        self._settings = settings
        self._identity = f"{socket.gethostname()}_{secrets.token_hex(4)}"
        self._metrics = metrics
        self._queue: WorkQueue[Key] = WorkQueue(metrics)
        self._discovery = Discovery(kube)
        self._watch = Watch(settings.namespaces, metrics, self._notice)
        self._relist = Relist(kube, settings.namespaces, metrics, self._queue.add, self._watch.restart)
        self._watchlist = Watchlist(kube, self._queue.add)
        shared = reconciler.Settings(settings.router_image, self._identity)
        self._reconciler = Reconciler(kube, metrics, shared, self._discovery.kinds)
        leases = Leases(kube, settings.lease_namespace, settings.lease_name)
        self._elector = Elector(leases, self._identity, metrics)
        self._working = False

    async def run(self) -> None:
        """Works, once it leads, until cancelled.

        Raises:
            LeadershipLost: Somebody else leads; the process should end.
        """
        if self._settings.leader_elect:
            await self._elector.run(self.work)
        else:
            self._metrics.leader.set(1)
            await self.work()

    async def aclose(self) -> None:
        """Waits for what goes on after `run` has ended."""
        await self._watch.aclose()

    async def work(self) -> None:
        """Reconciles profiles until cancelled."""
        self._working = True
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._watch.run(self._discovery.wait), name="watch")
                group.create_task(self._discovery.run(self._kinds_changed), name="discovery")
                group.create_task(self._relist.run(self._settings.relist_seconds), name="relist")
                group.create_task(self._watchlist.run(), name="watchlist")
                for number in range(self._settings.workers):
                    group.create_task(self._queue.work(self._reconcile, _report), name=f"worker {number}")
        finally:
            self._working = False
            self._queue.close()

    def ailments(self) -> list[str]:
        """Returns what only a restart would cure."""
        if not self._working:
            return []
        found = {
            "a worker is stuck": self._queue.longest_work() > _STUCK_WORKER_SECONDS,
            "the watches do not run": self._watch.silence() > _SILENT_WATCH_SECONDS,
            "the watches miss changes": self._relist.watches_stuck,
        }
        return [text for text, is_wrong in found.items() if is_wrong]

    def hindrances(self) -> list[str]:
        """Returns what keeps the operator from working now. Standing by is not one."""
        if self._working and not self._discovery.serves_profiles:
            return ["the API server cannot be reached, or has no MoAProfiles"]
        return self.ailments()

    def _notice(self, change: Change) -> None:
        if change.resource is PROFILES:
            self._relist.tell(change.key, change.version)
        self._queue.add(change.key)

    def _kinds_changed(self) -> None:
        _log.info(
            "the API server has other kinds now", extra={"kinds": [str(each) for each in self._discovery.kinds()]}
        )
        self._watch.restart()

    async def _reconcile(self, key: Key) -> float | None:
        async with asyncio.timeout(RECONCILE_SECONDS):
            report = await self._reconciler.reconcile(key)
        self._watchlist.remember(key, report.references)
        if report.result == "gone":
            self._relist.forget(key)
        return report.again


def _report(key: Key, error: Exception) -> None:
    _log.warning("reconcile failed", extra={"profile": str(key), "error": str(error) or repr(error)})


async def operate(settings: Settings, announce: Callable[[int], None], stopped: Callable[[], Awaitable[None]]) -> None:
    """Runs the operator until told to stop, or until it can no longer lead.

    Args:
        settings: What the command line says.
        announce: Is told the admin port once it listens.
        stopped: Returns when the operator is to stop.

    Raises:
        LeadershipLost: Somebody else leads.
        OSError: The admin port is taken.
        ConfigException: There is no way to connect to an API server.
    """
    metrics = Metrics()
    async with await connect() as api:
        operator = Operator(Kube(api, metrics), metrics, settings)
        async with serving(
            settings.admin_host, settings.admin_port, metrics, operator.ailments, operator.hindrances
        ) as port:
            announce(port)
            running = asyncio.ensure_future(operator.run())
            stopping = asyncio.ensure_future(stopped())
            try:
                await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                stopping.cancel()
                running.cancel()
                await asyncio.wait({running, stopping})
                await operator.aclose()
            if not running.cancelled():
                running.result()
