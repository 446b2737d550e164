"""Chat completions, streamed: exact bytes, order, usage."""

import json

import pytest
from tests.simulator.client import Serve

from moa_simulator.tokens import tokenize

REPLY = ({"action": {"reply": "one two"}},)
TOOL = {
    "type": "function",
    "function": {"name": "look", "parameters": {"type": "object", "properties": {"at": {"enum": ["sky"]}}}},
}


def anonymous(events: list[str]) -> list[str]:
    first = json.loads(events[0])
    return [event.replace(first["id"], "ID").replace(str(first["created"]), "CREATED") for event in events]


async def test_vllms_bytes(serve: Serve) -> None:
    client = await serve(rules=REPLY)
    events = await client.stream("x", stream_options={"include_usage": True})
    head = '{"id":"ID","object":"chat.completion.chunk","created":CREATED,"model":"sim","choices":['
    assert anonymous(events) == [
        head + '{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]'
        ',"prompt_token_ids":null}',
        head + '{"index":0,"delta":{"content":"one"},"logprobs":null,"finish_reason":null,"token_ids":null}]}',
        head + '{"index":0,"delta":{"content":" two"},"logprobs":null,"finish_reason":null,"token_ids":null}]}',
        head + '{"index":0,"delta":{"content":""},"logprobs":null,"finish_reason":"stop","stop_reason":null,'
        '"token_ids":null}]}',
        head + '],"usage":{"prompt_tokens":9,"total_tokens":11,"completion_tokens":2,'
        '"prompt_tokens_details":{"cached_tokens":0}}}',
        "[DONE]",
    ]


async def test_llamacpps_bytes(serve: Serve) -> None:
    client = await serve(rules=REPLY, chunks="llamacpp")
    events = await client.stream("x", stream_options={"include_usage": True})
    tail = (
        '],"created":CREATED,"id":"ID","model":"sim","system_fingerprint":"b9999-sim","object":"chat.completion.chunk"'
    )
    assert anonymous(events) == [
        '{"choices":[{"finish_reason":null,"index":0,"delta":{"role":"assistant","content":null}}' + tail + "}",
        '{"choices":[{"finish_reason":null,"index":0,"delta":{"content":"one"}}' + tail + "}",
        '{"choices":[{"finish_reason":null,"index":0,"delta":{"content":" two"}}' + tail + "}",
        '{"choices":[{"finish_reason":"stop","index":0,"delta":{}}' + tail + "}",
        '{"choices":[' + tail + ',"usage":{"prompt_tokens":9,"total_tokens":11,"completion_tokens":2,'
        '"prompt_tokens_details":{"cached_tokens":0}}}',
        "[DONE]",
    ]


@pytest.mark.parametrize("chunks", ["vllm", "llamacpp"])
async def test_streamed_and_unstreamed_say_the_same(serve: Serve, chunks: str) -> None:
    client = await serve(chunks=chunks, reasoning_tokens=5)
    whole = await client.chat("Hello", n=3, seed=4)
    streamed = await client.chunks("Hello", n=3, seed=4, stream_options={"include_usage": True})
    for choice in whole["choices"]:
        deltas = [part["delta"] for chunk in streamed for part in chunk["choices"] if part["index"] == choice["index"]]
        assert "".join(delta.get("content") or "" for delta in deltas) == choice["message"]["content"]
        assert (
            "".join(delta.get("reasoning_content") or "" for delta in deltas) == choice["message"]["reasoning_content"]
        )
    assert streamed[-1]["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]
    assert streamed[-1]["usage"]["completion_tokens_details"] == {"reasoning_tokens": 15}
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in streamed}) == 1


async def test_usage_is_told_only_when_asked_for(serve: Serve) -> None:
    client = await serve()
    assert all("usage" not in chunk for chunk in await client.chunks("x"))
    assert client.sim.calls[-1].usage_sent is False
    ignored = await client.chunks("x", stream_options={"continuous_usage_stats": True})
    assert all("usage" not in chunk for chunk in ignored)


async def test_continuous_usage_counts_each_choice_for_itself(serve: Serve) -> None:
    client = await serve(rules=({"action": {"reply": {"texts": ["a", "b c d"]}}},))
    chunks = await client.chunks("x", n=2, stream_options={"include_usage": True, "continuous_usage_stats": True})
    *counted, final = chunks
    by_choice: dict[int, list[int]] = {0: [], 1: []}
    for chunk in counted:
        assert chunk["usage"]["prompt_tokens"] == 9
        assert chunk["usage"]["total_tokens"] == 9 + chunk["usage"]["completion_tokens"]
        assert "prompt_tokens_details" not in chunk["usage"]
        by_choice[chunk["choices"][0]["index"]].append(chunk["usage"]["completion_tokens"])
    assert by_choice == {0: [0, 1, 1], 1: [0, 1, 2, 3, 3]}
    assert final["usage"]["completion_tokens"] == 4


