"""HTTP/1.1 towards upstreams, over `asyncio.Protocol` and llhttp.

The client library is where the time of a relayed request goes, so this is ours, and small: it sends a request whose
head was compiled beforehand and pushes what comes back into a sink, synchronously, from the socket's callback. There is
no task, queue or future between the two. What is not needed to call a model is not here: no redirects, no cookies, no
compression, no upgrade, no pipelining.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl as tls
from ipaddress import ip_address
from time import monotonic
from typing import TYPE_CHECKING, Literal, Protocol
from urllib.parse import urlsplit

import aiohappyeyeballs

from moa_router.upstream.connection import Connection

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ErrorKind = Literal["connect", "connect_timeout", "tls", "reset", "invalid"]

#: Bodies up to this size are copied into one write; larger ones are handed over in parts.
JOIN_BYTES = 64 * 1024
#: Seconds after which the next of several addresses is tried as well (RFC 8305, section 8).
HAPPY_EYEBALLS_DELAY = 0.25
#: Seconds a TLS peer may take to say goodbye when an origin is closed.
FAREWELL_SECONDS = 1.0

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_PATH = re.compile(r"/[\x21-\x7e]*")
_PORTS = {"http": 80, "https": 443}
#: Headers that `Route.send` writes itself; a second one would let two servers read two different requests.
_OWN_HEADERS = frozenset({"host", "content-length", "transfer-encoding"})


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
    """Takes a response; called synchronously as bytes arrive.

    It hears exactly one of `on_end` and `on_error`, unless the exchange is cancelled, and may cancel, pause or send
    from any of its methods: the connection is free again when `on_end` is called. What it raises goes to the loop's
    exception handler; raised before the end it costs the connection and comes back as an `invalid` error.
    """

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
        """End it: the sink hears nothing more, and the connection is closed so that the peer sees it at once.

        Does nothing to one that has ended.
        """
        ...

    def pause(self) -> None:
        """Stop reading from the connection, so that the peer feels it; what was read already is still delivered."""
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
            sink: what takes the response; it hears nothing before this has returned.
        """
        ...


