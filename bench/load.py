"""A client that costs little and sees when the first token comes."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import orjson

from bench.upstream import TOKEN

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

REPLY_SECONDS = 60.0
_OPENAI_PATH = "/v1/chat/completions"


class BadReplyError(Exception):
    """An answer that makes a measurement worthless: not a 200, degraded, or none at all."""


@dataclass(slots=True)
class Reply:
    """One answer.

    Attributes:
        first: seconds from the request to the first token of a stream; to the end where nothing was streamed.
        total: seconds from the request to the end.
        late: seconds the client sent it later than it meant to.
        body: the body as it came, chunked framing included.
    """

    first: float
    total: float
    body: bytes
    late: float = 0.0


def request(url: str, model: str, *, stream: bool = False, path: str = _OPENAI_PATH, turns: int = 1) -> bytes:
    """A chat completion request, as bytes.

    Args:
        url: scheme, host and port of whom it is for.
        model: the model name.
        stream: whether to ask for a stream.
        path: the path.
        turns: how long the conversation is.
    """
    question = "Why is the sky blue at noon and red in the evening? Answer in one paragraph. " * 4
    messages = [{"role": "system", "content": "You are an assistant that answers with care."}]
    for turn in range(turns):
        messages.append({"role": "user", "content": f"{turn}. {question}"})
        if turn < turns - 1:
            messages.append({"role": "assistant", "content": f"{turn}. Because of Rayleigh scattering. " * 8})
    body = orjson.dumps({"model": model, "messages": messages} | ({"stream": True} if stream else {}))
    head = f"POST {path} HTTP/1.1\r\nhost: {urlsplit(url).netloc}\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


class Connection(asyncio.Protocol):
    """A connection to a server; asks one thing at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._reply: asyncio.Future[Reply] | None = None
        self._parts: list[bytes] = []
        self._asked = 0.0
        self._first = 0.0
        self._left = 0
        self._chunked = False

    async def ask(self, request: bytes) -> Reply:
        """Send a request and wait for the whole answer.

        Raises:
            BadReplyError: the answer was not a plain 200.
        """
        if self._transport is None:
            raise BadReplyError("the server has closed the connection")
        reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._reply = reply
        self._parts, self._first, self._left = [], 0.0, 0
        self._asked = perf_counter()
        self._transport.write(request)
        async with asyncio.timeout(REPLY_SECONDS):
            await reply
        return reply.result()

    def close(self) -> None:
        """Close it."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment] # uvloop's are no asyncio.Transport by class

    def connection_lost(self, _: Exception | None) -> None:
        self._transport = None
        self._fail("the server closed the connection in the middle of an answer")

    def data_received(self, data: bytes) -> None:
        if not self._parts:
            head, _, data = data.partition(b"\r\n\r\n")
            if not self._begin(head.lower()):
                return
        self._parts.append(data)
        self._left -= len(data)
        if self._chunked and not self._first and TOKEN in data:
            self._first = perf_counter() - self._asked
        if data.endswith(b"0\r\n\r\n") if self._chunked else self._left <= 0:
            self._end()

    def _begin(self, head: bytes) -> bool:
        if not head.startswith(b"http/1.1 200 ") or b"x-moa-degraded" in head:
            self._fail(f"an answer began with {head[:200]!r}")
            return False
        self._chunked = b"chunked" in head
        if not self._chunked:
            self._left = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        return True

    def _end(self) -> None:
        total = perf_counter() - self._asked
        reply, self._reply = self._reply, None
        if reply is not None and not reply.done():
            reply.set_result(Reply(self._first or total, total, b"".join(self._parts)))

    def _fail(self, message: str) -> None:
        reply, self._reply = self._reply, None
        if reply is not None and not reply.done():
            reply.set_exception(BadReplyError(message))


async def connect(url: str) -> Connection:
    """A new connection to a server."""
    host, _, port = urlsplit(url).netloc.rpartition(":")
    return (await asyncio.get_running_loop().create_connection(Connection, host, int(port)))[1]


@contextlib.asynccontextmanager
async def connections(url: str, count: int) -> AsyncIterator[list[Connection]]:
    """Connections to a server, closed at the end; more may be added to the list."""
    opened: list[Connection] = []
    try:
        while len(opened) < count:
            opened.append(await connect(url))
        yield opened
    finally:
        for connection in opened:
            connection.close()


async def closed_loop(clients: Sequence[Connection], request: bytes, requests: int) -> None:
    """Each client asks again as soon as it has its answer, until all have asked `requests` times together."""
    left = iter(range(requests))

    async def ask_on(client: Connection) -> None:
        for _ in left:
            await client.ask(request)

    async with asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(ask_on(client))


async def open_loop(url: str, request: bytes, arrivals: Sequence[float]) -> list[Reply]:
    """Ask at fixed times, whether or not earlier answers are there; answers in the order they were asked for.

    Args:
        url: whom to ask.
        request: what to ask.
        arrivals: when, in seconds from now, ascending.
    """
    loop = asyncio.get_running_loop()
    free: deque[Connection] = deque()
    async with connections(url, 0) as opened:

        async def ask(due: float) -> Reply:
            if not free:
                opened.append(await connect(url))
                free.append(opened[-1])
            client = free.pop()
            late = loop.time() - due
            reply = await client.ask(request)
            reply.late = late
            free.append(client)
            return reply

        begun = loop.time()
        async with asyncio.TaskGroup() as group:
            tasks = []
            for due in arrivals:
                await asyncio.sleep(begun + due - loop.time())
                tasks.append(group.create_task(ask(begun + due)))
        return [task.result() for task in tasks]
