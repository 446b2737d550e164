"""What our transport promises beyond HTTP: its pool, its retry, its bounds, and sinks that misbehave."""

import asyncio
import gc
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Protocol

import pytest
from tests.router.upstream.scripted import A_WHILE, OK, PATIENCE, Peer, Recorder, Script, ScriptedServer

from moa_router.upstream import connection as connections
from moa_router.upstream import transport
from moa_router.upstream.connection import Connection
from moa_router.upstream.transport import Exchange, Origin, PooledExchange, Route


class Open(Protocol):
    async def __call__(self, *scripts: Script, **options: float) -> tuple[ScriptedServer, Origin, Route]: ...


class Clock:
    """Time of the pool, which a test may turn."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def pool() -> AsyncIterator[Open]:
    servers: list[ScriptedServer] = []
    origins: list[Origin] = []

    async def open_(*scripts: Script, **options: float) -> tuple[ScriptedServer, Origin, Route]:
        server = ScriptedServer(*scripts)
        await server.start()
        servers.append(server)
        arguments = {"max_header_bytes": 4096, "connect_timeout": PATIENCE, **options}
        origin = Origin(f"http://127.0.0.1:{server.port}", **arguments)  # type: ignore[arg-type]  # all are numbers
        origins.append(origin)
        return server, origin, origin.route("POST", "/", {})

    yield open_
    for origin in origins:
        await origin.aclose()
        assert (origin.idle, origin.active, len(origin._open)) == (0, 0, 0)
    for server in servers:
        await server.stop()
    assert not asyncio.all_tasks() - {asyncio.current_task()}
    gc.collect()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(transport, "monotonic", clock)
    monkeypatch.setattr(connections, "monotonic", clock)
    return clock


@pytest.fixture
def reports() -> list[Mapping[str, object]]:
    """What the loop's exception handler was told. A test that wants reports calls `listen` first."""
    return []


def listen(reports: list[Mapping[str, object]]) -> None:
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))


def send(route: Route, sink: Recorder, body: Sequence[bytes] = (b"{}",)) -> Exchange:
    exchange = sink.exchange = route.send(b"", body, sink)
    return exchange


async def ask(route: Route, body: Sequence[bytes] = (b"{}",)) -> Recorder:
    sink = Recorder()
    send(route, sink, body)
    return await sink.over()