async def test_continuous_usage_can_be_unsupported(serve: Serve) -> None:
    client = await serve(continuous_usage=False)
    chunks = await client.chunks("x", stream_options={"include_usage": True, "continuous_usage_stats": True})
    assert [chunk for chunk in chunks if "usage" in chunk] == [chunks[-1]]


async def test_choices_are_interleaved_and_end_one_after_the_other(serve: Serve) -> None:
    client = await serve(rules=({"action": {"reply": {"texts": ["a", "b c d"]}}},))
    chunks = await client.chunks("x", n=2)
    order = [(chunk["choices"][0]["index"], chunk["choices"][0]["finish_reason"]) for chunk in chunks]
    assert order == [
        *((0, None), (1, None)),
        *((0, None), (1, None)),
        *((0, "stop"), (1, None)),
        *((1, None), (1, "stop")),
    ]


async def test_the_length_limit_ends_with_the_last_token(serve: Serve) -> None:
    client = await serve()
    last = (await client.chunks("x", max_tokens=3))[-1]["choices"][0]
    assert last["finish_reason"] == "length"
    assert last["delta"]["content"]


async def test_a_stop_string_is_named(serve: Serve) -> None:
    client = await serve(rules=REPLY)
    last = (await client.chunks("x", stop=" two"))[-1]["choices"][0]
    assert (last["finish_reason"], last["stop_reason"]) == ("stop", " two")


async def test_tool_calls_come_in_pieces(serve: Serve) -> None:
    client = await serve()
    chunks = await client.chunks("Please look", tools=[TOOL], stream_options={"include_usage": True})
    deltas = [part["delta"] for chunk in chunks for part in chunk["choices"]]
    pieces = [call for delta in deltas for call in delta.get("tool_calls", [])]
    opening, *rest = pieces
    assert (opening["index"], opening["type"], opening["function"]) == (
        0,
        "function",
        {"name": "look", "arguments": ""},
    )
    assert len(rest) > 1
    assert json.loads("".join(piece["function"]["arguments"] for piece in rest)) == {"at": "sky"}
    assert all(set(piece) == {"index", "function"} for piece in rest)
    assert chunks[-2]["choices"][0]["finish_reason"] == "tool_calls"
    assert chunks[-1]["usage"]["completion_tokens"] == len(pieces)


async def test_reasoning_precedes_the_answer(serve: Serve) -> None:
    client = await serve(rules=({"action": {"reply": {"text": "So.", "reasoning": "Hm, well."}}},))
    chunks = await client.chunks("x")
    kinds = [next(iter(chunk["choices"][0]["delta"])) for chunk in chunks[1:-1]]
    assert kinds == ["reasoning_content"] * len(tokenize("Hm, well.")) + ["content"] * len(tokenize("So."))


async def test_logprobs_ride_on_their_chunk(serve: Serve) -> None:
    client = await serve(rules=REPLY)
    chunks = await client.chunks("x", logprobs=True)
    told = [chunk["choices"][0]["logprobs"] for chunk in chunks]
    assert [entry and entry["content"][0]["token"] for entry in told] == [None, "one", " two", None]


async def test_multi_byte_text_arrives_whole(serve: Serve) -> None:
    client = await serve(rules=({"action": {"reply": 'naïve 猫 "🐈"\n\u2028'}},))
    chunks = await client.chunks("x")
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks) == 'naïve 猫 "🐈"\n\u2028'


async def test_an_empty_reply_is_a_stop(serve: Serve) -> None:
    client = await serve(rules=({"action": {"reply": ""}},))
    chunks = await client.chunks("x", stream_options={"include_usage": True})
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks[:-1]] == [None, "stop"]
    assert chunks[-1]["usage"]["completion_tokens"] == 0


@pytest.mark.parametrize("limit", [1, 2])
async def test_the_length_limit_cuts_tool_calls_too(serve: Serve, limit: int) -> None:
    client = await serve()
    chunks = await client.chunks("Please look", tools=[TOOL], max_tokens=limit)
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"
    assert sum("tool_calls" in chunk["choices"][0]["delta"] for chunk in chunks) == limit
    assert client.sim.calls[-1].completion_tokens == limit
