"""A server that does byte for byte what a script says, and a sink that writes down what it hears."""

import asyncio
import socket
import ssl as tls
import struct
from collections.abc import Awaitable, Callable, Mapping

from moa_router.upstream.transport import Exchange, TransportError

#: A deadline that only a broken test meets.
PATIENCE = 20.0
#: How long something is watched that must not happen; a slow machine makes this check weaker, never wrong.
A_WHILE = 0.15

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Peer:
    """The server's end of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def request(self) -> tuple[bytes, bytes]:
        """Read one request: its head and its body."""
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        return head, await self._reader.readexactly(int(length.split(b":")[1]))

    async def send(self, *pieces: bytes) -> None:
        """Send pieces, each in a packet of its own as far as one can."""
        for piece in pieces:
            self._writer.write(piece)
            await self._writer.drain()
            await asyncio.sleep(0)

    async def answer(self, response: bytes = OK) -> bytes:
        """Read a request and answer it; returns the request's body."""
        _, body = await self.request()
        await self.send(response)
        return body

    async def close(self) -> None:
        """End the connection in good order."""
        self._writer.close()

    async def reset(self) -> None:
        """End the connection with a RST."""
        raw = self._writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    async def closed(self) -> None:
        """Wait until the client has closed the connection."""
        try:
            while await self._reader.read(65536):
                pass
        except ConnectionError:
            pass


Script = Callable[[Peer], Awaitable[None]]


class ScriptedServer:
    """Plays a script on each connection: the first on the first, the last on all that are left."""

    def __init__(self, *scripts: Script) -> None:
        self._scripts = scripts
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Condition()
        self.connections = 0
        self.ended = 0
        self.port = 0

    async def start(self, *, host: str = "127.0.0.1", ssl: tls.SSLContext | None = None) -> None:
        self._server = await asyncio.start_server(self._on_connection, host, 0, ssl=ssl)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        results = await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()
        failures = [result for result in results if isinstance(result, Exception)]
        assert not failures, failures

    async def until_ended(self, count: int) -> None:
        """Wait until this many connections have played their script to its end."""
        async with asyncio.timeout(PATIENCE), self._changed:
            await self._changed.wait_for(lambda: self.ended >= count)

    async def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        script = self._scripts[min(self.connections, len(self._scripts) - 1)]
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await script(Peer(reader, writer))
            async with self._changed:
                self.ended += 1
                self._changed.notify_all()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        except asyncio.CancelledError:
            writer.transport.abort()
        finally:
            writer.close()


class Recorder:
    """A sink that writes down what it hears and lets a test wait for the end.

    Attributes:
        on: what to do when it hears something, by the name of it (`head`, `body`, `end`, `error`).
    """

    def __init__(self) -> None:
        self.on: dict[str, Callable[[], object]] = {}
        self._body = bytearray()
        self._over = asyncio.Event()
        self._heard = asyncio.Event()
        self.exchange: Exchange | None = None
        self.heard: list[str] = []
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self.error: TransportError | None = None

    def on_head(self, status: int, headers: Mapping[str, str]) -> None:
        self.status, self.headers = status, dict(headers)
        self._note("head")

    def on_body(self, data: bytes) -> None:
        assert data
        self._body += data
        self._note("body")

    def on_end(self) -> None:
        self._over.set()
        self._note("end")

    def on_error(self, error: TransportError) -> None:
        self.error = error
        self._over.set()
        self._note("error")

    def cancel(self) -> None:
        """Cancel its exchange."""
        assert self.exchange is not None
        self.exchange.cancel()

    def pause(self) -> None:
        """Pause its exchange."""
        assert self.exchange is not None
        self.exchange.pause()

    @property
    def body(self) -> bytes:
        """What it heard of the body."""
        return bytes(self._body)

    @property
    def order(self) -> list[str]:
        """What it heard, in order, the body counted once."""
        return list(dict.fromkeys(self.heard))

    async def over(self) -> "Recorder":
        """Wait for the end, good or bad."""
        async with asyncio.timeout(PATIENCE):
            await self._over.wait()
        return self

    async def until(self, what: str) -> None:
        """Wait until it has heard this."""
        async with asyncio.timeout(PATIENCE):
            while what not in self.heard:
                self._heard.clear()
                await self._heard.wait()

    async def ended(self) -> "Recorder":
        """Wait for the end, which must be a good one."""
        await self.over()
        assert self.error is None, self.error
        return self

    async def failed(self, kind: str) -> None:
        """Wait for the end, which must be of this kind."""
        await self.over()
        assert self.error is not None, f"a response with status {self.status}"
        assert self.error.kind == kind

    def _note(self, what: str) -> None:
        assert not {"end", "error"} & set(self.heard), f"{what} came behind the end"
        self.heard.append(what)
        self._heard.set()
        if what in self.on:
            self.on[what]()
