"""A model server that always says the same: so cheap that what stands in front of it is what is measured.

How it behaves is said in the first segment of the path, `/wait-20,every-2,events-100/v1/chat/completions`: milliseconds
before the (first) answer, milliseconds between the events of a stream, and their number.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from dataclasses import dataclass
from functools import cache

import orjson
import uvloop

#: What every token of a stream has in it, and nothing before the first.
TOKEN = b"word"
ANSWER_BYTES = 1024

_USAGE = {"prompt_tokens": 120, "completion_tokens": 200, "total_tokens": 320}
_HEAD = {"id": "chatcmpl-1", "created": 1_700_000_000, "model": "constant"}
_EVENT_STREAM = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
)
_DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Manner:
    """How to answer.

    Attributes:
        wait: seconds before the answer, or before its first token.
        every: seconds between the events of a stream; 0 for all at once.
        events: tokens of a stream.
    """

    wait: float = 0.0
    every: float = 0.0
    events: int = 20


@cache
def manner_of(path: bytes) -> Manner:
    """Read a path's first segment; a path without one means the default."""
    segment = path.decode().split("/")[1]
    said = dict(part.split("-") for part in segment.split(",") if "-" in part)
    return Manner(float(said.get("wait", 0)) / 1e3, float(said.get("every", 0)) / 1e3, int(said.get("events", 20)))


def _whole_answer() -> bytes:
    message = {"role": "assistant", "content": "A candidate's text of a thousand bytes. ".ljust(ANSWER_BYTES, "x")}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    body = orjson.dumps({**_HEAD, "object": "chat.completion", "choices": [choice], "usage": _USAGE})
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


def _event(delta: dict[str, str], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return _chunk(b"data: %b\n\n" % orjson.dumps({**_HEAD, "object": "chat.completion.chunk", "choices": [choice]}))


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


_WHOLE = _whole_answer()
_ROLE = _event({"role": "assistant", "content": ""})
_TOKEN_EVENT = _event({"content": f" {TOKEN.decode()}"})
_END = (
    _event({}, "stop")
    + _chunk(
        b"data: %b\n\n" % orjson.dumps({**_HEAD, "object": "chat.completion.chunk", "choices": [], "usage": _USAGE})
    )
    + _chunk(_DONE)
    + b"0\r\n\r\n"
)


class Connection(asyncio.Protocol):
    """One connection; a request is whole when as many bytes have come as its head promises."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment] # uvloop's are no asyncio.Transport by class

    def connection_lost(self, _: Exception | None) -> None:
        self._transport = None

    def data_received(self, data: bytes) -> None:
        self._buffer = buffer = self._buffer + data if self._buffer else data
        head = buffer.find(b"\r\n\r\n")
        if head < 0:
            return
        field = buffer[:head].lower().find(b"content-length: ")
        length = int(buffer[field + 16 : head].split(b"\r\n", 1)[0])
        if len(buffer) < head + 4 + length:
            return
        self._buffer = b""
        manner = manner_of(buffer[: buffer.index(b" HTTP/")].partition(b" ")[2])
        answer = self._stream if b'"stream":true' in buffer else self._whole
        if manner.wait:
            self._loop.call_later(manner.wait, answer, manner)
        else:
            answer(manner)

    def _whole(self, _: Manner) -> None:
        self._write(_WHOLE)

    def _stream(self, manner: Manner) -> None:
        self._write(_EVENT_STREAM + _ROLE)
        if manner.every:
            self._pace(manner, self._loop.time(), 0)
        else:
            self._write(_TOKEN_EVENT * manner.events + _END)

    def _pace(self, manner: Manner, begun: float, sent: int) -> None:
        if self._transport is None:
            return
        if sent == manner.events:
            self._write(_END)
            return
        self._write(_TOKEN_EVENT)
        due = begun + (sent + 1) * manner.every
        self._loop.call_at(due, self._pace, manner, begun, sent + 1)

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)


async def serve() -> None:
    """Serve until the process is ended."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Connection, "127.0.0.1", 0, family=socket.AF_INET, backlog=4096)
    port = server.sockets[0].getsockname()[1]
    print(f"upstream listening on http://127.0.0.1:{port}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    sys.exit(uvloop.run(serve()))
