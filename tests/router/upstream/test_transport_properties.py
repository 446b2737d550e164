"""What holds for any response in any pieces, and for any order of events; the wire is the test's own, no socket."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from moa_router.upstream.transport import Exchange, Origin, TransportError

INTERIM = b"HTTP/1.1 103 Early Hints\r\nx-early: 1\r\n\r\n"


class Wire(asyncio.Transport):
    """A connection of which the test is the other end."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self._protocol = protocol
        self.written = b""
        self.paused = False
        self.closing = False
        protocol.connection_made(self)

    def say(self, data: bytes) -> None:
        """Bytes from the peer."""
        if not self.closing:
            self._protocol.data_received(data)

    def hang_up(self) -> None:
        """The peer closes."""
        self.close()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.closing
        self.written += data

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.write(b"".join(list_of_data))

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None:
        assert not self.paused
        self.paused = True

    def resume_reading(self) -> None:
        assert self.paused
        self.paused = False

    def close(self) -> None:
        if not self.closing:
            self.closing = True
            asyncio.get_running_loop().call_soon(self._protocol.connection_lost, None)

    def abort(self) -> None:
        self.close()


class Heard:
    """A sink that writes down what it hears."""

    def __init__(self) -> None:
        self.story: list[str] = []
        self.head: tuple[int, Mapping[str, str]] | None = None
        self.body = b""
        self.error: TransportError | None = None

    def on_head(self, status: int, headers: Mapping[str, str]) -> None:
        self.story.append("head")
        self.head = status, dict(headers)

    def on_body(self, data: bytes) -> None:
        assert data
        self.story.append("body")
        self.body += data

    def on_end(self) -> None:
        self.story.append("end")

    def on_error(self, error: TransportError) -> None:
        self.story.append("error")
        self.error = error

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


