"""The transport's twin: the same interface over aiohttp's client, slower and written by others.

What both do alike under the same tests is a property of HTTP rather than of our parser or our pool.
"""

import asyncio
import io
import ssl as tls
from collections.abc import Mapping, Sequence
from urllib.parse import urljoin

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from moa_router.upstream.transport import ErrorKind, Sink, TransportError


class AiohttpOrigin:
    """One scheme, host and port; takes the arguments of `Origin` that aiohttp knows."""

    def __init__(
        self,
        url: str,
        *,
        ssl: tls.SSLContext | None = None,
        connect_timeout: float = 5.0,
        max_header_bytes: int = 65536,
    ) -> None:
        self._url = url
        self._exchanges: set[AiohttpExchange] = set()
        self._closed = False
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=ssl or True),
            timeout=aiohttp.ClientTimeout(total=None, connect=connect_timeout),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            max_field_size=max_header_bytes,
            skip_auto_headers=("accept", "accept-encoding", "user-agent"),
        )

    def route(self, method: str, path: str, headers: Mapping[str, str]) -> "AiohttpRoute":
        """Compile the head of requests."""
        return AiohttpRoute(self, method, URL(urljoin(self._url, path), encoded=True), headers)

    def start(self, exchange: "AiohttpExchange") -> None:
        """Own an exchange until it has ended."""
        if self._closed:
            exchange.abort()
            return
        self._exchanges.add(exchange)
        exchange.task.add_done_callback(lambda _: self._exchanges.discard(exchange))

    async def aclose(self) -> None:
        """End what is under way, and close every connection."""
        self._closed = True
        exchanges = tuple(self._exchanges)
        for exchange in exchanges:
            exchange.abort()
        await asyncio.gather(*(exchange.task for exchange in exchanges), return_exceptions=True)
        await self.session.close()


class AiohttpRoute:
    """A compiled request head."""

    def __init__(self, origin: AiohttpOrigin, method: str, url: URL, headers: Mapping[str, str]) -> None:
        self._origin = origin
        self._method = method
        self._url = url
        self._headers = CIMultiDict(headers)
        self._headers.setdefault("content-type", "application/octet-stream")

    def send(self, headers: bytes, body: Sequence[bytes], sink: Sink) -> "AiohttpExchange":
        """Send a request."""
        lines = CIMultiDict(self._headers)
        for line in headers.decode("latin-1").splitlines():
            name, _, value = line.partition(":")
            lines.add(name, value.strip())
        lines["content-length"] = str(sum(map(len, body)))
        exchange = AiohttpExchange(self._origin.session, self._method, self._url, lines, b"".join(body), sink)
        self._origin.start(exchange)
        return exchange


class AiohttpExchange:
    """A request under way, in a task."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        method: str,
        url: URL,
        headers: CIMultiDict[str],
        body: bytes,
        sink: Sink,
    ) -> None:
        self._sink = sink
        self._reading = asyncio.Event()
        self._reading.set()
        self._over = False
        self.task = asyncio.create_task(self._run(session, method, url, headers, body))

    def cancel(self) -> None:
        """End it; the sink hears nothing more."""
        if not self._over:
            self._over = True
            self.task.cancel()

    def abort(self) -> None:
        """End it from below."""
        self.task.cancel()
        self._fail("reset", "the connection pool was closed")

    def pause(self) -> None:
        """Stop reading."""
        self._reading.clear()

    def resume(self) -> None:
        """Read on."""
        self._reading.set()

    async def _run(
        self, session: aiohttp.ClientSession, method: str, url: URL, headers: CIMultiDict[str], body: bytes
    ) -> None:
        try:
            async with session.request(
                method, url, headers=headers, data=io.BytesIO(body), allow_redirects=False
            ) as response:
                await self._deliver(response)
        except (aiohttp.ClientSSLError, tls.SSLError):
            self._fail("tls", "the TLS handshake failed")
        except TimeoutError:
            self._fail("connect_timeout", "no connection within the time for it")
        except aiohttp.ClientConnectorError:
            self._fail("connect", "no connection can be made")
        except aiohttp.ClientResponseError:
            self._fail("invalid", "what came is not an HTTP response")
        except (aiohttp.ClientError, ConnectionError):
            self._fail("reset", "the connection was closed before the response was whole")
        else:
            if not self._over:
                self._over = True
                self._sink.on_end()

    async def _deliver(self, response: aiohttp.ClientResponse) -> None:
        headers: dict[str, str] = {}
        for name, value in response.headers.items():
            key = name.lower()
            headers[key] = f"{headers[key]}, {value}" if key in headers else value
        if not self._over:
            self._sink.on_head(response.status, headers)
        async for data in response.content.iter_any():
            await self._reading.wait()
            if data and not self._over:
                self._sink.on_body(data)
        await self._reading.wait()

    def _fail(self, kind: ErrorKind, message: str) -> None:
        if not self._over:
            self._over = True
            self._sink.on_error(TransportError(kind, message))
