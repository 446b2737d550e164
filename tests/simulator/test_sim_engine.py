"""Slots, queue, pace and cancellation."""

import asyncio

import aiohttp
import pytest
from tests.simulator.client import Client, Serve, request

from moa_simulator import ModelConfig
from moa_simulator.engine import Engine


async def leave_after(client: Client, events: int, **fields: object) -> None:
    """Reads so many events of a stream, then hangs up."""
    async with client.session.post("/v1/chat/completions", json=request("x", stream=True, **fields)) as response:
        received = b""
        while received.count(b"\n\n") < events:
            received += await response.content.readany()
        response.close()


async def test_what_exceeds_the_slots_waits_in_order(serve: Serve) -> None:
    client = await serve(max_concurrent=1, inter_token=0.01, tokens=30)
    calls = [asyncio.create_task(client.chat(f"{number}")) for number in range(3)]
    engine = client.sim.engine("sim")
    async with asyncio.timeout(10):
        while engine.waiting < 2:  # noqa: ASYNC110 - the engine has no event for it
            await asyncio.sleep(0)
    assert (engine.running, engine.waiting) == (1, 2)
    await asyncio.gather(*calls)
    assert (engine.running, engine.waiting) == (0, 0)
    ends = [call.end for call in client.sim.calls]
    firsts = [call.first_token for call in client.sim.calls]
    assert all(
        first is not None and end is not None and first >= end for first, end in zip(firsts[1:], ends, strict=False)
    )


async def test_a_full_queue_refuses(serve: Serve) -> None:
    client = await serve(max_concurrent=1, max_waiting=0, ttft=0.2)
    first = asyncio.create_task(client.chat("x"))
    await client.sim.until(lambda: len(client.sim.calls) == 1)
    assert await client.refusal("x") == (
        503,
        {
            "message": "The server is overloaded: 0 requests are waiting",
            "type": "ServiceUnavailableError",
            "param": None,
            "code": 503,
        },
    )
    await first


async def test_leaving_while_waiting_costs_nobody_a_slot(serve: Serve) -> None:
    client = await serve(max_concurrent=1, inter_token=0.02, tokens=10)
    first = asyncio.create_task(client.chat("first"))
    await client.sim.until(lambda: len(client.sim.calls) == 1)
    second = asyncio.create_task(client.chat("second"))
    await client.sim.until(lambda: len(client.sim.calls) == 2)
    second.cancel()
    await client.sim.until(lambda: client.sim.calls[1].outcome == "cancelled")
    await first
    await client.chat("third")
    assert client.sim.engine("sim").running == 0
    assert (client.sim.calls[1].completion_tokens, client.sim.calls[1].cached_tokens) == (0, 0)


async def test_leaving_a_stream_frees_its_slot_and_books_what_was_produced(serve: Serve) -> None:
    client = await serve(max_concurrent=1, inter_token=0.01, tokens=1000, tokens_spread=0)
    await leave_after(client, 4, n=2)
    await client.sim.until(lambda: client.sim.calls[0].outcome == "cancelled")
    call = client.sim.calls[0]
    assert 2 <= call.completion_tokens == call.sent_tokens < 2000
    assert call.usage_sent is False
    assert client.sim.engine("sim").running == 0
    assert client.sim.totals["sim"]["cancelled"] == 1
    assert client.sim.totals["sim"]["completion_tokens"] == call.completion_tokens


async def test_leaving_an_unstreamed_answer_books_what_was_produced_by_then(serve: Serve) -> None:
    client = await serve(inter_token=0.01, tokens=1000, tokens_spread=0)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await client.chat("x")
    await client.sim.until(lambda: client.sim.calls[0].outcome == "cancelled")
    call = client.sim.calls[0]
    assert 0 < call.completion_tokens < 1000
    assert call.sent_tokens == 0


async def test_leaving_before_the_first_token_produces_none(serve: Serve) -> None:
    client = await serve(ttft=30)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await client.chat("x")
    await client.sim.until(lambda: client.sim.calls[0].outcome == "cancelled")
    assert client.sim.calls[0].completion_tokens == 0
    assert client.sim.calls[0].first_token is None


@pytest.mark.parametrize("stream", [False, True])
async def test_time_passes_as_configured(serve: Serve, stream: bool) -> None:
    client = await serve(ttft=0.05, inter_token=0.004, tokens=26, tokens_spread=0)
    await (client.stream("x") if stream else client.chat("x"))
    call = client.sim.calls[0]
    assert call.first_token is not None
    assert call.end is not None
    assert call.first_token - call.start >= 0.045
    assert call.end - call.first_token >= 25 * 0.004 - 0.005


async def test_a_cached_prompt_is_prefilled_faster(serve: Serve) -> None:
    client = await serve(prefill_per_token=0.002)
    question = "word " * 60
    await client.chat(question)
    await client.chat(question)
    cold, warm = (call.first_token - call.start for call in client.sim.calls if call.first_token is not None)
    assert cold >= 0.11
    assert warm < cold


async def test_a_stream_opens_at_once_and_speaks_when_it_has_something_to_say(serve: Serve) -> None:
    client = await serve(ttft=30)
    async with client.session.post("/v1/chat/completions", json=request("x", stream=True)) as response:
        assert response.status == 200
        assert client.sim.calls[0].first_token is None
        response.close()


async def test_a_client_that_does_not_read_is_not_buffered_for(serve: Serve) -> None:
    client = await serve(tokens=200_000, tokens_spread=0, max_model_len=1_000_000)
    reader, writer = await asyncio.open_connection("127.0.0.1", client.sim.port, limit=1024)
    body = b'{"model":"sim","stream":true,"messages":[{"role":"user","content":"x"}]}'
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
    await reader.readexactly(16)
    before = -1
    while before != client.sim.calls[0].sent_tokens:
        before = client.sim.calls[0].sent_tokens
        await asyncio.sleep(0.2)
    assert 0 < before < 200_000
    writer.close()
    await client.sim.until(lambda: client.sim.calls[0].outcome == "cancelled")


async def test_stopping_the_server_ends_what_is_running(serve: Serve) -> None:
    client = await serve(ttft=30)
    call = asyncio.create_task(client.chat("x"))
    await client.sim.until(lambda: len(client.sim.calls) == 1)
    await client.sim.stop()
    assert client.sim.calls[0].outcome == "cancelled"
    assert client.sim.open_connections == 0
    with pytest.raises(aiohttp.ClientConnectionError):
        await call


async def test_a_slot_given_to_one_who_has_just_left_goes_to_the_next() -> None:
    engine = Engine(ModelConfig(name="sim", max_concurrent=1))
    await engine.admit()
    leaver, next_one = asyncio.create_task(engine.admit()), asyncio.create_task(engine.admit())
    await asyncio.sleep(0)
    assert engine.waiting == 2
    engine.release()
    leaver.cancel()
    await next_one
    assert (engine.running, engine.waiting) == (1, 0)
    engine.release()
    assert engine.running == 0
