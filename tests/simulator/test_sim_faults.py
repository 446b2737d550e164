"""Faults and scripts, as the client sees them and as the books tell them."""

import asyncio
import gzip
import json

import aiohttp
import pytest
from tests.simulator.client import Client, Serve, events_in, request

REPLY = {"reply": "one two three"}


def rule(**action: object) -> tuple[object, ...]:
    return ({"action": {**REPLY, **action}},)


async def raw(client: Client, *, stream: bool) -> bytes:
    """Everything the server sends on a connection of its own, until it closes or resets it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", client.sim.port)
    body = json.dumps(request("x", stream=stream)).encode()
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: sim\r\nconnection: close\r\n")
    writer.write(b"content-length: %d\r\n\r\n" % len(body) + body)
    received = b""
    try:
        async with asyncio.timeout(10):
            while data := await reader.read(65536):
                received += data
    except ConnectionResetError:
        received += b"<reset>"
    finally:
        writer.close()
    return received


def outcome(client: Client) -> str:
    return client.sim.calls[-1].outcome


# Instead of an answer.


async def test_status_with_body_and_headers(serve: Serve) -> None:
    status = {"code": 429, "headers": {"retry-after": "3"}, "body": {"error": {"message": "slow down"}}}
    client = await serve(rules=({"action": {"status": status}},))
    async with client.session.post("/v1/chat/completions", json=request("x")) as response:
        assert (response.status, response.headers["retry-after"]) == (429, "3")
        assert await response.json() == {"error": {"message": "slow down"}}
    assert (outcome(client), client.sim.calls[-1].status) == ("fault:status", 429)


async def test_status_in_short_has_an_error_for_a_body(serve: Serve) -> None:
    client = await serve(rules=({"action": {"status": 503}},))
    status, error = await client.refusal("x")
    assert (status, error["code"]) == (503, 503)


async def test_status_as_plain_text(serve: Serve) -> None:
    status = {"code": 502, "body": "<html>bad gateway", "headers": {"content-type": "text/html"}}
    client = await serve(rules=({"action": {"status": status}},))
    async with client.session.post("/v1/chat/completions", json=request("x")) as response:
        assert (response.content_type, await response.text()) == ("text/html", "<html>bad gateway")


async def test_redirect(serve: Serve) -> None:
    client = await serve(rules=({"action": {"redirect": "http://elsewhere.example/"}},))
    async with client.session.post("/v1/chat/completions", json=request("x"), allow_redirects=False) as response:
        assert (response.status, response.headers["location"]) == (307, "http://elsewhere.example/")
    assert outcome(client) == "fault:redirect"


@pytest.mark.parametrize("stream", [False, True])
async def test_reset_before_the_head(serve: Serve, stream: bool) -> None:
    client = await serve(rules=rule(reset={}))
    assert await raw(client, stream=stream) == b"<reset>"
    assert (outcome(client), client.sim.calls[-1].status) == ("fault:reset", 0)


async def test_hang_before_the_head_ends_with_the_client(serve: Serve) -> None:
    client = await serve(rules=rule(hang={}))
    call = asyncio.create_task(client.chat("x"))
    await client.sim.until(lambda: len(client.sim.calls) == 1)
    assert outcome(client) == "running"
    call.cancel()
    await client.sim.until(lambda: outcome(client) == "cancelled")
    assert client.sim.calls[-1].status == 0


async def test_raw_bytes(serve: Serve) -> None:
    pieces = [{"text": "HTTP/1.1 200 OK\r\ncontent-le", "sleep": 0.01}, {"base64": "bmd0aDogMg0KDQpvaw=="}]
    client = await serve(rules=({"action": {"raw": {"pieces": pieces}}},))
    assert await raw(client, stream=False) == b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
    assert outcome(client) == "fault:raw"


async def test_raw_bytes_may_keep_the_connection(serve: Serve) -> None:
    pieces = [{"text": "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"}]
    client = await serve(rules=({"times": 1, "action": {"raw": {"pieces": pieces, "keep_open": True}}},))
    assert await client.post("/v1/chat/completions", request("x")) == (200, {})
    await client.chat("x")
    assert len({call.connection for call in client.sim.calls}) == 1


# Inside a stream.


async def test_reset_after_the_head(serve: Serve) -> None:
    client = await serve(rules=rule(reset={"after": 0}))
    received = await raw(client, stream=True)
    assert received.startswith(b"HTTP/1.1 200 OK\r\n")
    assert received.endswith(b"\r\n\r\n<reset>")


async def test_reset_after_events(serve: Serve) -> None:
    client = await serve(rules=rule(reset={"after": 3}))
    received = await raw(client, stream=True)
    assert received.count(b"data: ") == 3
    assert received.endswith(b"<reset>")
    call = client.sim.calls[-1]
    assert (call.outcome, call.completion_tokens, call.sent_tokens) == ("fault:reset", 2, 2)


async def test_hang_after_events(serve: Serve) -> None:
    client = await serve(rules=rule(hang={"after": 2}))
    async with client.session.post("/v1/chat/completions", json=request("x", stream=True)) as response:
        received = b""
        while received.count(b"\n\n") < 2:
            received += await response.content.readany()
        assert received.count(b"data: ") == 2
        assert outcome(client) == "running"
        response.close()
    await client.sim.until(lambda: outcome(client) == "cancelled")
    assert client.sim.calls[-1].completion_tokens == 1


async def test_garbage_and_on(serve: Serve) -> None:
    client = await serve(rules=rule(garbage={"after": 2, "text": "{oops"}))
    events = await client.stream("x")
    assert events[2] == "{oops"
    assert events[-1] == "[DONE]"
    assert len(events) == 7
    assert outcome(client) == "fault:garbage"


async def test_cut_ends_the_body_cleanly(serve: Serve) -> None:
    client = await serve(rules=rule(cut=3))
    events = await client.stream("x")
    assert len(events) == 3
    assert all(json.loads(event)["choices"][0]["finish_reason"] is None for event in events)
    assert outcome(client) == "fault:cut"
    assert client.sim.calls[-1].usage_sent is False


async def test_error_event(serve: Serve) -> None:
    client = await serve(rules=rule(error_event={"after": 2, "message": "out of memory", "code": 500}))
    events = await client.stream("x")
    assert len(events) == 3
    assert json.loads(events[-1])["error"]["message"] == "out of memory"
    assert outcome(client) == "fault:error_event"


async def test_no_done(serve: Serve) -> None:
    client = await serve(rules=rule(no_done=True))
    events = await client.stream("x")
    assert json.loads(events[-1])["choices"][0]["finish_reason"] == "stop"
    assert outcome(client) == "fault:no_done"


async def test_missing_usage(serve: Serve) -> None:
    client = await serve(rules=rule(missing_usage=True))
    chunks = await client.chunks("x", stream_options={"include_usage": True, "continuous_usage_stats": True})
    assert all("usage" not in chunk for chunk in chunks)
    assert "usage" not in await client.chat("x")
    assert [call.usage_sent for call in client.sim.calls] == [False, False]
    assert [call.completion_tokens for call in client.sim.calls] == [3, 3]


@pytest.mark.parametrize("stream", [False, True])
async def test_fewer_choices(serve: Serve, stream: bool) -> None:
    client = await serve(rules=({"match": {"n_gt": 2}, "action": {"fewer_choices": 2}},))
    if stream:
        chunks = await client.chunks("x", n=4)
        assert {chunk["choices"][0]["index"] for chunk in chunks} == {0, 1}
    else:
        assert len((await client.chat("x", n=4))["choices"]) == 2
    assert outcome(client) == "fault:fewer_choices"
    assert len((await client.chat("x", n=2))["choices"]) == 2
    assert outcome(client) == "ok"


async def test_gzip_can_be_read_event_by_event(serve: Serve) -> None:
    client = await serve(rules=rule(gzip=True, hang={"after": 2}))
    async with client.session.post("/v1/chat/completions", json=request("x", stream=True)) as response:
        assert response.headers["content-encoding"] == "gzip"
        received = b""
        while received.count(b"\n\n") < 2:
            received += await response.content.readany()
        response.close()
    assert json.loads(events_in(received.decode())[1])["choices"][0]["delta"] == {"content": "one"}


async def test_gzip_is_whole(serve: Serve) -> None:
    client = await serve(rules=rule(gzip=True))
    headers = {"accept-encoding": "identity"}
    async with aiohttp.ClientSession(client.sim.url, auto_decompress=False) as session:
        async with session.post("/v1/chat/completions", json=request("x"), headers=headers) as response:
            assert json.loads(gzip.decompress(await response.read()))["choices"]
        async with session.post("/v1/chat/completions", json=request("x", stream=True)) as response:
            assert events_in(gzip.decompress(await response.read()).decode())[-1] == "[DONE]"


async def test_content_type(serve: Serve) -> None:
    client = await serve(rules=rule(content_type="text/html"))
    for stream in (False, True):
        async with client.session.post("/v1/chat/completions", json=request("x", stream=stream)) as response:
            assert response.content_type == "text/html"


@pytest.mark.parametrize("head", [False, True])
@pytest.mark.parametrize("stream", [False, True])
async def test_drip(serve: Serve, stream: bool, head: bool) -> None:
    client = await serve(rules=rule(drip={"interval": 0.0001, "size": 7, "head": head}))
    received = await raw(client, stream=stream)
    assert received.startswith(b"HTTP/1.1 200 OK\r\n")
    assert received.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n" if stream else b'"kv_transfer_params":null}')
    call = client.sim.calls[-1]
    assert (call.outcome, call.sent_tokens) == ("fault:drip", 3)


@pytest.mark.parametrize("stream", [False, True])
async def test_huge(serve: Serve, stream: bool) -> None:
    client = await serve(rules=({"action": {"huge": 2}},))
    if stream:
        chunks = await client.chunks("x")
        assert max(len(chunk["choices"][0]["delta"].get("content", "")) for chunk in chunks) == 2 * 1_048_576
    else:
        assert len((await client.chat("x"))["choices"][0]["message"]["content"]) == 2 * 1_048_576


# An unstreamed answer.


@pytest.mark.parametrize(("fault", "ends"), [({"cut": {}}, b""), ({"reset": {"after": 1}}, b"<reset>")])
async def test_half_a_body(serve: Serve, fault: dict[str, object], ends: bytes) -> None:
    client = await serve(rules=rule(**fault))
    head, _, body = (await raw(client, stream=False)).partition(b"\r\n\r\n")
    promised = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    assert body.endswith(ends)
    assert len(body.removesuffix(ends)) == promised // 2


async def test_a_head_and_nothing(serve: Serve) -> None:
    client = await serve(rules=rule(reset={"after": 0}))
    assert (await raw(client, stream=False)).endswith(b"\r\n\r\n<reset>")


async def test_half_a_body_and_silence(serve: Serve) -> None:
    client = await serve(rules=rule(hang={"after": 1}))
    async with client.session.post("/v1/chat/completions", json=request("x")) as response:
        assert await response.content.read(10)
        response.close()
    await client.sim.until(lambda: outcome(client) == "cancelled")
    assert client.sim.calls[-1].completion_tokens == 3
    assert client.sim.calls[-1].sent_tokens == 0


async def test_a_body_that_is_not_json_and_one_that_is_an_error(serve: Serve) -> None:
    client = await serve(
        rules=({"times": 1, "action": {"garbage": {}}}, {"action": {"error_event": {"message": "no"}}})
    )
    async with client.session.post("/v1/chat/completions", json=request("x")) as response:
        assert (response.status, await response.text()) == (200, '{"id": "chatcmpl-')
    status, answer = await client.post("/v1/chat/completions", request("x"))
    assert (status, answer["error"]["message"]) == (200, "no")


# Scripts.


async def test_replies_by_index(serve: Serve) -> None:
    client = await serve(rules=({"action": {"reply": {"texts": ["a", "b"]}}},))
    answer = await client.chat("x", n=3)
    assert [choice["message"]["content"] for choice in answer["choices"]] == ["a", "b", "a"]
    assert answer["usage"]["completion_tokens"] == 3
    assert outcome(client) == "ok"


async def test_replies_with_tool_calls_and_reasoning(serve: Serve) -> None:
    reply = {"tool_calls": [{"name": "look", "arguments": '{"at":"sky"}'}], "reasoning": "I must look."}
    client = await serve(rules=({"action": {"reply": reply}},))
    (choice,) = (await client.chat("x"))["choices"]
    assert choice["message"]["tool_calls"][0]["function"] == {"name": "look", "arguments": '{"at":"sky"}'}
    assert choice["message"]["reasoning_content"] == "I must look."
    assert choice["finish_reason"] == "tool_calls"


async def test_delay_and_pace_can_be_scripted(serve: Serve) -> None:
    client = await serve(rules=rule(delay=0.05, inter_token=0.02))
    await client.chat("x")
    call = client.sim.calls[-1]
    assert call.first_token is not None
    assert call.end is not None
    assert call.first_token - call.start >= 0.045
    # tokens keep to a timetable: a first one that is late shortens the way to the last
    assert call.end - call.start >= 0.08
    assert call.outcome == "ok"


# Which calls.


async def test_rules_are_tried_in_order_and_spent(serve: Serve) -> None:
    client = await serve(
        rules=(
            {"match": {"contains": "special"}, "times": 2, "action": {"status": 500}},
            {"match": {"stream": True}, "action": {"status": 501}},
            {"match": {"model": "other"}, "action": {"status": 502}},
            {"match": {"path": "/v1/completions"}, "action": {"status": 504}},
        )
    )
    statuses = [(await client.post("/v1/chat/completions", request("special")))[0] for _ in range(3)]
    assert statuses == [500, 500, 200]
    assert (await client.post("/v1/chat/completions", request("x", stream=True)))[0] == 501
    assert (await client.post("/v1/chat/completions", request("x", model="other")))[0] == 502
    assert (await client.post("/v1/completions", {"model": "sim", "prompt": "x"}))[0] == 504
    assert (await client.post("/v1/chat/completions", request("x")))[0] == 200


async def test_rules_hold_for_bodies_that_are_refused_too(serve: Serve) -> None:
    client = await serve(rules=({"match": {"model": "sim", "n_gt": 1}, "action": {"status": 503}},))
    assert (await client.post("/v1/chat/completions", {"model": "sim", "n": 2, "messages": "none"}))[0] == 503


async def test_the_first_calls_fail_and_the_next_succeed_at_the_same_time(serve: Serve) -> None:
    client = await serve(rules=({"times": 3, "action": {"status": 500}},))
    answers = await asyncio.gather(*(client.post("/v1/chat/completions", request("x")) for _ in range(8)))
    assert sorted(status for status, _ in answers) == [200] * 5 + [500] * 3


async def test_other_paths_obey_rules_that_name_them(serve: Serve) -> None:
    client = await serve(rules=({"match": {"path": "/health"}, "action": {"status": 503}},))
    async with client.session.get("/health") as response:
        assert response.status == 503
    await client.get("/v1/models")
