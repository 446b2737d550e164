"""One client connection: requests in, bytes out, and word of the client's leaving.

An asyncio protocol rather than a server framework: faults need the bare connection (half a head, a reset, a body
shorter than promised), and load tests need a server cheaper than what they measure.
"""

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from functools import lru_cache
from http import HTTPStatus
from typing import Final, cast

import httptools

from moa_simulator.wire.request import Request

Answering = Coroutine[object, object, object] | None
"""What is left to do for a request; None when it has been answered. Cancelled when the client leaves."""

Handler = Callable[[Request, "Connection"], Answering]
"""Answers a request, or begins to."""

_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
_REASONS: Final = {status.value: status.phrase for status in HTTPStatus}
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


def head(status: int, headers: Mapping[str, str]) -> bytes:
    """Writes a response's head."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} {_REASONS.get(status, 'Unknown')}\r\nserver: uvicorn\r\n{lines}\r\n".encode("latin-1")


@lru_cache(maxsize=64)
def _opening(status: int, content_type: str) -> bytes:
    return head(status, {"content-type": content_type.replace("%", "%%"), "content-length": "%d"})


def send(
    connection: "Connection",
    status: int,
    body: bytes,
    content_type: str = "application/json",
    headers: Mapping[str, str] | None = None,
) -> None:
    """Sends a whole response."""
    if headers:
        opening = head(status, {"content-type": content_type, "content-length": str(len(body)), **headers})
    else:
        opening = _opening(status, content_type) % len(body)
    connection.write(opening + body)


class Connection(asyncio.Protocol):
    """A client's connection, which answers requests one after the other.

    Args:
        number: Running number, for the books.
        handler: Answers requests.
        open_connections: The server's set of connections; this one enters and leaves it.
        max_body: Largest body accepted, in bytes.
    """

    def __init__(self, number: int, handler: Handler, open_connections: set["Connection"], max_body: int) -> None:
        self.number = number
        self.idle_since: float | None = None
        self._handler = handler
        self._open_connections = open_connections
        self._max_body = max_body
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._request = Request()
        self._target = b""
        self._body: list[bytes] = []
        self._body_size = 0
        self._queue: deque[Request] = deque()
        self._busy = False
        self._keep_alive = True
        self._task: asyncio.Task[object] | None = None
        self._drained: asyncio.Future[None] | None = None

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Takes the transport."""
        self._transport = cast("asyncio.Transport", transport)
        self._open_connections.add(self)
        self.idle_since = self._loop.time()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Cancels what was being answered."""
        self._open_connections.discard(self)
        self._transport = None
        self.resume_writing()
        self._queue.clear()
        if self._task is not None:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        """Feeds the parser; what is not HTTP is answered with 400 and closed."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse(400, b"upgrades are not supported")
        except httptools.HttpParserError as error:
            self._refuse(400, str(error).encode())

    def pause_writing(self) -> None:
        """Notes that the client reads more slowly than we write."""
        if self._drained is None:
            self._drained = self._loop.create_future()

    def resume_writing(self) -> None:
        """Wakes who waits for the client."""
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        self._drained = None

    # What httptools calls.

    def on_message_begin(self) -> None:
        """Starts a request."""
        self._request = Request()
        self._target = b""
        self._body = []
        self._body_size = 0

    def on_url(self, url: bytes) -> None:
        """Takes a piece of the target."""
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Takes a header."""
        self._request.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Invites the body when the client waits to be invited (RFC 9110, section 10.1.1)."""
        self._request.method = self._parser.get_method().decode("ascii")
        self._request.path = self._target.partition(b"?")[0].decode("latin-1")
        if self._request.header(b"expect").lower() == b"100-continue":
            self.write(_CONTINUE)

    def on_body(self, body: bytes) -> None:
        """Takes a piece of the body."""
        self._body_size += len(body)
        if self._body_size > self._max_body:
            self._refuse(413, b"the body is larger than %d bytes" % self._max_body)
            return
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Answers the request, or queues it behind the one being answered."""
        request = self._request
        request.body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        request.keep_alive = self._parser.should_keep_alive()
        if self._busy:
            self._queue.append(request)
        elif self._transport is not None:
            self._answer(request)

    # What answers call.

    @property
    def blocked(self) -> "asyncio.Future[None] | None":
        """A future that ends when the client has caught up; None when it has."""
        return self._drained

    async def drain(self) -> None:
        """Waits until the client has caught up, or is gone."""
        if self._drained is not None:
            await asyncio.shield(self._drained)

    def write(self, data: bytes) -> None:
        """Writes bytes as they are; to a client that is gone, nothing."""
        if self._transport is not None:
            self._transport.write(data)

    def close(self) -> None:
        """Closes once everything written is sent."""
        self._keep_alive = False
        if self._transport is not None:
            self._transport.close()

    def reset(self) -> None:
        """Breaks the connection off with a TCP reset (RFC 9293, section 3.5.3)."""
        self._keep_alive = False
        if self._transport is None:
            return
        connection = self._transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._transport.abort()

    async def abort(self) -> None:
        """Drops the connection and waits until its answer has noticed."""
        task = self._task
        if self._transport is not None:
            self._transport.abort()
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    # Turns.

    def _answer(self, request: Request) -> None:
        self._busy = True
        self.idle_since = None
        self._keep_alive = request.keep_alive
        coroutine = self._handler(request, self)
        if coroutine is None:
            self._next()
            return
        self._task = self._loop.create_task(coroutine)
        self._task.add_done_callback(self._answered)

    def _answered(self, task: asyncio.Task[object]) -> None:
        self._task = None
        if not task.cancelled() and (error := task.exception()) is not None:
            self.reset()
            self._loop.call_exception_handler({"message": "an answer failed", "exception": error, "task": task})
            return
        self._next()

    def _next(self) -> None:
        self._busy = False
        if not self._keep_alive:
            self.close()
        elif self._queue:
            self._loop.call_soon(self._resume)
        else:
            self.idle_since = self._loop.time()

    def _resume(self) -> None:
        if self._queue and not self._busy and self._transport is not None:
            self._answer(self._queue.popleft())

    def _refuse(self, status: int, reason: bytes) -> None:
        self.write(
            head(status, {"content-type": "text/plain", "content-length": str(len(reason)), "connection": "close"})
        )
        self.write(reason)
        self.close()
