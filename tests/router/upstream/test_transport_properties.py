"""What holds for any response in any pieces, and for any order of events; the wire is the test's own, no socket."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule
from tests.router.upstream.wires import Heard, Wire, World, ask, run, settle

from moa_router.upstream.transport import Exchange

unhurried = settings(deadline=None)
INTERIM = b"HTTP/1.1 103 Early Hints\r\nx-early: 1\r\n\r\n"


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


@unhurried
@given(st.lists(st.tuples(FRAMED, CUTS), min_size=1, max_size=4))
@example([(Response(body=(b"hello",), framing=framing, interim=1), BYTEWISE) for framing in ("length", "chunked")] * 2)
def test_any_pieces_give_the_same_response(conversation: list[tuple[Response, list[int]]]) -> None:
    """And of several in a row none learns anything from the one before it."""

    async def case() -> None:
        world = World()
        origin = world.origin
        for response, cuts in conversation:
            heard = ask(world.route)
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


@unhurried
@given(FRAMED, CUTS)
def test_a_body_without_a_length_ends_with_its_connection(response: Response, cuts: list[int]) -> None:
    async def case() -> None:
        world = World()
        origin = world.origin
        heard = ask(world.route)
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


@unhurried
@given(FRAMED, CUTS, st.integers(min_value=0))
def test_a_response_cut_short_is_never_taken_for_a_whole_one(response: Response, cuts: list[int], length: int) -> None:
    async def case() -> None:
        world = World()
        origin = world.origin
        heard = ask(world.route)
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


@settings(unhurried, max_examples=300)
@given(NOISE | st.tuples(FRAMED.map(Response.encoded), NOISE).map(b"".join), CUTS)
@example(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\naHTTP/1.1 500 OK\r\ncontent-length: 1\r\n\r\nb", [])
@example(b"HTTP/1.1 101 Switch\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nabc", [])
def test_whatever_comes_there_is_one_end(noise: bytes, cuts: list[int]) -> None:
    """And what a peer sends beyond its response reaches nobody."""

    async def case() -> None:
        world = World()
        origin = world.origin
        heard = ask(world.route)
        await settle()
        for piece in cut(noise, cuts):
            world.wires[0].say(piece)
        if not heard.over:
            world.wires[0].hang_up()
            await settle()
        assert heard.ends == 1
        assert heard.orderly
        await settle()
        assert origin.active == 0
        later = ask(world.route)
        await settle()
        assert later.story == []
        world.wires[-1].say(b"HTTP/1.1 204 Fine\r\n\r\n")
        assert later.story == ["head", "end"]
        assert heard.ends == 1
        await origin.aclose()
        assert world.defects == []

    run(case())


@unhurried
@given(FRAMED, CUTS, st.integers(0, 16))
def test_a_cancelled_exchange_hears_nothing_more(response: Response, cuts: list[int], position: int) -> None:
    async def case() -> None:
        world = World()
        origin = world.origin
        heard = ask(world.route)
        await settle()
        wire = world.wires[0]
        pieces = cut(response.encoded(), cuts)
        for piece in pieces[:position]:
            wire.say(piece)
        story, over = list(heard.story), heard.over
        heard.cancel()
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
        self.world = World(max_idle=2)
        self.origin = self.world.origin

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
            new.exchange = self.world.route.send(b"x-number: %d\r\n" % new.number, (), new.heard)

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
TestPool.settings = settings(unhurried, max_examples=60, stateful_step_count=40)