class Origin:
    """One scheme, host and port, and the connections to it.

    Connections are kept warm for a while and the last one used is used first, so that a falling load needs fewer. A
    response that came whole leaves its connection for the next request; any other end closes it.

    Args:
        url: scheme, host and port, e.g. `http://vllm.models:8000`.
        ssl: the TLS context; needed for https.
        connect_timeout: seconds a connection may take to be made, name resolution and TLS included.
        max_idle: connections kept for later.
        max_age: seconds after which a connection is not used again, so that load follows scaling; spread by 10 %.
        idle_timeout: seconds after which an unused connection is closed.
        max_header_bytes: size of a response head at which it is refused; bounds everything else that is no body, too.

    Attributes:
        host: the host's name or address, without brackets.
        port: its port.
        max_age: as given.
        max_header_bytes: as given.

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
        scheme, self.host, self.port, self._authority = _split(url)
        if (ssl is None) == (scheme == "https"):
            raise ValueError("a TLS context belongs to https and to nothing else")
        self.max_age = max_age
        self.max_header_bytes = max_header_bytes
        self._ssl = ssl
        self._connect_timeout = connect_timeout
        self._max_idle = max_idle
        self._idle_timeout = idle_timeout
        self._open: set[Connection] = set()
        # in the order of their last use; a dict forgets any of them at once
        self._idle: dict[Connection, None] = {}
        self._connecting: dict[asyncio.Task[None], PooledExchange] = {}
        self._sweeper: asyncio.TimerHandle | None = None
        self._all_gone = asyncio.Event()
        self._closed = False

    @property
    def idle(self) -> int:
        """Connections kept for later."""
        return len(self._idle)

    @property
    def active(self) -> int:
        """Connections with a request on them; counted anew each time."""
        return sum(connection.busy for connection in self._open)

    def route(self, method: str, path: str, headers: Mapping[str, str]) -> Route:
        """Compile the head of requests.

        Args:
            method: the method, e.g. `POST`.
            path: path and query, percent-encoded.
            headers: what every request carries; host and framing are added.

        Raises:
            ValueError: something of it cannot be sent; a value that cannot is not repeated, it may be a secret.
        """
        if not _TOKEN.fullmatch(method) or method == "CONNECT":
            raise ValueError(f"not a method that can be requested: {method!r}")
        if not _PATH.fullmatch(path):
            raise ValueError(f"not a path that can be requested: {path!r}; write it from its first slash, encoded")
        for name, value in headers.items():
            if not _TOKEN.fullmatch(name) or not _VALUE.fullmatch(value):
                raise ValueError(f"header {name!r} has characters that cannot be sent")
            if name.lower() in _OWN_HEADERS:
                raise ValueError(f"header {name!r} is written by the transport; leave it out")
        lines = [f"{method} {path} HTTP/1.1", f"host: {self._authority}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return _Route(self, "\r\n".join(lines).encode("latin-1") + b"\r\n", head_only=method == "HEAD")

    async def aclose(self) -> None:
        """Close every connection; requests under way end with a `reset`, and later ones too."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        connecting = dict(self._connecting)
        for task, exchange in connecting.items():
            task.cancel()
            # a task that has not begun to run will never tell
            exchange.fail("reset", "the connection pool was closed")
        for connection in tuple(self._open):
            connection.close()
        await asyncio.gather(*connecting, return_exceptions=True)
        if self._open:
            self._all_gone.clear()
            try:
                async with asyncio.timeout(FAREWELL_SECONDS):
                    await self._all_gone.wait()
            except TimeoutError:
                for connection in tuple(self._open):
                    connection.drop()

    # -- for exchanges and connections ------------------------------------------------------------------------------

    def begin(self, exchange: PooledExchange) -> None:
        """Send a request on a warm connection, or on a new one."""
        idle = self._idle
        if idle:
            now = monotonic()
            while idle:
                connection, _ = idle.popitem()
                if connection.usable(now):
                    connection.carry(exchange)
                    return
                connection.close()
        self.begin_fresh(exchange)

    def begin_fresh(self, exchange: PooledExchange) -> None:
        """Send a request on a new connection."""
        loop = asyncio.get_running_loop()
        if self._closed:
            loop.call_soon(exchange.fail, "reset", "the connection pool is closed")
            return
        task = exchange.connecting = loop.create_task(self._connect(exchange))
        self._connecting[task] = exchange
        task.add_done_callback(self._connecting.pop)

    def gone(self, connection: Connection) -> None:
        """A connection is gone."""
        self._open.discard(connection)
        self._idle.pop(connection, None)
        if not self._open:
            self._all_gone.set()

    def give_back(self, connection: Connection) -> None:
        """A connection whose request is over and that is good for another, if it is wanted."""
        now = monotonic()
        if self._closed or len(self._idle) >= self._max_idle or not connection.usable(now):
            connection.close()
            return
        connection.idle_since = now
        self._idle[connection] = None
        if self._sweeper is None:
            self._sweep_in(self._idle_timeout)

    async def _connect(self, exchange: PooledExchange) -> None:
        try:
            async with asyncio.timeout(self._connect_timeout):
                connection = await self._dial()
        except TimeoutError:
            exchange.fail("connect_timeout", "no connection within the time for it")
        except tls.SSLError:
            exchange.fail("tls", "the TLS handshake failed")
        except (OSError, RuntimeError):
            # uvloop has RuntimeErrors for some system errors
            exchange.fail("connect", "no connection can be made")
        except asyncio.CancelledError:
            exchange.fail("reset", "the request was given up while it had no connection")
            raise
        else:
            exchange.connecting = None
            if connection.stands:
                self._open.add(connection)
            connection.carry(exchange)

    async def _dial(self) -> Connection:
        """Make a connection to whichever of the host's addresses answers first."""
        loop = asyncio.get_running_loop()
        name = None if self._ssl is None else self.host
        if _is_address(self.host):
            _, connection = await loop.create_connection(
                self._connection, self.host, self.port, ssl=self._ssl, server_hostname=name
            )
            return connection
        infos = await loop.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        peer = await aiohappyeyeballs.start_connection(infos, happy_eyeballs_delay=HAPPY_EYEBALLS_DELAY)
        try:
            _, connection = await loop.create_connection(
                self._connection, sock=peer, ssl=self._ssl, server_hostname=name
            )
        except BaseException:
            peer.close()
            raise
        return connection

    def _connection(self) -> Connection:
        return Connection(self)

    def _sweep_in(self, seconds: float) -> None:
        self._sweeper = asyncio.get_running_loop().call_later(seconds, self._sweep)

    def _sweep(self) -> None:
        """Close what was unused for too long: one timer for all connections, and none while there are none."""
        self._sweeper = None
        now = monotonic()
        stale = [connection for connection in self._idle if now - connection.idle_since >= self._idle_timeout]
        for connection in stale:
            del self._idle[connection]
            connection.close()
        if self._idle:
            oldest = next(iter(self._idle))
            self._sweep_in(oldest.idle_since + self._idle_timeout - now)


