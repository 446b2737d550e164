"""Between an operator and its API server: passes everything on, takes it down, and breaks what a test wants broken.

It listens without TLS on loopback and connects as whoever its kubeconfig says, or passes on the caller's own token.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import aiohttp
import yaml
from aiohttp import web
from kubernetes.aio import client, config
from tests.operator.cluster.access import at

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

READS = frozenset({"GET", "HEAD"})


@dataclass
class Call:
    """A request that came through.

    Attributes:
        method: HTTP method.
        path: Path, without the query.
        query: Query, by name.
        body: What was sent.
        began: When it was passed on, by the monotonic clock.
        ended: When it was answered; None while it is not.
        status: HTTP status of the answer; 0 while there is none.
    """

    method: str
    path: str
    query: dict[str, str]
    body: bytes
    began: float = field(default_factory=time.monotonic)
    ended: float | None = None
    status: int = 0

    @property
    def is_watch(self) -> bool:
        """Whether it streams changes."""
        return self.query.get("watch") in {"1", "true"}

    @property
    def is_write(self) -> bool:
        """Whether it changes something, the Lease aside."""
        return self.method not in READS and not self.is_lease

    @property
    def is_lease(self) -> bool:
        """Whether it is about leadership."""
        return "/leases" in self.path

    @property
    def holder(self) -> object:
        """Whom a write of the Lease makes its holder."""
        return at(json.loads(self.body), "spec", "holderIdentity")


Rule: TypeAlias = Callable[[Call], Awaitable[web.Response | None]]
"""Asked before a request is passed on; an answer is given instead of the API server's."""


class Cut(Exception):  # noqa: N818 - what it says is a deed
    """Raised by a rule: the connection breaks without an answer."""


def status(code: int, reason: str, **headers: str) -> web.Response:
    """A refusal as an API server words it."""
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "injected", "reason": reason}
    return web.json_response({**body, "code": code}, status=code, headers=headers)


@dataclass
class Proxy:
    """A running proxy.

    Attributes:
        url: Where it listens.
        calls: Everything that was passed on.
        rules: What goes wrong; the first that answers counts.
        after: Told of every answer before it is passed on.
        flowing: Clear it, and nothing goes through any more until it is set.
        streams: Those who pass on changes now.
    """

    url: str
    calls: list[Call] = field(default_factory=list)
    rules: list[Rule] = field(default_factory=list)
    after: list[Callable[[Call], None]] = field(default_factory=list)
    flowing: asyncio.Event = field(default_factory=asyncio.Event)
    streams: set[asyncio.Task[object]] = field(default_factory=set)

    def cut_watches(self) -> int:
        """Breaks every stream of changes; returns how many there were."""
        streams = list(self.streams)
        for stream in streams:
            stream.cancel()
        return len(streams)

    def writes(self) -> list[Call]:
        """What came through and changed something, the Lease aside."""
        return [call for call in self.calls if call.is_write]

    def kubeconfig(self, path: Path, token: str = "") -> Path:
        """Writes a kubeconfig for whoever is to come through here."""
        user = {"token": token} if token else {}
        path.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "proxy",
                    "clusters": [{"name": "proxy", "cluster": {"server": self.url}}],
                    "users": [{"name": "proxy", "user": user}],
                    "contexts": [{"name": "proxy", "context": {"cluster": "proxy", "user": "proxy"}}],
                }
            ),
            encoding="utf-8",
        )
        return path


@contextlib.asynccontextmanager
async def proxied(kubeconfig: Path, *, anonymous: bool = False) -> AsyncIterator[Proxy]:
    """Runs a proxy while the context is open.

    Args:
        kubeconfig: Access to the API server.
        anonymous: Show no certificate of its own, so that the caller's token counts.
    """
    settings = client.Configuration()
    await config.load_kube_config(str(kubeconfig), client_configuration=settings)  # type: ignore[no-untyped-call] # theirs
    tls = ssl.create_default_context(cafile=settings.ssl_ca_cert)
    if settings.cert_file and not anonymous:
        tls.load_cert_chain(settings.cert_file, settings.key_file)
    proxy = Proxy("")
    proxy.flowing.set()
    connector = aiohttp.TCPConnector(ssl=tls, limit=0)
    async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as session:
        handler = _Forwarder(proxy, session, settings.host)
        runner = web.ServerRunner(web.Server(handler.handle), shutdown_timeout=0.1)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            proxy.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            yield proxy
        finally:
            proxy.cut_watches()
            await runner.cleanup()


class _Forwarder:
    def __init__(self, proxy: Proxy, session: aiohttp.ClientSession, server: str) -> None:
        self._proxy = proxy
        self._session = session
        self._server = server

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        call = Call(request.method, request.path, dict(request.query), await request.read())
        await self._proxy.flowing.wait()
        try:
            for rule in self._proxy.rules:
                answer = await rule(call)
                if answer is not None:
                    return answer
            self._proxy.calls.append(call)
            return await self._forward(request, call)
        except Cut:
            # An answer that is none: whoever waits for it sees its connection break.
            if request.transport is not None:
                request.transport.abort()
            return web.Response()

    async def _forward(self, request: web.BaseRequest, call: Call) -> web.StreamResponse:
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP}
        timeout = aiohttp.ClientTimeout(total=None)
        async with self._session.request(
            call.method, f"{self._server}{request.path_qs}", headers=headers, data=call.body or None, timeout=timeout
        ) as upstream:
            if call.is_watch:
                call.status = upstream.status
                return await self._stream(request, upstream)
            content = await upstream.read()
            call.status, call.ended = upstream.status, time.monotonic()
            for told in self._proxy.after:
                told(call)
            return web.Response(body=content, status=upstream.status, headers=_passed(upstream))

    async def _stream(self, request: web.BaseRequest, upstream: aiohttp.ClientResponse) -> web.StreamResponse:
        response = web.StreamResponse(status=upstream.status, headers=_passed(upstream))
        await response.prepare(request)
        task = asyncio.current_task()
        assert task is not None
        self._proxy.streams.add(task)
        try:
            async for chunk in upstream.content.iter_any():
                await self._proxy.flowing.wait()
                await response.write(chunk)
        except asyncio.CancelledError:
            raise Cut(request.path) from None
        finally:
            self._proxy.streams.discard(task)
        return response


_HOP_BY_HOP = frozenset({"host", "content-length", "transfer-encoding", "connection", "accept-encoding"})


def _passed(upstream: aiohttp.ClientResponse) -> dict[str, str]:
    return {name: value for name, value in upstream.headers.items() if name.lower() not in _HOP_BY_HOP}
