"""HTTP/1.1 towards upstreams, over `asyncio.Protocol` and llhttp.

The client library is where the time of a relayed request goes, so this is ours, and small: it sends a request whose
head was compiled beforehand and pushes what comes back into a sink, synchronously, from the socket's callback. There is
no task, queue or future between the two. What is not needed to call a model is not here: no redirects, no cookies, no
compression, no upgrade, no pipelining.
"""

from __future__ import annotations

import asyncio
import random
import re
import socket
import ssl as tls
from time import monotonic
from typing import TYPE_CHECKING, Literal, Protocol, cast
from urllib.parse import urlsplit

import httptools

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ErrorKind = Literal["connect", "connect_timeout", "tls", "reset", "invalid"]

#: Bodies up to this size are copied into one write; larger ones are handed over in parts.
JOIN_BYTES = 64 * 1024
AGE_JITTER = 0.1

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_PORTS = {"http": 80, "https": 443}
_NO_BODY = frozenset({204, 304})
#: Header names as servers write them, decoded once.
_NAMES = {
    spelling.encode(): name
    for name in ("content-type", "content-length", "transfer-encoding", "date", "server", "connection", "x-request-id")
    for spelling in (name, name.title())
}


class TransportError(Exception):
    """An exchange that broke.

    Args:
        kind: `connect`: nobody listens or the name is unknown; `connect_timeout`: nobody answered in time; `tls`: the
            handshake failed; `reset`: the connection ended before the response did; `invalid`: what came is not HTTP.
        message: what happened, in our words, never the peer's.
    """

    def __init__(self, kind: ErrorKind, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Sink(Protocol):
    """Takes a response; called synchronously as bytes arrive."""

    def on_head(self, status: int, headers: Mapping[str, str], /) -> None:
        """Status and headers (names in lower case, repeated ones joined by commas)."""
        ...

    def on_body(self, data: bytes, /) -> None:
        """Some bytes of the body, at least one."""
        ...

    def on_end(self) -> None:
        """The response is whole. Nothing comes after it."""
        ...

    def on_error(self, error: TransportError, /) -> None:
        """The exchange broke. Nothing comes after it."""
        ...


class Exchange(Protocol):
    """A request under way."""

    def cancel(self) -> None:
        """End it: the sink hears nothing more, and the connection is closed so that the peer sees it at once."""
        ...

    def pause(self) -> None:
        """Stop reading from the connection; the peer will feel it."""
        ...

    def resume(self) -> None:
        """Read on."""
        ...


class Route(Protocol):
    """A compiled request head, ready to be sent any number of times."""

    def send(self, headers: bytes, body: Sequence[bytes], sink: Sink) -> Exchange:
        r"""Send a request.

        Args:
            headers: further header lines, encoded, each with its `\r\n`.
            body: the body, in parts.
            sink: what takes the response.
        """
        ...


class Origin:
    """One scheme, host and port, and the connections to it.

    Args:
        url: e.g. `http://vllm.models:8000`.
        ssl: the TLS context; needed for https.
        connect_timeout: seconds a connection may take to be made, TLS included.
        max_idle: connections kept for later.
        max_age: seconds after which a connection is not used again, so that load follows scaling; spread by 10 %.
        idle_timeout: seconds after which an unused connection is closed.
        max_header_bytes: size of a response head at which it is refused.

    Raises:
        ValueError: the URL is none that can be called.
    """

    def __init__(
        self,
        url: str,
        *,
        ssl: tls.SSLContext | None = None,
        connect_timeout: float = 5.0,
        max_idle: int = 256,
        max_age: float = 300.0,
        idle_timeout: float = 30.0,
        max_header_bytes: int = 65536,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in _PORTS or not parts.hostname:
            raise ValueError(f"not an http or https URL with a host: {url!r}")
        if (ssl is None) == (parts.scheme == "https"):
            raise ValueError("a TLS context belongs to https and to nothing else")
        self.host = parts.hostname
        self.port = parts.port or _PORTS[parts.scheme]
        self.max_age = max_age
        self.max_header_bytes = max_header_bytes
        self._authority = parts.netloc.rpartition("@")[2]
        self._ssl = ssl
        self._connect_timeout = connect_timeout
        self._max_idle = max_idle
        self._idle_timeout = idle_timeout
        self._idle: list[_Connection] = []
        self._active: set[_Connection] = set()
        self._connecting: set[asyncio.Task[None]] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def idle(self) -> int:
        """Connections kept for later."""
        return len(self._idle)

    @property
    def active(self) -> int:
        """Connections with a request on them."""
        return len(self._active)

    def route(self, method: str, path: str, headers: Mapping[str, str]) -> Route:
        """Compile the head of requests.

        Raises:
            ValueError: a header or the path cannot be sent; a value that cannot is not repeated, it may be a secret.
        """
        if not path.startswith("/") or not path.isascii() or not path.isprintable() or " " in path:
            raise ValueError(f"not a path that can be requested: {path!r}")
        for name, value in headers.items():
            if not _TOKEN.fullmatch(name) or not _VALUE.fullmatch(value):
                raise ValueError(f"header {name!r} has characters that cannot be sent")
        lines = [f"{method} {path} HTTP/1.1", f"host: {self._authority}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return _Route(self, "\r\n".join(lines).encode("latin-1") + b"\r\n")

    async def aclose(self) -> None:
        """Close every connection; requests under way end with a `reset`."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for task in self._connecting:
            task.cancel()
        for connection in (*self._idle, *self._active):
            connection.close()
        await asyncio.gather(*self._connecting, return_exceptions=True)
        # transports close with the loop's next turn
        await asyncio.sleep(0)

    # -- for exchanges and connections ------------------------------------------------------------------------------

    def begin(self, exchange: _Exchange) -> None:
        """Send a request on a warm connection, or on a new one."""
        now = monotonic()
        while self._idle:
            connection = self._idle.pop()
            if connection.usable(now):
                self.activate(connection, exchange)
                return
            connection.close()
        self.begin_fresh(exchange)

    def begin_fresh(self, exchange: _Exchange) -> None:
        """Send a request on a new connection."""
        if self._closed:
            exchange.loop.call_soon(exchange.fail, TransportError("reset", "the connection pool is closed"))
            return
        task = exchange.connecting = exchange.loop.create_task(self._connect(exchange))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    def activate(self, connection: _Connection, exchange: _Exchange) -> None:
        """Put a request on a connection."""
        self._active.add(connection)
        connection.begin(exchange)

    def give_back(self, connection: _Connection) -> None:
        """A connection whose request is over: keep it if it is good for another."""
        self._active.discard(connection)
        if self._closed or len(self._idle) >= self._max_idle or not connection.reusable:
            connection.close()
            return
        connection.idle_since = monotonic()
        self._idle.append(connection)
        if self._sweeper is None:
            self._sweeper = connection.loop.call_later(self._idle_timeout, self._sweep, connection.loop)

    def forget(self, connection: _Connection) -> None:
        """A connection is gone."""
        self._active.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    async def _connect(self, exchange: _Exchange) -> None:
        loop = exchange.loop
        try:
            async with asyncio.timeout(self._connect_timeout):
                _, connection = await loop.create_connection(
                    lambda: _Connection(self, loop),
                    self.host,
                    self.port,
                    ssl=self._ssl,
                    server_hostname=self.host if self._ssl is not None else None,
                )
        except TimeoutError:
            exchange.fail(TransportError("connect_timeout", "no connection within the time for it"))
        except tls.SSLError:
            exchange.fail(TransportError("tls", "the TLS handshake failed"))
        except OSError:
            exchange.fail(TransportError("connect", "no connection can be made"))
        except asyncio.CancelledError:
            exchange.fail(TransportError("reset", "the connection pool was closed"))
            raise
        else:
            exchange.connecting = None
            if exchange.done:
                self.give_back(connection)
            else:
                self.activate(connection, exchange)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        """Close what was unused for too long: one timer for all connections."""
        self._sweeper = None
        now = monotonic()
        for connection in tuple(self._idle):
            if now - connection.idle_since >= self._idle_timeout:
                self._idle.remove(connection)
                connection.close()
        if self._idle:
            due = self._idle[0].idle_since + self._idle_timeout
            self._sweeper = loop.call_at(due, self._sweep, loop)


class _Route:
    __slots__ = ("_head", "_origin")

    def __init__(self, origin: Origin, head: bytes) -> None:
        self._origin = origin
        self._head = head

    def send(self, headers: bytes, body: Sequence[bytes], sink: Sink) -> _Exchange:
        size = sum(map(len, body))
        head = b"%b%bcontent-length: %d\r\n\r\n" % (self._head, headers, size)
        parts = (b"".join((head, *body)),) if size <= JOIN_BYTES else (head, *body)
        exchange = _Exchange(self._origin, parts, sink)
        self._origin.begin(exchange)
        return exchange


class _Exchange:
    """A request, from the moment it is sent until its sink has heard the last of it."""

    __slots__ = ("_origin", "_retried", "connecting", "connection", "done", "loop", "parts", "sink")

    def __init__(self, origin: Origin, parts: tuple[bytes, ...], sink: Sink) -> None:
        self._origin = origin
        self._retried = False
        self.parts = parts
        self.sink = sink
        self.loop = asyncio.get_running_loop()
        self.connecting: asyncio.Task[None] | None = None
        self.connection: _Connection | None = None
        self.done = False

    def cancel(self) -> None:
        if self.done:
            return
        self.done = True
        if self.connecting is not None:
            self.connecting.cancel()
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.drop()

    def pause(self) -> None:
        if self.connection is not None:
            self.connection.pause()

    def resume(self) -> None:
        if self.connection is not None:
            self.connection.resume()

    def fail(self, error: TransportError) -> None:
        """Tell the sink that it is over."""
        if self.done:
            return
        self.done = True
        self.connecting = self.connection = None
        try:
            self.sink.on_error(error)
        except Exception as defect:  # noqa: BLE001 - a sink's defect must not take the connection's place with it
            self.report(defect)

    def lost(self, *, untouched: bool) -> None:
        """The connection is gone.

        A server may close an idle connection in the very moment a request is put on it. Such a request is sent once
        more, on a new connection: not one byte of a response has come, so nothing of an answer can have been
        produced for it twice. RFC 9110 9.2.2 leaves that to the client's knowledge for methods that are not
        idempotent; a chat completion changes nothing at the server.
        """
        self.connection = None
        if untouched and not self._retried and not self.done:
            self._retried = True
            self._origin.begin_fresh(self)
        else:
            self.fail(TransportError("reset", "the connection was closed before the response was whole"))

    def report(self, defect: Exception) -> None:
        """Say on the loop's exception handler that a sink has failed."""
        self.loop.call_exception_handler({"message": "a response sink failed", "exception": defect})


class _Connection(asyncio.Protocol):
    """A connection, idle or with one request on it. What the parser finds is collected, then told to the sink."""

    __slots__ = (
        "_body",
        "_born",
        "_complete",
        "_exchange",
        "_head_bytes",
        "_head_seen",
        "_head_told",
        "_headers",
        "_max_age",
        "_max_head",
        "_origin",
        "_parser",
        "_paused",
        "_persistent",
        "_status",
        "_touched",
        "_transport",
        "_until_close",
        "_used",
        "idle_since",
        "loop",
    )

    def __init__(self, origin: Origin, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.idle_since = 0.0
        self._origin = origin
        self._born = monotonic()
        self._max_age = origin.max_age * random.uniform(1 - AGE_JITTER, 1 + AGE_JITTER)  # noqa: S311 - a spread
        self._max_head = origin.max_header_bytes
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._exchange: _Exchange | None = None
        self._used = False
        self._paused = False
        self._reset()

    @property
    def reusable(self) -> bool:
        """Whether another request may be put on it."""
        transport = self._transport
        return transport is not None and not transport.is_closing() and monotonic() - self._born < self._max_age

    def usable(self, now: float) -> bool:
        """Whether it is still good after having been idle."""
        transport = self._transport
        return transport is not None and not transport.is_closing() and now - self._born < self._max_age

    def begin(self, exchange: _Exchange) -> None:
        """Send a request."""
        self._exchange = exchange
        exchange.connection = self
        transport = self._transport
        if transport is None or transport.is_closing():
            self.loop.call_soon(self._lose)
        elif len(exchange.parts) == 1:
            transport.write(exchange.parts[0])
        else:
            transport.writelines(exchange.parts)

    def drop(self) -> None:
        """The request on it is no longer wanted."""
        self._exchange = None
        self._origin.forget(self)
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        """Close it; a request on it is lost."""
        if self._transport is not None:
            self._transport.abort() if self._exchange is not None else self._transport.close()
        self._lose()

    def pause(self) -> None:
        """Stop reading."""
        if not self._paused and self._transport is not None and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if self._paused and self._transport is not None and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()

    # -- asyncio ----------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection stands."""
        # uvloop's transports are no asyncio.Transport by class, only by what they do
        self._transport = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("socket")
        if peer is not None:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def data_received(self, data: bytes) -> None:
        """Bytes are here."""
        exchange = self._exchange
        if exchange is None:
            # nobody asked for them: whatever they are, they would be taken for the next request's response
            self.close()
            return
        self._touched = True
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._refuse("what came is not an HTTP response")
            return
        if self._head_bytes > self._max_head:
            self._refuse("the response's head is too large")
            return
        try:
            self._tell(exchange)
        except Exception as defect:  # noqa: BLE001 - see report()
            exchange.report(defect)
            exchange.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._transport = None
        self._origin.forget(self)
        exchange = self._exchange
        if exchange is not None and self._until_close and self._head_told and exc is None:
            # a body without a length ends with its connection
            self._exchange = None
            exchange.connection, exchange.done = None, True
            exchange.sink.on_end()
            return
        self._lose()

    # -- httptools --------------------------------------------------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header line."""
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > self._max_head:
            return
        key = _NAMES.get(name) or name.decode("latin-1").lower()
        text = value.decode("latin-1")
        known = self._headers.get(key)
        self._headers[key] = text if known is None else f"{known}, {text}"

    def on_headers_complete(self) -> None:
        """The head is whole; an interim one (1xx) is skipped."""
        status = self._parser.get_status_code()
        if status < 200:  # noqa: PLR2004
            self._headers.clear()
            return
        self._status = status
        self._head_seen = True
        framed = "content-length" in self._headers or "transfer-encoding" in self._headers
        self._until_close = not framed and status not in _NO_BODY

    def on_body(self, body: bytes) -> None:
        """Some of the body."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """The message is whole."""
        if self._head_seen:
            self._complete = True
            # llhttp forgets the message's headers behind this
            self._persistent = self._parser.should_keep_alive() and not self._until_close

    # -- inside -----------------------------------------------------------------------------------------------------

    def _reset(self) -> None:
        self._status = 0
        self._headers: dict[str, str] = {}
        self._head_bytes = 0
        self._head_seen = False
        self._head_told = False
        self._body: list[bytes] = []
        self._complete = False
        self._until_close = False
        self._persistent = False
        self._touched = False

    def _tell(self, exchange: _Exchange) -> None:
        """Tell the sink what the parser found; the sink may cancel the exchange at any point."""
        if not self._head_told:
            if not self._head_seen:
                return
            self._head_told = True
            exchange.sink.on_head(self._status, self._headers)
        if self._body and self._exchange is exchange:
            body, self._body = self._body, []
            exchange.sink.on_body(body[0] if len(body) == 1 else b"".join(body))
        if self._complete and self._exchange is exchange:
            self._finish(exchange)

    def _finish(self, exchange: _Exchange) -> None:
        self._exchange = None
        exchange.connection, exchange.done = None, True
        reuse = self._persistent
        self._reset()
        self._used = True
        self.resume()
        if reuse:
            self._origin.give_back(self)
        else:
            self._origin.forget(self)
            self.close()
        exchange.sink.on_end()

    def _refuse(self, message: str) -> None:
        exchange, self._exchange = self._exchange, None
        self._origin.forget(self)
        if self._transport is not None:
            self._transport.abort()
        if exchange is not None:
            exchange.fail(TransportError("invalid", message))

    def _lose(self) -> None:
        exchange, self._exchange = self._exchange, None
        self._origin.forget(self)
        if exchange is not None:
            exchange.lost(untouched=self._used and not self._touched)
