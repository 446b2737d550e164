"""Responses as bytes.

aiohttp's server parses requests, keeps connections alive and tells of vanished clients; on the way out the general
machinery of its responses (case-insensitive multidicts, cookies, compression, payload registry) costs more than all
the rest of a relayed request, and none of it is needed. So the two kinds of response there are write themselves.
"""

from __future__ import annotations

import asyncio
import time
from email.utils import formatdate
from http import HTTPStatus
from time import monotonic
from typing import TYPE_CHECKING

from aiohttp import web
from aiohttp.http import HttpVersion11

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from aiohttp.abc import AbstractStreamWriter

HEARTBEAT = b": \n\n"

_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
_STREAM_HEADERS = (
    b"content-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\nx-accel-buffering: no\r\n"
)


class _Date:
    """The `Date` header (RFC 9110 6.6.1), formatted once a second."""

    __slots__ = ("_line", "_second")

    def __init__(self) -> None:
        self._second = 0
        self._line = b""

    def line(self) -> bytes:
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._line = f"date: {formatdate(second, usegmt=True)}\r\n".encode()
        return self._line


_date = _Date()


def encode_headers(headers: Mapping[str, str]) -> bytes:
    """Header lines. Names and values are the router's own or have been checked: no line break can be in them."""
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode("latin-1", "replace")


class _SelfWritten(web.StreamResponse):
    """A response that aiohttp only has to keep the connection for."""

    def __init__(self, status: int, *, keep_alive: bool) -> None:  # the base would build what it is to write
        self._status = status
        self._stays = keep_alive
        self._size = 0

    @property
    def body_length(self) -> int:
        """Bytes of the body, for the access log."""
        return self._size

    @property
    def keep_alive(self) -> bool | None:
        """Whether the connection may be used again."""
        return self._stays


class BytesResponse(_SelfWritten):
    """A whole response.

    Args:
        status: HTTP status.
        body: the body, already encoded.
        headers: header lines as of `encode_headers`.
        keep_alive: whether the connection may be used again.
        content_type: media type of the body.
    """

    def __init__(
        self, status: int, body: bytes, headers: bytes, *, keep_alive: bool, content_type: bytes = b"application/json"
    ) -> None:
        super().__init__(status, keep_alive=keep_alive)
        self._parts = (
            _STATUS_LINES[status],
            _date.line(),
            b"content-type: %b\r\ncontent-length: %d\r\n" % (content_type, len(body)),
            headers,
            b"\r\n" if keep_alive else b"connection: close\r\n\r\n",
            body,
        )
        self._size = len(body)
        self._transport: asyncio.Transport | None = None

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Learn where to write to."""
        self._transport = request.transport
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Write everything at once."""
        del data
        transport, self._transport = self._transport, None
        if transport is not None and not transport.is_closing():
            transport.write(b"".join(self._parts))


class StreamedResponse(_SelfWritten):
    """The end of a streamed response, for aiohttp: everything else went out before."""

    def __init__(self, stream: EventStream) -> None:
        super().__init__(200, keep_alive=stream.keep_alive)
        self._stream = stream

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Send the head, if nothing has been sent yet."""
        del request
        self._stream.open()
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """End the body."""
        del data
        self._stream.end()


class EventStream:
    """A streamed response under way; the `Outlet` of an answer.

    Its head leaves with the first write or the first heartbeat, whichever is sooner, or when `open` is called.

    Args:
        request: whose answer it is.
        headers: header lines as of `encode_headers`.
        heartbeat: seconds without a byte after which a comment is sent; 0 for never.
        keep_alive: whether the connection may be used again.
    """

    def __init__(self, request: web.BaseRequest, headers: bytes, *, heartbeat: float, keep_alive: bool) -> None:
        # a body without length or chunks ends with its connection (HTTP/1.0)
        self._chunked = request.version >= HttpVersion11
        self.keep_alive = keep_alive and self._chunked
        self._request = request
        self._protocol = request.protocol
        self._head = headers
        self._heartbeat = heartbeat
        self._loop = asyncio.get_running_loop()
        self._last_write = monotonic()
        self._timer = self._loop.call_later(heartbeat, self._beat) if heartbeat else None
        self._drains: set[asyncio.Task[None]] = set()
        self.opened = False

    @property
    def blocked(self) -> bool:
        """Whether the client is slower than what is written."""
        return self._protocol.writing_paused

    def open(self) -> None:
        """Send the head; once."""
        if not self.opened:
            self._write_head(b"")

    def write(self, data: bytes) -> None:
        """Send at once; does nothing once the client is gone."""
        if not self.opened:
            self._write_head(data)
            return
        self._last_write = monotonic()
        transport = self._protocol.transport
        if transport is not None and not transport.is_closing():
            transport.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    def when_unblocked(self, callback: Callable[[], None]) -> None:
        """Call back once, when the client has caught up."""
        task = self._loop.create_task(self._drain(callback))
        self._drains.add(task)
        task.add_done_callback(self._drains.discard)

    def close(self) -> None:
        """Let go of timer and waiters; nothing more will be written but the end."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for task in self._drains:
            task.cancel()

    def end(self) -> None:
        """End the body."""
        self.close()
        transport = self._protocol.transport
        if self._chunked and transport is not None and not transport.is_closing():
            transport.write(b"0\r\n\r\n")

    def _write_head(self, data: bytes) -> None:
        self.opened = True
        self._last_write = monotonic()
        framing = b"transfer-encoding: chunked\r\n" if self._chunked else b""
        if not self.keep_alive:
            framing += b"connection: close\r\n"
        if data and self._chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        transport = self._protocol.transport
        if transport is not None and not transport.is_closing():
            head = (_STATUS_LINES[200], _date.line(), _STREAM_HEADERS, self._head, framing, b"\r\n", data)
            transport.write(b"".join(head))

    def _beat(self) -> None:
        """Heartbeat is due, or was put off by a write: one timer for all of the stream."""
        due = self._last_write + self._heartbeat
        if monotonic() >= due:
            self.write(HEARTBEAT)
            due = self._last_write + self._heartbeat
        self._timer = self._loop.call_at(due, self._beat)

    async def _drain(self, callback: Callable[[], None]) -> None:
        try:
            await self._request.writer.drain()
        except ConnectionError:
            # the client is gone; its request is being cancelled
            return
        callback()