async def eventually(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not true():  # noqa: ASYNC110 - counters have no event
            await asyncio.sleep(0.005)


async def obliging(peer: Peer) -> None:
    while True:
        await peer.answer()


def held(*answers: asyncio.Event) -> Script:
    """A server that answers each request of a connection when told to."""

    async def script(peer: Peer) -> None:
        for answer in answers:
            await peer.request()
            await answer.wait()
            await peer.send(OK)
        await peer.closed()

    return script


# -- keeping connections --------------------------------------------------------------------------------------------


async def test_idle_and_active_are_counted(pool: Open) -> None:
    answer = asyncio.Event()
    _, origin, route = await pool(held(answer))
    sinks = [Recorder() for _ in range(3)]
    for sink in sinks:
        send(route, sink)
    await eventually(lambda: origin.active == 3)
    assert origin.idle == 0
    answer.set()
    for sink in sinks:
        await sink.ended()
    assert (origin.idle, origin.active) == (3, 0)


async def test_the_last_one_used_is_used_first(pool: Open) -> None:
    served: list[int] = []
    arrived = asyncio.Barrier(3)

    async def script(peer: Peer) -> None:
        number = server.connections
        await peer.request()
        await arrived.wait()
        await peer.send(OK)
        while True:
            await peer.answer()
            served.append(number)

    server, origin, route = await pool(script)
    await asyncio.gather(*(ask(route) for _ in range(3)))
    assert origin.idle == 3
    for _ in range(6):
        await ask(route)
    await eventually(lambda: len(served) == 6)
    assert len(set(served)) == 1
    assert server.connections == 3


async def test_no_more_are_kept_than_wanted(pool: Open) -> None:
    answer = asyncio.Event()
    server, origin, route = await pool(held(answer), max_idle=1)
    sinks = [Recorder() for _ in range(3)]
    for sink in sinks:
        send(route, sink)
    await eventually(lambda: origin.active == 3)
    answer.set()
    for sink in sinks:
        await sink.ended()
    assert origin.idle == 1
    await server.until_ended(2)


async def test_one_too_old_is_not_used_again(pool: Open, clock: Clock) -> None:
    server, origin, route = await pool(obliging, max_age=100.0)
    await ask(route)
    clock.now += 89
    await ask(route)
    assert server.connections == 1
    clock.now += 22
    await ask(route)
    assert server.connections == 2
    assert origin.idle == 1


async def test_one_that_grew_too_old_in_use_is_closed_after_it(pool: Open, clock: Clock) -> None:
    answer = asyncio.Event()
    server, origin, route = await pool(held(answer), max_age=100.0)
    sink = Recorder()
    send(route, sink)
    await eventually(lambda: origin.active == 1)
    clock.now += 111
    answer.set()
    await sink.ended()
    assert origin.idle == 0
    await server.until_ended(1)


def test_ages_are_spread(clock: Clock) -> None:
    origin = Origin("http://localhost", max_age=100.0)
    many = [Connection(origin) for _ in range(200)]
    for connection in many:
        connection.connection_made(Loose())
    assert all(connection.usable(clock.now + 89.9) for connection in many)
    assert not any(connection.usable(clock.now + 110.1) for connection in many)
    usable = sum(connection.usable(clock.now + 100) for connection in many)
    assert 20 < usable < 180


async def test_unused_ones_are_closed(pool: Open) -> None:
    server, origin, route = await pool(obliging, idle_timeout=A_WHILE)
    await ask(route)
    assert origin.idle == 1
    await eventually(lambda: origin.idle == 0)
    assert origin._sweeper is None
    await ask(route)
    assert server.connections == 2


async def test_the_sweeper_leaves_what_is_young(pool: Open, clock: Clock) -> None:
    arrived = asyncio.Barrier(2)

    async def script(peer: Peer) -> None:
        await peer.request()
        await arrived.wait()
        await peer.send(OK)
        await obliging(peer)

    _, origin, route = await pool(script, idle_timeout=30.0)
    await asyncio.gather(ask(route), ask(route))
    clock.now += 20
    await ask(route)
    clock.now += 15
    origin._sweep()
    assert origin.idle == 1
    assert origin._sweeper is not None
    origin._sweeper.cancel()
    clock.now += 15
    origin._sweep()
    assert origin.idle == 0
    assert origin._sweeper is None


async def test_one_the_server_closes_is_forgotten(pool: Open) -> None:
    close = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.answer()
        await close.wait()

    server, origin, route = await pool(script, obliging)
    await ask(route)
    close.set()
    await eventually(lambda: origin.idle == 0)
    await (await ask(route)).ended()
    assert server.connections == 2


@pytest.mark.parametrize("surplus", [OK, b"H", b"\0", b"HTTP/1.1 200 OK\r\ncontent-le"])
async def test_bytes_nobody_asked_for_close_it(pool: Open, surplus: bytes) -> None:
    speak = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.answer()
        await speak.wait()
        await peer.send(surplus)
        await peer.closed()

    server, origin, route = await pool(script, obliging)
    await (await ask(route)).ended()
    assert origin.idle == 1
    speak.set()
    await server.until_ended(1)
    assert origin.idle == 0
    await (await ask(route)).ended()


@pytest.mark.parametrize("surplus", [OK, b"H", b"\0", b"HTTP/1.1 500 No\r\nx: y\r\n\r\n", b"0\r\n\r\n"])
@pytest.mark.parametrize("close", [b"", b"connection: close\r\n"], ids=["keep", "close"])
async def test_bytes_behind_a_response_are_nobodys(pool: Open, surplus: bytes, close: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.answer(b"HTTP/1.1 200 OK\r\n" + close + b"content-length: 2\r\n\r\nok" + surplus)
        await peer.closed()

    server, origin, route = await pool(script, obliging)
    sink = await (await ask(route)).ended()
    assert (sink.status, sink.body) == (200, b"ok")
    assert origin.idle == 0
    await server.until_ended(1)
    assert (await ask(route)).body == b"ok"


async def test_a_request_that_was_not_read_leaves_no_connection_behind(pool: Open) -> None:
    go_on = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.send(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n")
        await go_on.wait()
        await peer.closed()

    server, origin, route = await pool(script)
    sink = await (await ask(route, (bytes(32 * 1024 * 1024),))).ended()
    assert sink.status == 413
    assert (origin.idle, origin.active) == (0, 0)
    go_on.set()
    await server.until_ended(1)


async def test_sockets_send_at_once_and_notice_a_dead_peer(pool: Open) -> None:
    _, origin, route = await pool(obliging)
    await ask(route)
    (kept,) = origin._idle
    assert kept._transport is not None
    peer = kept._transport.get_extra_info("socket")
    assert peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert peer.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


async def test_a_socket_that_becomes_no_connection_is_closed(pool: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    server, _, _ = await pool(obliging)
    origin = Origin(f"http://localhost:{server.port}")
    made: list[socket.socket] = []

    async def fail(*_: object, sock: socket.socket, **__: object) -> None:
        made.append(sock)
        raise OSError

    monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", fail)
    await (await ask(origin.route("POST", "/", {}))).failed("connect")
    assert [sock.fileno() for sock in made] == [-1]
    await origin.aclose()


# -- once more ------------------------------------------------------------------------------------------------------


async def test_a_connection_that_dies_unanswered_is_made_anew(pool: Open) -> None:
    bodies: list[bytes] = []

    async def first(peer: Peer) -> None:
        bodies.append(await peer.answer())
        bodies.append((await peer.request())[1])

    async def second(peer: Peer) -> None:
        bodies.append(await peer.answer())

    server, _, route = await pool(first, second)
    await ask(route, (b"one",))
    sink = await (await ask(route, (b"two",))).ended()
    assert sink.body == b"ok"
    assert sink.order == ["head", "body", "end"]
    assert bodies == [b"one", b"two", b"two"]
    assert server.connections == 2


async def test_but_only_once(pool: Open) -> None:
    async def first(peer: Peer) -> None:
        await peer.answer()
        await peer.request()

    async def second(peer: Peer) -> None:
        await peer.request()

    server, _, route = await pool(first, second)
    await ask(route)
    sink = await ask(route)
    await sink.failed("reset")
    assert sink.heard == ["error"]
    assert server.connections == 2


async def test_and_not_on_a_fresh_connection(pool: Open) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()

    server, _, route = await pool(script)
    await (await ask(route)).failed("reset")
    assert server.connections == 1


@pytest.mark.parametrize("byte", [b"H", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"])
async def test_and_never_after_a_byte(pool: Open, byte: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.answer()
        await peer.request()
        await peer.send(byte)

    server, _, route = await pool(script)
    await ask(route)
    await (await ask(route)).failed("reset")
    assert server.connections == 1


async def test_a_large_request_is_sent_whole_again(pool: Open) -> None:
    bodies: list[bytes] = []

    async def first(peer: Peer) -> None:
        await peer.answer()
        await peer.request()

    async def second(peer: Peer) -> None:
        bodies.append(await peer.answer())

    _, _, route = await pool(first, second)
    await ask(route)
    parts = (b"a" * 100_000, b"b" * 100_000)
    await (await ask(route, parts)).ended()
    assert bodies == [b"".join(parts)]


async def test_the_second_try_may_be_cancelled(pool: Open) -> None:
    async def first(peer: Peer) -> None:
        await peer.answer()
        await peer.request()

    second_arrived = asyncio.Event()

    async def second(peer: Peer) -> None:
        await peer.request()
        second_arrived.set()
        await peer.closed()

    server, origin, route = await pool(first, second)
    await ask(route)
    sink = Recorder()
    exchange = send(route, sink)
    await second_arrived.wait()
    exchange.cancel()
    await server.until_ended(2)
    assert sink.heard == []
    assert (origin.idle, origin.active) == (0, 0)


async def test_the_second_try_may_find_nobody(pool: Open) -> None:
    stopped = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.answer()
        await peer.request()
        server._server.close()
        stopped.set()

    server, _, route = await pool(script)
    await ask(route)
    await (await ask(route)).failed("connect")
    assert stopped.is_set()


# -- sinks ----------------------------------------------------------------------------------------------------------


def _raise() -> None:
    raise ZeroDivisionError


@pytest.mark.parametrize("moment", ["head", "body"])
async def test_a_sink_that_raises(pool: Open, reports: list[Mapping[str, object]], moment: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.answer()
        await peer.closed()

    listen(reports)
    server, origin, route = await pool(script, obliging)
    sink = Recorder()
    sink.on[moment] = _raise
    send(route, sink)
    await sink.failed("invalid")
    await server.until_ended(1)
    assert [type(report["exception"]) for report in reports] == [ZeroDivisionError]
    assert (origin.idle, origin.active) == (0, 0)
    await (await ask(route)).ended()


async def test_a_sink_that_raises_at_the_end_leaves_the_connection(
    pool: Open, reports: list[Mapping[str, object]]
) -> None:
    listen(reports)
    server, origin, route = await pool(obliging)
    sink = Recorder()
    sink.on["end"] = _raise
    send(route, sink)
    await sink.ended()
    assert [type(report["exception"]) for report in reports] == [ZeroDivisionError]
    assert origin.idle == 1
    await (await ask(route)).ended()
    assert server.connections == 1


async def test_a_sink_that_raises_on_an_error(pool: Open, reports: list[Mapping[str, object]]) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()

    listen(reports)
    _, origin, route = await pool(script)
    sink = Recorder()
    sink.on["error"] = _raise
    send(route, sink)
    await sink.failed("reset")
    assert [type(report["exception"]) for report in reports] == [ZeroDivisionError]
    assert (origin.idle, origin.active) == (0, 0)


async def test_a_sink_that_sends_again_and_again(pool: Open) -> None:
    server, _, route = await pool(obliging)
    over = asyncio.Event()
    left = 50

    def again() -> None:
        nonlocal left
        left -= 1
        if not left:
            over.set()
            return
        sink = Recorder()
        sink.on["end"] = again
        send(route, sink)

    again()
    async with asyncio.timeout(PATIENCE):
        await over.wait()
    assert server.connections == 1


async def test_a_sink_that_sends_again_on_an_error(pool: Open) -> None:
    async def first(peer: Peer) -> None:
        await peer.request()

    _, _, route = await pool(first, obliging)
    second = Recorder()
    sink = Recorder()
    sink.on["error"] = lambda: send(route, second)
    send(route, sink)
    await second.ended()


async def test_a_sink_that_sends_while_the_pool_closes(pool: Open) -> None:
    _, origin, route = await pool(held(asyncio.Event()))
    second = Recorder()
    sink = Recorder()
    sink.on["error"] = lambda: send(route, second)
    send(route, sink)
    await eventually(lambda: origin.active == 1)
    await origin.aclose()
    assert sink.heard == ["error"]
    await second.failed("reset")


async def test_pausing_before_there_is_a_connection(pool: Open) -> None:
    _, origin, route = await pool(obliging)
    sink = Recorder()
    exchange = send(route, sink)
    exchange.pause()
    await eventually(lambda: origin.active == 1)
    await asyncio.sleep(A_WHILE)
    assert sink.heard == []
    exchange.resume()
    await sink.ended()
    # the next one on the same connection is not paused
    await (await ask(route)).ended()


async def test_paused_at_the_end_the_next_one_reads(pool: Open) -> None:
    server, _, route = await pool(obliging)
    sink = Recorder()
    sink.on["body"] = sink.pause
    send(route, sink)
    await sink.ended()
    await (await ask(route)).ended()
    assert server.connections == 1


# -- bounds ---------------------------------------------------------------------------------------------------------


async def _flood(peer: Peer, head: bytes, piece: bytes) -> None:
    await peer.request()
    await peer.send(head)
    while True:
        await peer.send(piece * 16)


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (b"HTTP/1.1 200 OK\r\n", b"x-a: b\r\n"),
        (b"HTTP/1.1 200 OK\r\nx-a: ", b"bbbbbbbbb"),
        (b"HTTP/1.1 200 OK\r\n", b"x-aaaaaaa"),
        (b"HTTP/1.1 200 ", b"reasonable"),
        (b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
        (b"", b"\r\n\r\n\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n", b"x-a: b\r\n"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx-a: ", b"bbbbbbbb"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5;a=", b"bbbbbbbb"),
    ],
    ids=["headers", "value", "name", "reason", "interim", "empty lines", "trailers", "trailer", "extension"],
)
async def test_floods_are_refused(pool: Open, head: bytes, piece: bytes) -> None:
    _, origin, route = await pool(lambda peer: _flood(peer, head, piece))
    await (await ask(route)).failed("invalid")
    assert (origin.idle, origin.active) == (0, 0)


async def test_a_large_body_is_no_flood(pool: Open) -> None:
    size = 2_000_000

    async def script(peer: Peer) -> None:
        await peer.answer(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size + bytes(size))
        await peer.answer(
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 5000 + b"0\r\n\r\n"
        )
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(3000):
            await peer.send(b"1\r\n", b"x\r\n")
        await peer.send(b"0\r\n\r\n")

    _, _, route = await pool(script)
    assert len((await (await ask(route)).ended()).body) == size
    assert len((await (await ask(route)).ended()).body) == 5000
    assert len((await (await ask(route)).ended()).body) == 3000


async def test_a_head_up_to_the_bound_is_taken(pool: Open) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx: "

    async def script(peer: Peer) -> None:
        await peer.answer(head + b"x" * (4096 - len(head) - 4) + b"\r\n\r\nok")
        await peer.answer(head + b"x" * 4097 + b"\r\n\r\nok")

    _, _, route = await pool(script)
    await (await ask(route)).ended()
    await (await ask(route)).failed("invalid")


async def test_a_switch_of_protocols_is_refused(pool: Open) -> None:
    async def script(peer: Peer) -> None:
        await peer.answer(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n\0\0")

    _, _, route = await pool(script)
    await (await ask(route)).failed("invalid")


async def test_an_encoding_of_the_transfer_that_is_not_chunked_lasts_until_close(pool: Open) -> None:
    async def script(peer: Peer) -> None:
        await peer.answer(b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nhello")

    _, _, route = await pool(script)
    assert (await (await ask(route)).ended()).body == b"hello"


async def test_a_reset_is_no_end_of_a_body_without_length(pool: Open) -> None:
    heard = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.answer(b"HTTP/1.1 200 OK\r\n\r\nhello")
        await heard.wait()
        await peer.reset()

    _, _, route = await pool(script)
    sink = Recorder()
    sink.on["body"] = heard.set
    send(route, sink)
    await sink.failed("reset")
    assert sink.body == b"hello"


# -- what is written ------------------------------------------------------------------------------------------------


class Loose(asyncio.Transport):
    """A transport that leads nowhere and remembers what was written."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))

    def writelines(self, list_of_data: object) -> None:
        assert isinstance(list_of_data, tuple)
        self.written.extend(list_of_data)

    def is_closing(self) -> bool:
        return self.closing

    def get_write_buffer_size(self) -> int:
        return 0

    def abort(self) -> None:
        self.closing = True


def _written(body: Sequence[bytes]) -> list[bytes]:
    origin = Origin("http://vllm.models:8000", max_idle=1)
    wire = Loose()
    connection = Connection(origin)
    connection.connection_made(wire)
    origin._idle[connection] = None
    origin.route("POST", "/v1/chat", {"X-Constant": "1"}).send(b"x-extra: 2\r\n", body, Recorder())
    return wire.written


async def test_a_small_request_is_one_write() -> None:
    (written,) = _written((b"one", b"two"))
    head, _, body = written.partition(b"\r\n\r\n")
    assert head.split(b"\r\n") == [
        b"POST /v1/chat HTTP/1.1",
        b"host: vllm.models:8000",
        b"X-Constant: 1",
        b"x-extra: 2",
        b"content-length: 6",
    ]
    assert body == b"onetwo"


async def test_a_large_request_is_not_copied() -> None:
    body = (b"a" * 65536, b"b")
    written = _written(body)
    assert [part for part in written if part in body] == list(body)
    assert written[1] is body[0]
    assert len(written) == 3


async def test_a_request_is_let_go_when_the_answer_begins() -> None:
    origin = Origin("http://vllm.models:8000")
    connection = Connection(origin)
    connection.connection_made(Loose())
    exchange = PooledExchange(origin, (b"request",), Recorder(), head_only=False)
    connection.carry(exchange)
    assert exchange.parts
    connection.data_received(b"HTTP/1.1 200")
    assert not exchange.parts
    exchange.cancel()


async def test_a_connection_gone_before_it_was_used(monkeypatch: pytest.MonkeyPatch) -> None:
    origin = Origin("http://vllm.models:8000")
    connection = Connection(origin)
    connection.connection_made(Loose())
    connection.connection_lost(None)

    async def dial() -> Connection:
        return connection

    monkeypatch.setattr(origin, "_dial", dial)
    await (await ask(origin.route("POST", "/", {}))).failed("reset")
    assert not origin._open


async def test_a_peer_that_does_not_say_goodbye_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    class Endless(Loose):
        def close(self) -> None:
            pass

    monkeypatch.setattr(transport, "FAREWELL_SECONDS", 0.01)
    origin = Origin("http://vllm.models:8000")
    connection, wire = Connection(origin), Endless()
    connection.connection_made(wire)
    origin._open.add(connection)
    async with asyncio.timeout(PATIENCE):
        await origin.aclose()
    assert wire.closing


# -- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("vllm:8000", "not an http or https URL"),
        ("ftp://vllm", "not an http or https URL"),
        ("http://", "not an http or https URL"),
        ("http://:8000", "not an http or https URL"),
        ("http://vllm:port", "Port"),
        ("http://vllm:99999", "Port"),
        ("http://vllm/v1", "leave out what follows"),
        ("http://vllm?x", "leave out what follows"),
        ("http://vllm#x", "leave out what follows"),
        ("http://v llm", "not a host name"),
        ("http://" + "x" * 64, "not a host name"),
        ("http://a..b", "not a host name"),
        ("https://vllm", "TLS context"),
    ],
)
def test_urls_that_cannot_be_called(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Origin(url)


def test_credentials_in_a_url_are_not_repeated() -> None:
    with pytest.raises(ValueError, match="credentials") as caught:
        Origin("http://user:geheim@vllm")
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        ("http://vllm", "vllm", 80),
        ("http://vllm/", "vllm", 80),
        ("http://VLLM.models:8000", "vllm.models", 8000),
        ("http://[::1]:8000", "::1", 8000),
        ("http://b\xfccher.example", "xn--bcher-kva.example", 80),
    ],
)
def test_urls_that_can(url: str, host: str, port: int) -> None:
    origin = Origin(url)
    assert (origin.host, origin.port) == (host, port)


@pytest.mark.parametrize("method", ["", "GE T", "POST\r\n", "CONNECT", "G\xcbT"])
def test_methods_that_cannot_be_sent(method: str) -> None:
    with pytest.raises(ValueError, match="not a method"):
        Origin("http://vllm").route(method, "/", {})


@pytest.mark.parametrize("path", ["", "v1", "*", "/a b", "/a\r\nx: y", "/\xfc", "/a\0", "http://vllm/"])
def test_paths_that_cannot_be_sent(path: str) -> None:
    with pytest.raises(ValueError, match="not a path"):
        Origin("http://vllm").route("POST", path, {})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("", "x"),
        ("a b", "x"),
        ("a:", "x"),
        ("a\n", "x"),
        ("a", "geheim\r\nx: y"),
        ("a", "geheim\0"),
        ("a", "geheim\u20ac"),
    ],
)
def test_headers_that_cannot_be_sent(name: str, value: str) -> None:
    with pytest.raises(ValueError, match="cannot be sent") as caught:
        Origin("http://vllm").route("POST", "/", {name: value})
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize("name", ["Host", "content-length", "Transfer-Encoding"])
def test_headers_that_are_ours(name: str) -> None:
    with pytest.raises(ValueError, match="leave it out"):
        Origin("http://vllm").route("POST", "/", {name: "1"})
