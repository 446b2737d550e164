"""HTTP on the wire: one table of servers drives our transport and its twin, on each event loop."""

import asyncio
import gc
import shutil
import socket
import ssl as tls
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import pytest
from tests.router.upstream.aiohttp_transport import AiohttpOrigin
from tests.router.upstream.scripted import A_WHILE, OK, PATIENCE, Peer, Recorder, Script, ScriptedServer

from moa_router.upstream.transport import Exchange, Origin, Route


class Client(Protocol):
    def route(self, method: str, path: str, headers: Mapping[str, str]) -> Route: ...
    async def aclose(self) -> None: ...


class Stage:
    """Servers and the clients under test; leaves nothing behind."""

    def __init__(self, client: type[Origin | AiohttpOrigin]) -> None:
        self._client = client
        self.ours = client is Origin
        self._clients: list[Client] = []
        self._servers: list[ScriptedServer] = []

    async def serve(
        self, *scripts: Script, host: str = "127.0.0.1", ssl: tls.SSLContext | None = None
    ) -> ScriptedServer:
        server = ScriptedServer(*scripts)
        await server.start(host=host, ssl=ssl)
        self._servers.append(server)
        return server

    def client(
        self,
        port: int,
        *,
        host: str = "127.0.0.1",
        ssl: tls.SSLContext | None = None,
        connect_timeout: float = PATIENCE,
    ) -> Client:
        url = f"{'http' if ssl is None else 'https'}://{host}:{port}"
        client = self._client(url, ssl=ssl, connect_timeout=connect_timeout, max_header_bytes=4096)
        self._clients.append(client)
        return client

    async def route(self, *scripts: Script, method: str = "POST") -> tuple[ScriptedServer, Route]:
        """A server and a route to it."""
        server = await self.serve(*scripts)
        return server, self.client(server.port).route(method, "/v1/chat", {"x-constant": "1"})

    async def close(self) -> None:
        for client in self._clients:
            await client.aclose()
            assert not (isinstance(client, Origin) and client._open)
        for server in self._servers:
            await server.stop()


@pytest.fixture(params=[Origin, AiohttpOrigin], ids=["ours", "aiohttp"])
async def stage(request: pytest.FixtureRequest) -> AsyncIterator[Stage]:
    stage = Stage(request.param)
    yield stage
    await stage.close()
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not left
    # a socket left open is a ResourceWarning, and that an error
    gc.collect()


def send(route: Route, sink: Recorder, body: Sequence[bytes] = (b"{}",), headers: bytes = b"") -> Exchange:
    exchange = sink.exchange = route.send(headers, body, sink)
    return exchange


async def ask(route: Route, body: Sequence[bytes] = (b"{}",), headers: bytes = b"") -> Recorder:
    sink = Recorder()
    send(route, sink, body, headers)
    return await sink.over()


def _bytewise(data: bytes) -> tuple[bytes, ...]:
    return tuple(data[index : index + 1] for index in range(len(data)))


@dataclass(frozen=True)
class Good:
    """A response in pieces, and what a sink must hear of it."""

    name: str
    pieces: tuple[bytes, ...]
    status: int = 200
    body: bytes = b"hello world"
    headers: Mapping[str, str] = field(default_factory=dict)
    method: str = "POST"
    close: bool = False
    reused: bool = True


_CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
_LENGTH = b"HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\n"

