"""Who tells us that something has changed: kopf's watches, which only put keys into the queue.

kopf runs in a thread and an event loop of its own. It takes every task of its loop for its own and cancels them when it
stops, and it stops for good over errors that another try would cure; so it is started again, and the rest of us never
notices. Nothing is lost meanwhile: what it lists when it starts is all put into the queue again.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import kopf

from moa_operator.backoff import Backoff
from moa_operator.keys import Key
from moa_operator.kube import connection
from moa_operator.metrics import Metrics
from moa_operator.render.labels import PROFILE, PROFILE_UID, profile_name
from moa_operator.resources import PROFILES, Resource

_log = logging.getLogger(__name__)

_CHUNK: Final = 250
_STREAM_SECONDS: Final = 290
_CONNECT_SECONDS: Final = 10.0
_CALL_SECONDS: Final = 30.0
_BEAT_SECONDS: Final = 1.0
_STOP_SECONDS: Final = 3.0
_RESTART: Final = Backoff(base=1.0, cap=30.0)
_LONG_ENOUGH: Final = 60.0
"""Seconds after which a run of kopf counts as a success, and the next failure as the first."""


@dataclass(frozen=True, slots=True)
class Change:
    """Something has happened to an object.

    Attributes:
        resource: Its kind.
        key: The profile that it is, or belongs to.
        version: Its resource version.
    """

    resource: Resource
    key: Key
    version: str


class Watch:
    """Watches profiles and their children.

    Args:
        namespaces: Where; everywhere if empty.
        metrics: Where changes and restarts are counted.
        notice: Is told of every change, in the event loop that `run` runs in.
    """

    def __init__(self, namespaces: Sequence[str], metrics: Metrics, notice: Callable[[Change], None]) -> None:
        self._namespaces = tuple(namespaces)
        self._metrics = metrics
        self._notice = notice
        self._beat = time.monotonic()
        self._stop: threading.Event | None = None
        self._thread: threading.Thread | None = None

    def silence(self) -> float:
        """Returns for how many seconds the watching thread has shown no sign of life."""
        return time.monotonic() - self._beat

    async def run(self, kinds: Callable[[], Awaitable[tuple[Resource, ...]]]) -> None:
        """Watches until cancelled.

        Args:
            kinds: Returns the kinds of children to watch, once profiles are served; asked each time the watches start.
        """
        failures = 0
        while True:
            started = time.monotonic()
            try:
                await self._run_once(await kinds())
            except Exception as error:  # noqa: BLE001 - whatever ends kopf, watching must go on
                failures = 1 if time.monotonic() - started > _LONG_ENOUGH else failures + 1
                _log.warning("the watches broke", extra={"error": repr(error), "failures": failures})
                await asyncio.sleep(_RESTART.delay(failures))
            self._metrics.watch_restarts.inc()

    def restart(self) -> None:
        """Starts the watches anew, for the kinds that there are now."""
        if self._stop is not None:
            self._stop.set()

    async def _run_once(self, kinds: tuple[Resource, ...]) -> None:
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()
        stop = self._stop = threading.Event()

        def forward(change: Change) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._told, change)

        def watch() -> None:
            error: BaseException | None = None
            try:
                asyncio.run(self._operate(kinds, stop, forward))
            except BaseException as raised:  # noqa: BLE001 - a thread has nobody else to tell
                error = raised
            if not loop.is_closed():
                loop.call_soon_threadsafe(_settle, ended, error)

        self._beat = time.monotonic()
        # A daemon, so that a kopf which does not stop cannot keep the process from ending.
        self._thread = threading.Thread(target=watch, name="kopf", daemon=True)
        self._thread.start()
        try:
            await ended
        finally:
            stop.set()

    async def aclose(self) -> None:
        """Waits a little for the thread to end, which `run` does not: a lease is to be given up before."""
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, _STOP_SECONDS)

    def _told(self, change: Change) -> None:
        self._metrics.watch_events.labels(change.resource.kind).inc()
        self._notice(change)

    async def _operate(
        self, kinds: tuple[Resource, ...], stop: threading.Event, forward: Callable[[Change], None]
    ) -> None:
        beating = asyncio.create_task(self._beat_on())
        try:
            await kopf.operator(
                registry=_registry((PROFILES, *kinds), forward),
                settings=_settings(kinds),
                clusterwide=not self._namespaces,
                namespaces=self._namespaces,
                standalone=True,
                stop_flag=stop,
            )
        finally:
            beating.cancel()
            # Otherwise the thread that waits for the flag would keep this one from ending.
            stop.set()

    async def _beat_on(self) -> None:
        while True:
            self._beat = time.monotonic()
            await asyncio.sleep(_BEAT_SECONDS)


def _settle(ended: "asyncio.Future[None]", error: BaseException | None) -> None:
    if ended.done():
        return
    if isinstance(error, Exception):
        ended.set_exception(error)
    else:
        ended.set_result(None)


def _registry(resources: Iterable[Resource], forward: Callable[[Change], None]) -> kopf.OperatorRegistry:
    registry = kopf.OperatorRegistry()
    kopf.on.login(registry=registry)(_log_in)
    for resource in resources:
        kopf.on.event(resource.group, resource.version, resource.plural, registry=registry)(_handler(resource, forward))
    return registry


async def _log_in(**_: object) -> kopf.ConnectionInfo:
    """Logs in as the rest of the operator does; called again when the API server no longer knows the token."""
    found = await connection.credentials()
    return kopf.ConnectionInfo(
        server=found.server,
        ca_path=found.authority,
        insecure=not found.verify,
        scheme="Bearer" if found.token else None,
        token=found.token,
        certificate_path=found.certificate,
        private_key_path=found.key,
    )


def _handler(resource: Resource, forward: Callable[[Change], None]) -> Callable[..., Awaitable[None]]:
    async def handle(event: kopf.RawEvent, **_: object) -> None:
        metadata = event["object"]["metadata"]
        name = metadata["name"]
        if resource is not PROFILES:
            name = metadata.get("labels", {}).get(PROFILE) or profile_name(name)
        forward(Change(resource, Key(metadata["namespace"], name), metadata["resourceVersion"]))

    return handle


def _settings(kinds: Iterable[Resource]) -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.peering.standalone = True
    # Looking for definitions and namespaces would take rights in the whole cluster.
    settings.scanning.disabled = True
    settings.watching.chunk_size = _CHUNK
    settings.watching.server_timeout = _STREAM_SECONDS
    settings.watching.connect_timeout = _CONNECT_SECONDS
    settings.networking.request_timeout = _CALL_SECONDS
    settings.networking.connect_timeout = _CONNECT_SECONDS
    settings.networking.error_backoffs = _Forever()
    settings.process.ultimate_exiting_timeout = None
    for resource in kinds:
        # Other people's objects cost nothing: neither traffic nor memory.
        settings.watching.label_selectors[resource.group, resource.version, resource.plural] = PROFILE_UID
    return settings


class _Forever:
    """Delays of a call that is tried again until it works: a watch has nothing better to do."""

    def __iter__(self) -> Iterator[float]:
        yield from (0.2, 0.5, 1.0, 2.0)
        while True:
            yield 5.0
