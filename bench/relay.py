"""The yardstick: the relay one writes with aiohttp in an afternoon, and nothing else in it.

    python -m bench.relay URL

The body is read, posted to URL with a `ClientSession`, and what comes back is the response; a stream is written on as
it arrives. No parsing, no time-outs, no counting, no errors.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

import uvloop
from aiohttp import ClientSession, TCPConnector, web

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_STREAM = b'"stream":true'
_SESSION = web.AppKey("session", ClientSession)
_UPSTREAM = web.AppKey("upstream", str)


async def relay(request: web.Request) -> web.StreamResponse:
    """Relay one request."""
    body = await request.read()
    url = request.app[_UPSTREAM] + request.path
    async with request.app[_SESSION].post(url, data=body, headers={"content-type": "application/json"}) as answer:
        if _STREAM not in body:
            return web.Response(body=await answer.read(), content_type="application/json", status=answer.status)
        response = web.StreamResponse(status=answer.status, headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        async for data in answer.content.iter_any():
            await response.write(data)
        await response.write_eof()
        return response


async def _session(app: web.Application) -> AsyncIterator[None]:
    async with ClientSession(connector=TCPConnector(limit=0)) as session:
        app[_SESSION] = session
        yield


async def serve(upstream: str) -> None:
    """Serve until the process is ended."""
    app = web.Application(client_max_size=2**25)
    app[_UPSTREAM] = upstream
    app.cleanup_ctx.append(_session)
    app.router.add_post("/{manner}/v1/chat/completions", relay)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=4096).start()
    print(f"relay listening on http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    sys.exit(uvloop.run(serve(sys.argv[1])))