GOOD = [
    Good("length", (_LENGTH + b"hello world",)),
    Good("length, bytewise", _bytewise(_LENGTH + b"hello world")),
    Good("length zero", (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",), body=b""),
    Good("chunked", (_CHUNKED + b"b\r\nhello world\r\n0\r\n\r\n",)),
    Good("chunked, bytewise", _bytewise(_CHUNKED + b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n")),
    Good("chunk sizes apart", (_CHUNKED, b"5", b"\r\n", b"hello", b"\r", b"\n6\r\n", b" world", b"\r\n0\r\n", b"\r\n")),
    Good("chunk extensions", (_CHUNKED + b"b;a=1;b\r\nhello world\r\n0;last\r\n\r\n",)),
    Good("trailers", (_CHUNKED + b"b\r\nhello world\r\n0\r\nx-late: 1\r\n", b"\r\n"), headers={"x-late": ""}),
    Good("until close", (b"HTTP/1.1 200 OK\r\n\r\nhello ", b"world"), close=True, reused=False),
    Good("until close, empty", (b"HTTP/1.1 200 OK\r\n\r\n",), body=b"", close=True, reused=False),
    Good("HTTP/1.0", (b"HTTP/1.0 200 OK\r\n\r\nhello world",), close=True, reused=False),
    Good("HTTP/1.0 with a length", (b"HTTP/1.0 200 OK\r\ncontent-length: 11\r\n\r\nhello world",), reused=False),
    Good(
        "HTTP/1.0, kept alive",
        (b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 11\r\n\r\nhello world",),
    ),
    Good(
        "closing, with a length",
        (b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 11\r\n\r\nhello world",),
        reused=False,
    ),
    Good("204", (b"HTTP/1.1 204 No Content\r\n\r\n",), 204, b""),
    Good("304 with a length", (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 11\r\n\r\n",), 304, b""),
    Good("HEAD", (_LENGTH,), body=b"", method="HEAD", headers={"content-length": "11"}, reused=False),
    Good("continue", (b"HTTP/1.1 100 Continue\r\n\r\n", _LENGTH + b"hello world")),
    Good(
        "early hints",
        (b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" * 2 + _LENGTH + b"hello world",),
        headers={"link": ""},
    ),
    Good(
        "repeated and odd headers",
        (b"HTTP/1.1 200 OK\r\nX-Two: a\r\nx-two: b\r\nCONTENT-Length: 11\r\nX-Umlaut: \xfc\r\n\r\nhello world",),
        headers={"x-two": "a, b", "content-length": "11"},
    ),
    Good(
        "an upgrade offered",
        (b"HTTP/1.1 200 OK\r\nupgrade: h2c\r\nconnection: upgrade\r\ncontent-length: 11\r\n\r\nhello world",),
    ),
    Good("an error", (b"HTTP/1.1 503 No\r\ncontent-length: 11\r\n\r\nhello world",), 503),
    Good(
        "a redirect is not followed",
        (b"HTTP/1.1 307 There\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n",),
        307,
        b"",
        {"location": "/elsewhere"},
    ),
    Good("no reason", (b"HTTP/1.1 200 \r\ncontent-length: 11\r\n\r\nhello world",)),
]


@pytest.mark.parametrize("good", GOOD, ids=lambda good: good.name)
async def test_responses(stage: Stage, good: Good) -> None:
    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(*good.pieces)
            if good.close:
                return

    server, route = await stage.route(script, method=good.method)
    for _ in range(2):
        sink = await ask(route)
        assert sink.error is None
        assert (sink.status, sink.body) == (good.status, good.body)
        assert sink.order == ["head", "body", "end"] if good.body else ["head", "end"]
        assert {name: sink.headers.get(name, "") for name in good.headers} == good.headers
    if stage.ours:
        assert server.connections == (1 if good.reused else 2)


@dataclass(frozen=True)
class Bad:
    """A response that breaks, how it ends, and what a sink must hear of it."""

    name: str
    pieces: tuple[bytes, ...]
    kind: str
    end: str = "close"
    head: bool = False


BAD = [
    Bad("nothing", (), "reset"),
    Bad("nothing, reset", (), "reset", end="reset"),
    Bad("half a head", (b"HTTP/1.1 200 OK\r\nconte",), "reset"),
    Bad("half a body", (_LENGTH + b"hello",), "reset", head=True),
    Bad("half a chunk", (_CHUNKED + b"b\r\nhello",), "reset", head=True),
    Bad("no last chunk", (_CHUNKED + b"b\r\nhello world\r\n",), "reset", head=True),
    Bad("half a last chunk", (_CHUNKED + b"b\r\nhello world\r\n0\r\n",), "reset", head=True),
    Bad("reset in the body", (_LENGTH + b"hello",), "reset", end="reset", head=True),
    Bad("interim only", (b"HTTP/1.1 100 Continue\r\n\r\n",), "reset"),
    Bad("garbage", (b"SSH-2.0-OpenSSH_9.2\r\n",), "invalid", end="wait"),
    Bad("a request", (b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",), "invalid", end="wait"),
    Bad("no status", (b"HTTP/1.1 OK\r\n\r\n",), "invalid", end="wait"),
    Bad("a header without a colon", (b"HTTP/1.1 200 OK\r\nnonsense\r\n\r\n",), "invalid", end="wait"),
    Bad("a length that is none", (b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",), "invalid", end="wait"),
    Bad(
        "two lengths",
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxx",),
        "invalid",
        end="wait",
    ),
    Bad("a chunk size that is none", (_CHUNKED + b"hello\r\n",), "invalid", end="wait"),
    Bad("a header too large", (b"HTTP/1.1 200 OK\r\nx-big: " + b"x" * 8192 + b"\r\n\r\n",), "invalid", end="wait"),
]


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.name)
async def test_broken_responses(stage: Stage, bad: Bad) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(*bad.pieces)
        if bad.end == "reset":
            await peer.reset()
        elif bad.end == "wait":
            await peer.closed()

    server, route = await stage.route(script)
    sink = await ask(route)
    await server.until_ended(1)
    assert sink.error is not None
    assert sink.error.kind == bad.kind
    assert ("head" in sink.heard) or not bad.head
    assert server.connections == 1


async def _echo(peer: Peer) -> None:
    while True:
        _, body = await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body), body)


@pytest.mark.parametrize(
    "parts",
    [(), (b"",), (b"one",), (b"one", b"", b"two"), (b"x" * 65536,), (b"x" * 65536, b"y"), (b"x" * 1_000_000,) * 5],
    ids=lambda parts: f"{len(parts)} parts, {sum(map(len, parts))} bytes",
)
async def test_request_bodies_arrive_whole(stage: Stage, parts: tuple[bytes, ...]) -> None:
    server, route = await stage.route(_echo)
    for _ in range(2):
        assert (await ask(route, parts)).body == b"".join(parts)
    assert server.connections == 1


async def test_request_heads(stage: Stage) -> None:
    heads: list[bytes] = []

    async def script(peer: Peer) -> None:
        heads.append((await peer.request())[0])
        await peer.send(OK)

    server, route = await stage.route(script)
    await ask(route, (b"{}",), b"traceparent: 00-1-2-3\r\nx-extra: \xfc\r\n")
    line, *headers = heads[0].removesuffix(b"\r\n\r\n").split(b"\r\n")
    assert line == b"POST /v1/chat HTTP/1.1"
    fields = [header.partition(b": ") for header in headers]
    values = {name.lower(): value for name, _, value in fields}
    assert values[b"host"] == b"127.0.0.1:%d" % server.port
    assert values[b"content-length"] == b"2"
    assert values[b"x-constant"] == b"1"
    assert values[b"traceparent"] == b"00-1-2-3"
    assert len(values) == len(fields)
    if stage.ours:
        assert values[b"x-extra"] == b"\xfc"


async def test_requests_in_a_row_share_a_connection(stage: Stage) -> None:
    server, route = await stage.route(_echo)
    for number in range(20):
        assert (await ask(route, (b"%d" % number,))).body == b"%d" % number
    assert server.connections == 1


async def test_requests_at_once_have_a_connection_each(stage: Stage) -> None:
    arrived = asyncio.Barrier(8)

    async def script(peer: Peer) -> None:
        _, body = await peer.request()
        await arrived.wait()
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n" + body)

    server, route = await stage.route(script)
    sinks = await asyncio.gather(*(ask(route, (b"%d" % number,)) for number in range(8)))
    assert [sink.body for sink in sinks] == [b"%d" % number for number in range(8)]
    assert server.connections == 8


async def test_a_response_is_delivered_as_it_comes(stage: Stage) -> None:
    go_on = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(_CHUNKED)
        await go_on.wait()
        go_on.clear()
        await peer.send(b"5\r\nhello\r\n")
        await go_on.wait()
        await peer.send(b"0\r\n\r\n")

    _, route = await stage.route(script)
    sink = Recorder()
    send(route, sink)
    await sink.until("head")
    assert sink.heard == ["head"]
    go_on.set()
    await sink.until("body")
    assert sink.body == b"hello"
    assert sink.heard == ["head", "body"]
    go_on.set()
    await sink.ended()


@pytest.mark.parametrize(
    ("before", "heard"),
    [(b"", []), (_CHUNKED, ["head"]), (_CHUNKED + b"5\r\nhello\r\n", ["head", "body"])],
    ids=["before the head", "before the body", "in the body"],
)
async def test_cancelling_closes_the_connection(stage: Stage, before: bytes, heard: list[str]) -> None:
    arrived = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        arrived.set()
        await peer.send(before)
        await peer.closed()

    server, route = await stage.route(script, _echo)
    sink = Recorder()
    exchange = send(route, sink)
    await arrived.wait()
    if heard:
        await sink.until(heard[-1])
    exchange.cancel()
    exchange.cancel()
    await server.until_ended(1)
    assert sink.heard == heard
    # the next one is none the worse for it
    assert (await ask(route, (b"next",))).body == b"next"
    assert sink.heard == heard


@pytest.mark.parametrize("moment", ["head", "body"])
async def test_cancelling_inside_a_callback(stage: Stage, moment: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.answer(_LENGTH + b"hello")
        await peer.closed()

    server, route = await stage.route(script)
    sink = Recorder()
    sink.on[moment] = sink.cancel
    send(route, sink)
    await server.until_ended(1)
    assert sink.heard == ["head", "body"][: 1 + (moment == "body")]


async def test_cancelling_what_is_over_does_nothing(stage: Stage) -> None:
    server, route = await stage.route(_echo)
    sink = Recorder()
    exchange = send(route, sink)
    await sink.ended()
    exchange.cancel()
    exchange.pause()
    exchange.resume()
    assert (await ask(route, (b"next",))).body == b"next"
    assert server.connections == 1


async def test_cancelling_at_any_turn_of_the_loop(stage: Stage) -> None:
    """Before the connecting has begun, in the midst of it, and after it."""
    _, route = await stage.route(_echo)
    sinks, heard = [Recorder() for _ in range(8)], []
    for turns, sink in enumerate(sinks):
        exchange = send(route, sink)
        for _ in range(turns):
            await asyncio.sleep(0)
        exchange.cancel()
        heard.append(sink.heard.copy())
    assert heard[0] == []
    assert (await ask(route, (b"next",))).body == b"next"
    assert [sink.heard for sink in sinks] == heard


async def test_sending_from_on_end(stage: Stage) -> None:
    server, route = await stage.route(_echo)
    second = Recorder()
    first = Recorder()
    first.on["end"] = lambda: send(route, second, (b"second",))
    send(route, first, (b"first",))
    assert (await second.over()).body == b"second"
    if stage.ours:
        assert server.connections == 1


async def test_pausing_stops_the_server(stage: Stage) -> None:
    size = 32 * 1024 * 1024
    sent = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
        for _ in range(size // 65536):
            await peer.send(bytes(65536))
        sent.set()

    _, route = await stage.route(script)
    sink = Recorder()
    sink.on["body"] = sink.pause
    exchange = send(route, sink)
    await sink.until("body")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(sent.wait(), A_WHILE)
    received = len(sink.body)
    assert received < size / 2
    await asyncio.sleep(A_WHILE)
    assert len(sink.body) == received
    sink.on.clear()
    exchange.resume()
    await sink.ended()
    assert len(sink.body) == size


async def test_nobody_listens(stage: Stage) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    sink = await ask(stage.client(port).route("POST", "/", {}))
    assert sink.error is not None
    assert sink.error.kind == "connect"
    assert sink.heard == ["error"]


async def test_nobody_accepts(stage: Stage) -> None:
    """A full backlog leaves the handshake of TCP unanswered."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        fillers = [socket.socket() for _ in range(4)]
        try:
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(address)
            route = stage.client(address[1], connect_timeout=A_WHILE).route("POST", "/", {})
            sink = await ask(route)
            assert sink.error is not None
            assert sink.error.kind == "connect_timeout"
            assert sink.heard == ["error"]
            # and one that is not waited for
            exchange = send(route, sink := Recorder())
            await asyncio.sleep(A_WHILE / 4)
            exchange.cancel()
            await asyncio.sleep(A_WHILE)
            assert sink.heard == []
        finally:
            for filler in fillers:
                filler.close()


# -- TLS ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Certificates:
    """What openssl made: a certificate authority, and a server's key and certificate."""

    authority: Path
    key: Path
    certificate: Path

    def server(self) -> tls.SSLContext:
        context = tls.SSLContext(tls.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        context.set_alpn_protocols(["h2", "http/1.1"])
        return context

    def client(self) -> tls.SSLContext:
        context = tls.create_default_context(cafile=self.authority)
        context.set_alpn_protocols(["http/1.1"])
        return context


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("the openssl command makes the certificates, and is not installed")
    room = tmp_path_factory.mktemp("tls")
    made = Certificates(room / "ca.pem", room / "key.pem", room / "cert.pem")
    new = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    names = "subjectAltName=DNS:localhost,IP:127.0.0.1"
    subprocess.run(
        [*new, "-subj", "/CN=authority", "-addext", "keyUsage=critical,keyCertSign",
         "-keyout", room / "ca.key", "-out", made.authority],
        check=True, capture_output=True,
    )  # fmt: skip
    subprocess.run(
        [*new, "-subj", "/CN=server", "-addext", names, "-CA", made.authority, "-CAkey", room / "ca.key",
         "-keyout", made.key, "-out", made.certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    return made


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_tls(stage: Stage, certificates: Certificates, host: str) -> None:
    server = await stage.serve(_echo, ssl=certificates.server())
    route = stage.client(server.port, host=host, ssl=certificates.client()).route("POST", "/", {})
    for size in (1, 1_000_000):
        assert (await ask(route, (bytes(size),))).body == bytes(size)
    assert server.connections == 1


async def test_tls_until_close(stage: Stage, certificates: Certificates) -> None:
    async def script(peer: Peer) -> None:
        await peer.answer(b"HTTP/1.1 200 OK\r\n\r\nhello")

    server = await stage.serve(script, ssl=certificates.server())
    route = stage.client(server.port, ssl=certificates.client()).route("POST", "/", {})
    assert (await ask(route)).body == b"hello"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_tls_of_a_stranger(stage: Stage, certificates: Certificates, host: str) -> None:
    server = await stage.serve(Peer.closed, ssl=certificates.server())
    sink = await ask(stage.client(server.port, host=host, ssl=tls.create_default_context()).route("POST", "/", {}))
    assert sink.error is not None
    assert sink.error.kind == "tls"


async def test_tls_of_another_host(stage: Stage, certificates: Certificates) -> None:
    server = await stage.serve(Peer.closed, host="127.0.0.2", ssl=certificates.server())
    client = stage.client(server.port, host="127.0.0.2", ssl=certificates.client())
    sink = await ask(client.route("POST", "/", {}))
    assert sink.error is not None
    assert sink.error.kind == "tls"


async def test_tls_where_there_is_none(stage: Stage, certificates: Certificates) -> None:
    async def script(peer: Peer) -> None:
        await peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await peer.closed()

    server = await stage.serve(script)
    sink = await ask(stage.client(server.port, ssl=certificates.client()).route("POST", "/", {}))
    assert sink.error is not None
    assert sink.error.kind == "tls"


async def test_tls_never_answered(stage: Stage, certificates: Certificates) -> None:
    server = await stage.serve(Peer.closed)
    client = stage.client(server.port, ssl=certificates.client(), connect_timeout=A_WHILE)
    sink = await ask(client.route("POST", "/", {}))
    assert sink.error is not None
    assert sink.error.kind == "connect_timeout"
    await server.until_ended(1)


async def test_cancelling_within_the_handshake(stage: Stage, certificates: Certificates) -> None:
    begun = asyncio.Event()

    async def script(peer: Peer) -> None:
        begun.set()
        await peer.closed()

    server = await stage.serve(script)
    sink = Recorder()
    exchange = send(stage.client(server.port, ssl=certificates.client()).route("POST", "/", {}), sink)
    await begun.wait()
    exchange.cancel()
    await server.until_ended(1)
    assert sink.heard == []


async def test_cancelling_in_a_body_under_tls(stage: Stage, certificates: Certificates) -> None:
    async def script(peer: Peer) -> None:
        await peer.answer(_LENGTH + b"hello")
        await peer.closed()

    server = await stage.serve(script, _echo, ssl=certificates.server())
    route = stage.client(server.port, ssl=certificates.client()).route("POST", "/", {})
    sink = Recorder()
    sink.on["body"] = sink.cancel
    send(route, sink)
    await server.until_ended(1)
    assert sink.heard == ["head", "body"]
    assert (await ask(route, (b"next",))).body == b"next"


async def test_pausing_under_tls(stage: Stage, certificates: Certificates) -> None:
    """What was deciphered already waits for the end of the pause, too."""
    size = 32 * 1024 * 1024
    sent = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
        for _ in range(size // 65536):
            await peer.send(bytes(65536))
        sent.set()

    server = await stage.serve(script, ssl=certificates.server())
    sink = Recorder()
    sink.on["body"] = sink.pause
    exchange = send(stage.client(server.port, ssl=certificates.client()).route("POST", "/", {}), sink)
    await sink.until("body")
    received = len(sink.body)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(sent.wait(), A_WHILE)
    assert len(sink.body) == received
    sink.on.clear()
    exchange.resume()
    await sink.ended()
    assert len(sink.body) == size


# -- names and addresses --------------------------------------------------------------------------------------------


async def test_a_name_with_more_addresses_than_servers(stage: Stage) -> None:
    """`localhost` is often two addresses, of which only one is served here."""
    server = await stage.serve(_echo)
    assert (await ask(stage.client(server.port, host="localhost").route("POST", "/", {}), (b"x",))).body == b"x"


async def test_an_address_of_version_6(stage: Stage) -> None:
    heads: list[bytes] = []

    async def script(peer: Peer) -> None:
        heads.append((await peer.request())[0])
        await peer.send(OK)

    try:
        server = await stage.serve(script, host="::1")
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    assert (await ask(stage.client(server.port, host="[::1]").route("POST", "/", {}))).body == b"ok"
    assert b"host: [::1]:%d\r\n" % server.port in heads[0].lower()


# -- the end --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["at once", "connecting", "sent", "in the body"])
async def test_closing_with_requests_under_way(stage: Stage, certificates: Certificates, moment: str) -> None:
    begun = asyncio.Event()

    async def script(peer: Peer) -> None:
        begun.set()
        if moment != "connecting":
            await peer.request()
        if moment == "in the body":
            await peer.send(_LENGTH + b"hello")
        await peer.closed()

    server = await stage.serve(script)
    client = stage.client(server.port, ssl=certificates.client() if moment == "connecting" else None)
    route = client.route("POST", "/", {})
    sink = Recorder()
    send(route, sink)
    if moment != "at once":
        await begun.wait()
    if moment == "in the body":
        await sink.until("body")
    await client.aclose()
    assert sink.error is not None
    assert sink.error.kind == "reset"
    await client.aclose()
    sink = await ask(route)
    assert sink.error is not None
    assert sink.error.kind == "reset"
