"""Connections without sockets: the test is the peer, and decides what is read when."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any

from moa_router.upstream.transport import Exchange, Origin, Route, TransportError


class Wire(asyncio.Transport):
    """A connection of which the test is the other end."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self._protocol = protocol
        self.written = b""
        #: What was handed over to be written, as it was handed over.
        self.handed: list[bytes | bytearray | memoryview] = []
        self._reading = True
        self.closing = False
        #: Whether the protocol has heard that it is closed.
        self.lost = False
        protocol.connection_made(self)

    def say(self, data: bytes) -> None:
        """Bytes from the peer."""
        if not self.closing:
            self._protocol.data_received(data)

    def hang_up(self) -> None:
        """The peer closes."""
        self.abort()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writelines([data])

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        assert not self.closing
        parts = list(list_of_data)
        self.handed += parts
        self.written += b"".join(parts)

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.closing

    def is_reading(self) -> bool:
        return self._reading

    def pause_reading(self) -> None:
        assert self._reading
        self._reading = False

    def resume_reading(self) -> None:
        assert not self._reading
        self._reading = True

    def close(self) -> None:
        self.abort()

    def abort(self) -> None:
        if not self.closing:
            self.closing = True
            asyncio.get_running_loop().call_soon(self._lose)

    def _lose(self) -> None:
        self.lost = True
        self._protocol.connection_lost(None)


class Heard:
    """A sink that writes down what it hears.

    Args:
        at: what to do when it hears `head`, `body`, `end` or `error`.
    """

    exchange: Exchange

    def __init__(self, at: Mapping[str, Callable[["Heard"], object]] = {}) -> None:
        self._at = at
        self.story: list[str] = []
        self.head: tuple[int, Mapping[str, str]] | None = None
        self.body = b""
        self.error: TransportError | None = None

    def on_head(self, status: int, headers: Mapping[str, str]) -> None:
        self.head = status, dict(headers)
        self._hear("head")

    def on_body(self, data: bytes) -> None:
        assert data
        self.body += data
        self._hear("body")

    def on_end(self) -> None:
        self._hear("end")

    def on_error(self, error: TransportError) -> None:
        self.error = error
        self._hear("error")

    def cancel(self) -> None:
        self.exchange.cancel()

    @property
    def over(self) -> bool:
        return self.ends > 0

    @property
    def ends(self) -> int:
        return sum(word in {"end", "error"} for word in self.story)

    @property
    def orderly(self) -> bool:
        """A head before anything of a body, and nothing behind an end."""
        told = [word for word in self.story if word != "body"]
        return (
            told in ([], ["head"], ["error"], ["head", "end"], ["head", "error"])
            and self.story[:1] != ["body"]
            and (not self.over or self.story[-1] != "body")
        )

    def _hear(self, word: str) -> None:
        self.story.append(word)
        if word in self._at:
            self._at[word](self)


class World:
    """A loop whose connections are wires, and an origin and a route in it.

    Args:
        wire: the kind of wires.
        max_idle: the origin's.
    """

    def __init__(self, wire: type[Wire] = Wire, *, max_idle: int = 256) -> None:
        self._wire = wire
        self.wires: list[Wire] = []
        #: What the loop's exception handler was told.
        self.defects: list[object] = []
        #: What a peer says as soon as there is a connection.
        self.greeting = b""
        self.origin = Origin("http://127.0.0.1:1", max_idle=max_idle)
        self.route = self.origin.route("POST", "/", {})
        #: Holds connections back until it is set.
        self.open = asyncio.Event()
        self.open.set()
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: self.defects.append(context["exception"]))
        loop.create_connection = self._connect  # type: ignore[assignment, method-assign]  # the test's own wire

    async def _connect(
        self, factory: Callable[[], asyncio.Protocol], *_: object, **__: object
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        await self.open.wait()
        protocol = factory()
        wire = self._wire(protocol)
        self.wires.append(wire)
        if self.greeting:
            wire.say(self.greeting)
        return wire, protocol


def ask(route: Route, *body: bytes, **at: Callable[[Heard], object]) -> Heard:
    """Send a request; `at` is what to do when its sink hears something."""
    heard = Heard(at)
    heard.exchange = route.send(b"", body, heard)
    return heard


async def settle() -> None:
    """Let the loop do what it has to do."""
    for _ in range(8):
        await asyncio.sleep(0)


def run(case: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        runner.run(case)