class World:
    """A loop whose connections are wires."""

    def __init__(self) -> None:
        self.wires: list[Wire] = []
        self.defects: list[object] = []
        #: Holds connections back until it is set.
        self.open = asyncio.Event()
        self.open.set()
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: self.defects.append(context))
        loop.create_connection = self._connect  # type: ignore[assignment, method-assign]  # the test's own wire

    async def _connect(
        self, factory: Callable[[], asyncio.Protocol], *_: object, **__: object
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        await self.open.wait()
        protocol = factory()
        self.wires.append(Wire(protocol))
        return self.wires[-1], protocol


async def settle() -> None:
    """Let the loop do what it has to do."""
    for _ in range(8):
        await asyncio.sleep(0)


def run(case: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        runner.run(case)


@dataclass(frozen=True)
class Response:
    """A response as a server means it."""

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    body: tuple[bytes, ...] = ()
    framing: str = "length"
    interim: int = 0
    trailers: bytes = b""

    def encoded(self) -> bytes:
        """Its bytes."""
        lines = [f"HTTP/1.1 {self.status} Whatever", *(f"{name}: {value}" for name, value in self.headers)]
        body = b"".join(self.body)
        if self.framing == "length":
            lines.append(f"content-length: {len(body)}")
        elif self.framing == "chunked":
            lines.append("Transfer-Encoding: chunked")
            body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in self.body if chunk)
            body += b"0\r\n" + self.trailers + b"\r\n"
        return INTERIM * self.interim + "\r\n".join([*lines, "", ""]).encode("latin-1") + body

    def heard_by(self, heard: Heard) -> bool:
        """Whether that is what was heard."""
        assert heard.head is not None
        status, headers = heard.head
        expected: dict[str, str] = {}
        for name, value in self.headers:
            key = name.lower()
            expected[key] = f"{expected[key]}, {value}" if key in expected else value
        framing = {"content-length", "transfer-encoding"}
        told = {name: value for name, value in headers.items() if name not in framing}
        return (status, told, heard.body) == (self.status, expected, b"".join(self.body))


VALUES = st.text(
    st.characters(codec="latin-1", exclude_categories=["Cc"]).filter(lambda char: char != "\xad"), max_size=12
).map(str.strip)
HEADERS = st.tuples(st.sampled_from(["X-One", "x-one", "Content-Type", "Date", "etag", "X-Request-Id"]), VALUES)
FRAMED = st.builds(
    Response,
    status=st.sampled_from([200, 201, 307, 400, 429, 500, 503, 599]),
    headers=st.lists(HEADERS, max_size=5).map(tuple),
    body=st.lists(st.binary(max_size=24), max_size=4).map(tuple),
    framing=st.sampled_from(["length", "chunked"]),
    interim=st.integers(0, 2),
    trailers=st.sampled_from([b"", b"x-late: 1\r\n"]),
)
CUTS = st.lists(st.integers(min_value=0), max_size=16)
BYTEWISE = list(range(2000))


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(position % (len(data) + 1) for position in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(edges) if start < end]


@given(st.lists(st.tuples(FRAMED, CUTS), min_size=1, max_size=4))
@example([(Response(body=(b"hello",), framing=framing, interim=1), BYTEWISE) for framing in ("length", "chunked")] * 2)
def test_any_pieces_give_the_same_response(conversation: list[tuple[Response, list[int]]]) -> None:
    """And of several in a row none learns anything from the one before it."""

    async def case() -> None:
        world = World()
        origin = Origin("http://127.0.0.1:1")
        route = origin.route("POST", "/", {})
        for response, cuts in conversation:
            heard = Heard()
            route.send(b"", (), heard)
            await settle()
            for piece in cut(response.encoded(), cuts):
                assert not heard.over
                world.wires[0].say(piece)
            assert heard.story[-1] == "end"
            assert heard.orderly
            assert response.heard_by(heard)
            assert (origin.idle, origin.active) == (1, 0)
        assert len(world.wires) == 1
        await origin.aclose()
        assert world.defects == []

    run(case())


@given(FRAMED, CUTS)
def test_a_body_without_a_length_ends_with_its_connection(response: Response, cuts: list[int]) -> None:
    async def case() -> None:
        world = World()
        origin = Origin("http://127.0.0.1:1")
        heard = Heard()
        origin.route("POST", "/", {}).send(b"", (), heard)
        await settle()
        unframed = Response(response.status, response.headers, response.body, "close", response.interim)
        for piece in cut(unframed.encoded(), cuts):
            world.wires[0].say(piece)
        assert not heard.over
        world.wires[0].hang_up()
        await settle()
        assert heard.story[-1] == "end"
        assert heard.orderly
        assert unframed.heard_by(heard)
        assert (origin.idle, origin.active) == (0, 0)
        await origin.aclose()
        assert world.defects == []

    run(case())


@given(FRAMED, CUTS, st.integers(min_value=0))
def test_a_response_cut_short_is_never_taken_for_a_whole_one(response: Response, cuts: list[int], length: int) -> None:
    async def case() -> None:
        world = World()
        origin = Origin("http://127.0.0.1:1")
        heard = Heard()
        origin.route("POST", "/", {}).send(b"", (), heard)
        await settle()
        data = response.encoded()
        for piece in cut(data[: length % len(data)], cuts):
            world.wires[0].say(piece)
        assert not heard.over
        world.wires[0].hang_up()
        await settle()
        assert heard.error is not None
        assert heard.error.kind == "reset"
        assert heard.orderly
        assert b"".join(response.body).startswith(heard.body)
        assert len(world.wires) == 1
        await origin.aclose()
        assert world.defects == []

    run(case())


NOISE = st.lists(
    st.sampled_from(
        [
            b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 ", b"HTTP/1.0 204 \r\n", b"HTTP/2 200\r\n", b"HTTP/1.1 101 Switch\r\n",
            b"content-length: 3\r\n", b"content-length: -1\r\n", b"content-length: 99999999999999999999\r\n",
            b"transfer-encoding: chunked\r\n", b"transfer-encoding: gzip\r\n", b"upgrade: x\r\nconnection: upgrade\r\n",
            b"connection: close\r\n", b"\r\n", b"\n", b"\r", b"\0", b"3\r\nabc\r\n", b"0\r\n\r\n", b"abc",
            b"ffffffff\r\n", b": \r\n", b" folded\r\n", b"x: \xff\r\n", b"GET / HTTP/1.1\r\n",
        ]
    )
    | st.binary(max_size=8),
    max_size=12,
).map(b"".join)  # fmt: skip


@settings(max_examples=300)
@given(NOISE | st.tuples(FRAMED.map(Response.encoded), NOISE).map(b"".join), CUTS)
@example(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\naHTTP/1.1 500 OK\r\ncontent-length: 1\r\n\r\nb", [])
@example(b"HTTP/1.1 101 Switch\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nabc", [])
def test_whatever_comes_there_is_one_end(noise: bytes, cuts: list[int]) -> None:
    """And what a peer sends beyond its response reaches nobody."""

    async def case() -> None:
        world = World()
        origin = Origin("http://127.0.0.1:1")
        heard, later = Heard(), Heard()
        route = origin.route("POST", "/", {})
        route.send(b"", (), heard)
        await settle()
        for piece in cut(noise, cuts):
            world.wires[0].say(piece)
        if len(world.wires[0].written) and not heard.over:
            world.wires[0].hang_up()
            await settle()
        assert heard.ends == 1
        assert heard.orderly
        await settle()
        assert origin.active == 0
        route.send(b"", (), later)
        await settle()
        assert later.story == []
        world.wires[-1].say(b"HTTP/1.1 204 Fine\r\n\r\n")
        assert later.story == ["head", "end"]
        assert heard.ends == 1
        await origin.aclose()
        assert world.defects == []

    run(case())


@given(FRAMED, CUTS, st.integers(0, 16))
def test_a_cancelled_exchange_hears_nothing_more(response: Response, cuts: list[int], position: int) -> None:
    async def case() -> None:
        world = World()
        origin = Origin("http://127.0.0.1:1")
        heard = Heard()
        exchange = origin.route("POST", "/", {}).send(b"", (), heard)
        await settle()
        wire = world.wires[0]
        pieces = cut(response.encoded(), cuts)
        for piece in pieces[:position]:
            wire.say(piece)
        story, over = list(heard.story), heard.over
        exchange.cancel()
        assert wire.closing is not over
        for piece in pieces[position:]:
            wire.say(piece)
        await settle()
        assert heard.story == story
        assert (origin.idle, origin.active) == (int(over), 0)
        await origin.aclose()
        assert world.defects == []

    run(case())


@dataclass
class Asked:
    """A request of the machine, and what is known of it."""

    number: int
    heard: Heard = field(default_factory=Heard)
    exchange: Exchange | None = None
    cancelled: bool = False


class Pool(RuleBasedStateMachine):
    """Requests, answers, ends and cancellations in any order; each request on one connection, each with one end."""

    asked = Bundle("asked")

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner(loop_factory=asyncio.SelectorEventLoop)
        self.all: list[Asked] = []
        self.runner.run(self.begin())

    async def begin(self) -> None:
        self.world = World()
        self.origin = Origin("http://127.0.0.1:1", max_idle=2)
        self.route = self.origin.route("POST", "/", {})

    def do(self, action: Callable[[], object]) -> None:
        """Do something in the loop, and what follows from it."""

        async def turn() -> None:
            action()
            await settle()

        self.runner.run(turn())

    def wire_of(self, asked: Asked) -> Wire | None:
        """The open connection on which a request was put last."""
        mark = b"x-number: %d\r\n" % asked.number
        carrying = [wire for wire in self.world.wires if wire.written.rpartition(b"POST ")[2].find(mark) >= 0]
        return carrying[-1] if carrying and not carrying[-1].closing else None

    @rule(target=asked)
    def ask(self) -> Asked:
        new = Asked(len(self.all))
        self.all.append(new)

        def send() -> None:
            new.exchange = self.route.send(b"x-number: %d\r\n" % new.number, (), new.heard)

        self.do(send)
        return new

    @rule(asked=asked, data=st.sampled_from([b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 102 Wait\r\n\r\n", b"\0"]))
    def answer_somehow(self, asked: Asked, data: bytes) -> None:
        wire = self.wire_of(asked)
        if wire is not None and not asked.heard.over:
            self.do(lambda: wire.say(data))

    @rule(asked=consumes(asked), headers=st.sampled_from([b"", b"connection: close\r\n"]))
    def answer(self, asked: Asked, headers: bytes) -> None:
        wire = self.wire_of(asked)
        if wire is not None and not asked.heard.over and not asked.cancelled:
            number = b"%d" % asked.number
            head = b"HTTP/1.1 200 OK\r\n%bcontent-length: %d\r\n\r\n" % (headers, len(number))
            self.do(lambda: wire.say(head + number))

    @rule(asked=asked)
    def hang_up(self, asked: Asked) -> None:
        wire = self.wire_of(asked)
        if wire is not None:
            self.do(wire.hang_up)

    @rule(asked=asked)
    def cancel(self, asked: Asked) -> None:
        exchange = asked.exchange
        assert exchange is not None
        asked.cancelled = asked.cancelled or not asked.heard.over
        self.do(exchange.cancel)

    @rule(asked=asked)
    def pause(self, asked: Asked) -> None:
        assert asked.exchange is not None
        self.do(asked.exchange.pause)

    @rule(asked=asked)
    def resume(self, asked: Asked) -> None:
        assert asked.exchange is not None
        self.do(asked.exchange.resume)

    @rule()
    def hold_connections(self) -> None:
        self.world.open.clear()

    @rule()
    def let_connections(self) -> None:
        self.do(self.world.open.set)

    @invariant()
    def every_story_is_orderly(self) -> None:
        for asked in self.all:
            assert asked.heard.orderly
            assert not (asked.cancelled and asked.heard.over)
            if asked.heard.story[-1:] == ["end"]:
                assert asked.heard.body == b"%d" % asked.number

    @invariant()
    def every_request_is_somewhere(self) -> None:
        """On a connection or waiting for one; and every open connection has one or is idle."""
        running = sum(not asked.heard.over and not asked.cancelled for asked in self.all)
        is_open = [wire for wire in self.world.wires if not wire.closing]
        assert self.origin.idle + self.origin.active == len(is_open)
        assert self.origin.idle <= 2
        assert self.origin.active == running or not self.world.open.is_set()
        assert self.origin.active <= running

    @invariant()
    def nothing_is_sent_more_than_twice(self) -> None:
        sent = b"".join(wire.written for wire in self.world.wires)
        assert all(sent.count(b"x-number: %d\r\n" % asked.number) <= 2 for asked in self.all)

    def teardown(self) -> None:
        async def end() -> None:
            await self.origin.aclose()
            assert all(wire.closing for wire in self.world.wires)
            assert asyncio.all_tasks() == {asyncio.current_task()}

        try:
            self.runner.run(end())
            for asked in self.all:
                assert asked.heard.orderly
                assert asked.heard.over is not asked.cancelled
            assert self.world.defects == []
        finally:
            self.runner.close()


TestPool = Pool.TestCase
TestPool.settings = settings(max_examples=60, stateful_step_count=40)
