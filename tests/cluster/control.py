"""How other processes talk to a cluster's supervisor: one line of JSON each way over a socket in its directory."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict
from tests.cluster.errors import ClusterError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

_LONGEST_LINE = 64 * 1024
ANSWER_DEADLINE = 90.0


class Request(BaseModel):
    """What to do with which component."""

    model_config = ConfigDict(extra="forbid")

    verb: Literal["start", "stop", "report"]
    component: str = ""


class Process(BaseModel):
    """A running component."""

    model_config = ConfigDict(extra="forbid")

    pid: int
    resident_bytes: int


class Answer(BaseModel):
    """What came of it."""

    model_config = ConfigDict(extra="forbid")

    error: str = ""
    processes: dict[str, Process] = {}


def ask(path: Path, request: Request) -> Answer:
    """Send a request and wait for the answer, 90 s at most.

    Raises:
        ClusterError: The supervisor refused, or is not there; says why.
    """
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(ANSWER_DEADLINE)
            connection.connect(str(path))
            connection.sendall(request.model_dump_json().encode() + b"\n")
            with connection.makefile("rb") as reader:
                line = reader.readline(_LONGEST_LINE)
    except OSError as error:
        raise ClusterError(f"the cluster's supervisor does not answer: {error}") from error
    if not line:
        raise ClusterError("the cluster's supervisor went away before it answered")
    answer = Answer.model_validate_json(line)
    if answer.error:
        raise ClusterError(answer.error)
    return answer


@contextlib.asynccontextmanager
async def serving(path: Path, handle: Callable[[Request], Awaitable[Answer]]) -> AsyncIterator[None]:
    """Answer requests while the context is open, one after the other."""
    turn = asyncio.Lock()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            line = await reader.readline()
            if line:
                async with turn:
                    answer = await _answer(line, handle)
                writer.write(answer.model_dump_json().encode() + b"\n")
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_unix_server(serve, path=path, limit=_LONGEST_LINE)
    try:
        yield
    finally:
        server.close()


async def _answer(line: bytes, handle: Callable[[Request], Awaitable[Answer]]) -> Answer:
    try:
        return await handle(Request.model_validate_json(line))
    except (ClusterError, TimeoutError, ValueError) as error:
        return Answer(error=str(error))
