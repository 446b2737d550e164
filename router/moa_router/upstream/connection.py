"""One connection to an upstream: what asyncio and the parser say about it, told to the sink of its request.

What the parser finds in a piece is collected and told when the piece is through, so that a sink that cancels, sends or
raises never does so in the middle of the parser's work.
"""

from __future__ import annotations

import asyncio
import random
import socket
from time import monotonic
from typing import TYPE_CHECKING, cast

import httptools

if TYPE_CHECKING:
    from moa_router.upstream.transport import Origin, PooledExchange

#: How far connections of one age spread, so that they are not all made anew at once.
AGE_JITTER = 0.1

_FINAL = 200
_NO_BODY = frozenset({204, 304})
#: Header names as servers write them, decoded once.
_NAMES = {
    spelling.encode(): name
    for name in ("content-type", "content-length", "transfer-encoding", "date", "server", "connection", "x-request-id")
    for spelling in (name, name.title())
}


class _SurplusError(Exception):
    """Stops the parser: the response is whole, and what follows belongs to nobody."""


class Connection(asyncio.Protocol):
    """A connection, idle or with one request on it.

    Requests are written without regard to `pause_writing`: a body is bounded by the router's own limit, and asyncio
    keeps what the kernel does not take.

    Args:
        origin: where it belongs, and hears that it is idle or gone.
    """

    __slots__ = (
        "_barren",
        "_body",
        "_complete",
        "_exchange",
        "_expires",
        "_head_seen",
        "_head_told",
        "_headers",
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
    )

    def __init__(self, origin: Origin) -> None:
        self.idle_since = 0.0
        self._origin = origin
        spread = random.uniform(1 - AGE_JITTER, 1 + AGE_JITTER)  # noqa: S311 - nothing to guess here
        self._expires = monotonic() + origin.max_age * spread
        self._max_head = origin.max_header_bytes
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._exchange: PooledExchange | None = None
        self._used = False
        self._paused = False
        self._touched = False
        self._clear()

    @property
    def busy(self) -> bool:
        """Whether a request is on it."""
        return self._exchange is not None

    @property
    def stands(self) -> bool:
        """Whether it has been made and is not gone."""
        return self._transport is not None

    def usable(self, now: float) -> bool:
        """Whether a request may be put on it: it stands, is young enough, and owes nothing to the last one."""
        transport = self._transport
        return transport is not None and now < self._expires and not transport.is_closing()

    def carry(self, exchange: PooledExchange) -> None:
        """Send a request."""
        self._exchange = exchange
        self._touched = False
        exchange.connection = self
        transport = self._transport
        if transport is None or transport.is_closing():
            asyncio.get_running_loop().call_soon(self._lose)
            return
        if exchange.paused:
            self.pause()
        parts = exchange.parts
        if len(parts) == 1:
            transport.write(parts[0])
        else:
            transport.writelines(parts)

    def drop(self) -> None:
        """Close it at once, and tell nobody: the request on it is no longer wanted."""
        self._exchange = None
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        """Close it: politely if it is idle; a request on it is lost."""
        if self._transport is not None:
            if self._exchange is None and self._transport.get_write_buffer_size() == 0:
                self._transport.close()
            else:
                self._transport.abort()
        self._lose()

    def pause(self) -> None:
        """Stop reading; what was read already is still told."""
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
            self.drop()
            return
        if not self._touched:
            self._touched = True
            exchange.parts = ()
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            if not self._complete:
                self._break(exchange, "what came is not an HTTP response")
                return
            self._persistent = False
        self._barren += len(data)
        if self._barren > self._max_head and self._is_flood():
            self._break(exchange, "the response has more headers than anybody should read")
            return
        try:
            if self._head_told or self._head_seen:
                self._tell(exchange)
        except Exception as defect:  # noqa: BLE001 - whatever a sink raises, its request must come to an end
            exchange.report(defect)
            self._break(exchange, "the response could not be handled")
            return
        if self._complete and self._exchange is exchange:
            self._finish(exchange)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._transport = None
        self._origin.gone(self)
        exchange = self._exchange
        if exchange is not None and self._until_close and exc is None:
            self._exchange = None
            exchange.end()
        else:
            self._lose()

    # -- httptools --------------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """The first byte of a message."""
        if self._complete:
            raise _SurplusError

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header line, or a trailer, which nobody reads."""
        if self._head_seen:
            return
        key = _NAMES.get(name) or name.decode("latin-1").lower()
        text = value.decode("latin-1")
        headers = self._headers
        headers[key] = f"{headers[key]}, {text}" if key in headers else text

    def on_headers_complete(self) -> None:
        """The head is whole; an interim one (1xx) is skipped."""
        status = self._parser.get_status_code()
        if status < _FINAL:
            self._headers.clear()
            return
        self._status = status
        self._head_seen = True
        if self._exchange is not None and self._exchange.head_only:
            # the parser cannot be told that no body follows, so it stops here and the connection is not used again
            self._complete = True
            raise _SurplusError
        if "content-length" not in self._headers and status not in _NO_BODY:
            encoding = self._headers.get("transfer-encoding")
            self._until_close = encoding is None or not encoding.lower().endswith("chunked")

    def on_body(self, body: bytes) -> None:
        """Some of the body."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """The message is whole."""
        if self._head_seen:
            self._complete = True
            # llhttp forgets the message's headers behind this
            self._persistent = self._parser.should_keep_alive()

    # -- inside -----------------------------------------------------------------------------------------------------

    def _clear(self) -> None:
        """Forget the last response."""
        self._status = 0
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self._barren = 0
        self._head_seen = False
        self._head_told = False
        self._complete = False
        self._persistent = False
        self._until_close = False

    def _is_flood(self) -> bool:
        """Whether too many bytes came that are no body: heads, chunk extensions, trailers."""
        if not self._body and not self._complete:
            return True
        if self._head_told:
            return False
        return sum(len(name) + len(value) for name, value in self._headers.items()) > self._max_head

    def _tell(self, exchange: PooledExchange) -> None:
        """Tell the sink what the parser found; the sink may cancel the exchange at any point."""
        if not self._head_told:
            self._head_told = True
            exchange.sink.on_head(self._status, self._headers)
        if self._body and self._exchange is exchange:
            body, self._body = self._body, []
            self._barren = 0
            exchange.sink.on_body(body[0] if len(body) == 1 else b"".join(body))

    def _finish(self, exchange: PooledExchange) -> None:
        """The response is whole and told: make room for the next request, which the sink may send at once."""
        self._exchange = None
        persistent = self._persistent
        self._clear()
        self._used = True
        if self._paused:
            self.resume()
        transport = self._transport
        # a server may answer before it has read the request; the rest of that must not stand in front of the next
        if persistent and transport is not None and transport.get_write_buffer_size() == 0:
            self._origin.give_back(self)
        else:
            self.close()
        exchange.end()

    def _break(self, exchange: PooledExchange, message: str) -> None:
        """Close it at once: the peer's response, or what was made of it, cannot be gone on with."""
        self.drop()
        exchange.fail("invalid", message)

    def _lose(self) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.lost(untouched=self._used and not self._touched)
