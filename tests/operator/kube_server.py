"""An API server that answers as a test says, for tests of calls; a few objects in memory, no rules."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aiohttp import web
from kubernetes.aio import client

from moa_operator.kube.client import Kube
from moa_operator.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

Answer = Callable[[web.BaseRequest], web.Response]


@dataclass
class Server:
    """A scripted API server.

    Attributes:
        kube: The operator's client, connected to it.
        metrics: Where that counts.
        script: Answers to the next requests, in order; then `otherwise` answers.
        otherwise: Answers what the script does not.
        requests: What was asked: method, path with query, and headers.
        bodies: What was sent with each.
        arrived: Is set by every request.
        flowing: Clear it, and requests wait for their answers until it is set.
    """

    kube: Kube
    metrics: Metrics
    script: list[Answer] = field(default_factory=list)
    otherwise: Answer = lambda _: web.json_response({"metadata": {"name": "o", "resourceVersion": "1"}})
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    flowing: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, request: web.BaseRequest) -> web.Response:
        """Answers a request."""
        self.requests.append((request.method, request.path_qs, dict(request.headers)))
        self.bodies.append(await request.read())
        self.arrived.set()
        await self.flowing.wait()
        answer = self.script.pop(0) if self.script else self.otherwise
        return answer(request)


def refused(code: int, reason: str = "Odd", message: str = "no", **headers: str) -> Answer:
    """A refusal as an API server words it."""
    body = {"kind": "Status", "status": "Failure", "reason": reason, "message": message, "code": code}
    return lambda _: web.json_response(body, status=code, headers=headers)


def given(body: object) -> Answer:
    """An answer."""
    return lambda _: web.json_response(body)


def cut(request: web.BaseRequest) -> web.Response:
    """No answer: the connection breaks."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


@contextlib.asynccontextmanager
async def serving() -> AsyncIterator[Server]:
    """Runs a scripted API server while the context is open."""
    metrics = Metrics()
    settings = client.Configuration()
    async with client.ApiClient(settings) as api:
        server = Server(Kube(api, metrics), metrics)
        server.flowing.set()
        runner = web.ServerRunner(web.Server(server.handle), shutdown_timeout=0.1)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            settings.host = f"http://127.0.0.1:{runner.addresses[0][1]}"
            yield server
        finally:
            await runner.cleanup()
