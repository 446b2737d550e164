"""HTTP itself: connections, limits, oddities."""

import asyncio

import pytest
from tests.simulator.client import Client, Serve, request

CHAT = b'{"model":"sim","messages":[{"role":"user","content":"x"}]}'


def post(body: bytes, *headers: bytes) -> bytes:
    lines = b"".join(header + b"\r\n" for header in headers)
    return b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: %d\r\n%b\r\n" % (len(body), lines) + body


async def talk(client: Client, *pieces: bytes, until: bytes = b"") -> bytes:
    """Sends pieces one by one; gives what comes back, to the end or until something has been seen."""
    reader, writer = await asyncio.open_connection("127.0.0.1", client.sim.port)
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        async with asyncio.timeout(10):
            return await reader.readuntil(until) if until else await reader.read()
    finally:
        writer.close()


async def test_connections_are_kept_and_counted(serve: Serve) -> None:
    client = await serve()
    for _ in range(3):
        await client.chat("x")
    assert [call.connection for call in client.sim.calls] == [1, 1, 1]


async def test_pipelined_requests_are_answered_in_order(serve: Serve) -> None:
    client = await serve(inter_token=0.001, tokens=3)
    received = await talk(client, post(CHAT) * 2 + post(CHAT, b"connection: close"))
    assert received.count(b"HTTP/1.1 200 OK") == 3
    assert [call.outcome for call in client.sim.calls] == ["ok"] * 3


async def test_a_request_in_small_pieces(serve: Serve) -> None:
    client = await serve()
    whole = post(CHAT, b"connection: close")
    received = await talk(client, *(whole[start : start + 5] for start in range(0, len(whole), 5)))
    assert received.startswith(b"HTTP/1.1 200 OK")
    assert client.sim.calls[0].body == CHAT


async def test_a_client_that_waits_to_be_invited(serve: Serve) -> None:
    client = await serve()
    head, body = post(CHAT, b"expect: 100-continue", b"connection: close").split(b"\r\n\r\n")
    received = await talk(client, head + b"\r\n\r\n", body)
    assert received.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK")


async def test_a_chunked_request(serve: Serve) -> None:
    client = await serve()
    head = b"POST /v1/chat/completions HTTP/1.1\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n"
    chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(CHAT), CHAT)
    assert (await talk(client, head, chunks)).startswith(b"HTTP/1.1 200 OK")


async def test_what_is_not_http_is_refused(serve: Serve) -> None:
    client = await serve()
    assert (await talk(client, b"GARBAGE\r\n\r\n")).startswith(b"HTTP/1.1 400 Bad Request")


async def test_a_body_over_the_limit_is_refused(serve: Serve) -> None:
    client = await serve(max_body=100)
    assert (await talk(client, post(b"x" * 101))).startswith(b"HTTP/1.1 413")


async def test_unknown_paths_and_methods(serve: Serve) -> None:
    client = await serve()
    assert (await client.post("/v1/fine_tuning", {}))[0] == 404
    assert (await client.post("/v1/models", {}))[0] == 405


async def test_the_query_is_not_part_of_the_path(serve: Serve) -> None:
    client = await serve()
    assert (await client.post("/v1/chat/completions?a=b", request("x")))[0] == 200


async def test_idle_connections_are_closed_after_a_while(serve: Serve) -> None:
    client = await serve(keep_alive=0.05)
    assert (await talk(client, post(CHAT))).startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize(("key", "status"), [("secret", 200), ("wrong", 401), ("", 401)])
async def test_api_key(serve: Serve, key: str, status: int) -> None:
    client = await serve(api_key="secret")
    headers = {"authorization": f"Bearer {key}"} if key else {}
    async with client.session.post("/v1/chat/completions", data=CHAT, headers=headers) as response:
        assert response.status == status
    await client.get("/health")