class PooledExchange:
    """A request, from the moment it is sent until its sink has heard the last of it; an `Exchange`.

    Attributes:
        parts: the request in bytes; let go with the first byte of the response.
        sink: what hears of it.
        head_only: whether the response has no body whatever its head says (HEAD).
        paused: whether its sink wants no more for now.
        connecting: the task that makes a connection for it, while there is one.
        connection: what it is on, while it is.
    """

    __slots__ = ("_done", "_origin", "connecting", "connection", "head_only", "parts", "paused", "sink")

    def __init__(self, origin: Origin, parts: tuple[bytes, ...], sink: Sink, *, head_only: bool) -> None:
        self.parts = parts
        self.sink = sink
        self.head_only = head_only
        self.paused = False
        self.connecting: asyncio.Task[None] | None = None
        self.connection: Connection | None = None
        self._origin = origin
        self._done = False

    def cancel(self) -> None:
        """End it; the sink hears nothing more."""
        if self._done:
            return
        connecting, connection = self.connecting, self.connection
        self._settle()
        if connecting is not None:
            connecting.cancel()
        if connection is not None:
            connection.drop()

    def pause(self) -> None:
        """Stop reading."""
        self.paused = True
        if self.connection is not None:
            self.connection.pause()

    def resume(self) -> None:
        """Read on."""
        self.paused = False
        if self.connection is not None:
            self.connection.resume()

    def end(self) -> None:
        """Tell the sink that the response is whole."""
        self._settle()
        try:
            self.sink.on_end()
        except Exception as defect:  # noqa: BLE001 - a sink's defect is not its connection's
            self.report(defect)

    def fail(self, kind: ErrorKind, message: str) -> None:
        """Tell the sink that it is over, unless it has heard so or wants to hear nothing."""
        if self._done:
            return
        self._settle()
        try:
            self.sink.on_error(TransportError(kind, message))
        except Exception as defect:  # noqa: BLE001 - a sink's defect is not its connection's
            self.report(defect)

    def lost(self, *, untouched: bool) -> None:
        """Its connection is gone.

        A server may close an idle connection in the very moment a request is put on it. Such a request is sent once
        more: on a new connection, so that there is no third time, and never when a byte of a response was seen.
        RFC 9110, section 9.2.2 keeps clients from repeating a POST unless they know better. Here we do: a server that
        closes a connection it has served before, without a byte of an answer, is nearly always this race; and should it
        have read the request nevertheless, a completion changes nothing there: the worst is an answer computed in vain.

        Args:
            untouched: whether the connection had served before and gave no byte for this request.
        """
        self.connection = None
        if untouched and not self._done:
            self._origin.begin_fresh(self)
        else:
            self.fail("reset", "the connection was closed before the response was whole")

    def report(self, defect: Exception) -> None:
        """Say on the loop's exception handler that the sink has failed."""
        context = {"message": "a response sink failed", "exception": defect}
        asyncio.get_running_loop().call_exception_handler(context)

    def _settle(self) -> None:
        self._done = True
        self.connecting = self.connection = None
        self.parts = ()


class _Route:
    __slots__ = ("_head", "_head_only", "_origin")

    def __init__(self, origin: Origin, head: bytes, *, head_only: bool) -> None:
        self._origin = origin
        self._head = head
        self._head_only = head_only

    def send(self, headers: bytes, body: Sequence[bytes], sink: Sink) -> PooledExchange:
        size = sum(map(len, body))
        framing = b"content-length: %d\r\n\r\n" % size
        if size <= JOIN_BYTES:
            parts: tuple[bytes, ...] = (b"".join((self._head, headers, framing, *body)),)
        else:
            parts = (self._head + headers + framing, *body)
        exchange = PooledExchange(self._origin, parts, sink, head_only=self._head_only)
        self._origin.begin(exchange)
        return exchange


def _split(url: str) -> tuple[str, str, int, str]:
    """Scheme, host, port and authority of an origin's URL."""
    parts = urlsplit(url)
    if parts.username is not None or parts.password is not None:
        raise ValueError("credentials do not belong into an upstream's URL; send them as a header")
    if parts.scheme not in _PORTS or not parts.hostname:
        raise ValueError(f"not an http or https URL with a host: {url!r}")
    if parts.path not in {"", "/"} or parts.query or parts.fragment:
        raise ValueError(f"not an origin: {url!r}; leave out what follows the host and port")
    port = parts.port
    host = _encoded(parts.hostname)
    authority = f"[{host}]" if ":" in host else host
    return parts.scheme, host, port or _PORTS[parts.scheme], authority if port is None else f"{authority}:{port}"


def _encoded(host: str) -> str:
    """A host as it goes over the wire."""
    try:
        encoded = host if _is_address(host) else host.encode("idna").decode("ascii")
    except UnicodeError as error:
        raise ValueError(f"not a host name: {host!r}") from error
    if not encoded.isprintable() or " " in encoded:
        raise ValueError(f"not a host name: {host!r}")
    return encoded


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
