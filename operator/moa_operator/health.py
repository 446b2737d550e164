"""What the platform asks of the operator: is it alive, is it ready, what has it done."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus

from aiohttp import web
from prometheus_client.exposition import choose_encoder

from moa_operator.metrics import Metrics

Ailments = Callable[[], Sequence[str]]
"""Returns what is wrong, one sentence each; nothing where all is well."""


@asynccontextmanager
async def serving(host: str, port: int, metrics: Metrics, alive: Ailments, ready: Ailments) -> AsyncIterator[int]:
    """Serves `/livez`, `/readyz` and `/metrics` while the context is open; yields the port.

    Args:
        host: Address to listen on.
        port: Port to listen on; 0 for any free one.
        metrics: What `/metrics` shows.
        alive: What only a restart would cure.
        ready: What keeps the operator from working now.

    Raises:
        OSError: The port is taken.
    """
    application = web.Application()
    application.router.add_get("/livez", _probe(alive))
    application.router.add_get("/readyz", _probe(ready))
    application.router.add_get("/metrics", _metrics(metrics))
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


def _probe(ailments: Ailments) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(_: web.Request) -> web.Response:
        wrong = ailments()
        return web.Response(
            text="\n".join(wrong) or "ok", status=HTTPStatus.SERVICE_UNAVAILABLE if wrong else HTTPStatus.OK
        )

    return answer


def _metrics(metrics: Metrics) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(metrics.registry), headers={"Content-Type": content_type})

    return answer
