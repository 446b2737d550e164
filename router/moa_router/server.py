"""Wires the application together; start-up, reload, drain, shut-down."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiohttp import web

from moa_router.http import chat
from moa_router.http import models as models_http
from moa_router.http.admin import Admin
from moa_router.http.chat import ChatCompletions
from moa_router.http.front import Front
from moa_router.http.models import Models
from moa_router.profiles import Registry
from moa_router.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

logger = logging.getLogger(__name__)

RELOAD_SECONDS = 5.0
KEEP_ALIVE_SECONDS = 75.0
#: Time for clients to hear that their request was cut.
CUT_SECONDS = 1.0


@dataclass(slots=True, frozen=True)
class Settings:
    """What the command line says.

    Attributes:
        profiles: the profile files.
        host: address of the client port.
        port: the client port; 0 for any free one.
        admin_host: address of the admin port.
        admin_port: the admin port; 0 for any free one.
        secrets_dir: where Secrets are mounted.
        config_maps_dir: where ConfigMaps are mounted.
        access_log: whether each request is logged.
        version: the router's version.
    """

    profiles: Sequence[Path]
    host: str
    port: int
    admin_host: str
    admin_port: int
    secrets_dir: Path | None
    config_maps_dir: Path | None
    access_log: bool
    version: str


@dataclass(slots=True, frozen=True)
class Addresses:
    """Where a running server listens."""

    url: str
    admin_url: str


class Server:
    """A router process, without its signals.

    Args:
        settings: how to run.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.metrics = Metrics(settings.version)
        self.registry = Registry(
            settings.profiles,
            secrets_dir=settings.secrets_dir,
            config_maps_dir=settings.config_maps_dir,
            metrics=self.metrics,
            version=settings.version,
        )
        self._chat = ChatCompletions(self.registry, self.metrics)
        self._admin = Admin(self.registry, self.metrics)
        self._front: web.ServerRunner | None = None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Addresses]:
        """Load the profiles, then listen; on the way out close everything.

        Raises:
            ProfileError: a profile cannot be served; nothing has listened.
            OSError: a port is taken.
        """
        settings = self._settings
        self.registry.load()
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self.registry.aclose)
            admin = await _listen(
                stack,
                web.AppRunner(self._admin.application(), access_log=None),
                settings.admin_host,
                settings.admin_port,
            )
            self._front = self._client_runner()
            client = await _listen(stack, self._front, settings.host, settings.port)
            watcher = asyncio.create_task(self.registry.watch(RELOAD_SECONDS))
            stack.push_async_callback(_cancel, watcher)
            yield Addresses(client, admin)

    async def drain(self) -> None:
        """Become unready, keep accepting for a moment, then only finish what is under way, and cut it in the end.

        Times are the longest that any profile asks for.
        """
        drains = [served.plan.drain for served in self.registry.served]
        self._admin.draining = self._chat.draining = True
        await asyncio.sleep(max((drain.delay for drain in drains), default=0.0))
        for site in tuple(self._front.sites) if self._front is not None else ():
            await site.stop()
        if await self._idle_within(max((drain.timeout for drain in drains), default=0.0)):
            return
        logger.warning("drain time is over; requests are cut", extra={"requests": self._chat.in_use.count})
        self._chat.cut()
        await self._idle_within(CUT_SECONDS)

    async def _idle_within(self, seconds: float) -> bool:
        """Whether no request is under way any more, at the latest after this time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._chat.in_use.idle()
        return self._chat.in_use.count == 0

    def _client_runner(self) -> web.ServerRunner:
        limits = [served.plan.limits for served in self.registry.served]
        models = Models(self.registry)
        header_bytes = max(limit.max_header_bytes for limit in limits)
        front = Front(
            {
                chat.ROUTE: {"POST": self._chat},
                models_http.ROUTE: {"GET": models.index},
                f"{models_http.ROUTE}/": {"GET": models.get},
            },
            access_log=logging.getLogger("moa_router.access") if self._settings.access_log else None,
            keepalive_timeout=KEEP_ALIVE_SECONDS,
            max_line_size=header_bytes,
            max_field_size=header_bytes,
            max_headers=max(limit.max_header_count for limit in limits),
        )
        return web.ServerRunner(front, shutdown_timeout=1.0)


async def serve(settings: Settings, announce: Callable[[Addresses], None]) -> None:
    """Run until SIGTERM or SIGINT, then drain. SIGHUP reloads.

    Args:
        settings: how to run.
        announce: told where the server listens.

    Raises:
        ProfileError: a profile cannot be served.
        OSError: a port is taken.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    reload = asyncio.Event()
    server = Server(settings)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, reload.set)
    async with server.running() as addresses:
        # what is here now stays: a full collection, tens of milliseconds over all of it, would be felt by every stream
        gc.collect()
        gc.freeze()
        announce(addresses)
        reloader = asyncio.create_task(_reload_on(reload, server.registry))
        try:
            await stop.wait()
            logger.info("draining")
            await server.drain()
        finally:
            await _cancel(reloader)


async def _reload_on(event: asyncio.Event, registry: Registry) -> None:
    while True:
        await event.wait()
        event.clear()
        await registry.reload()


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def _listen(stack: contextlib.AsyncExitStack, runner: web.BaseRunner, host: str, port: int) -> str:
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    site = web.TCPSite(runner, host, port)
    await site.start()
    address = runner.addresses[0]
    shown = f"[{address[0]}]" if ":" in address[0] else address[0]
    return f"http://{shown}:{address[1]}"
