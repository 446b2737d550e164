"""Rules of the wire: streams. What reaches the client, when, and under whose name."""

import json
import socket
from typing import Any, cast
from urllib.parse import urlsplit

import openai
import pytest
from tests.router.wire.harness import (
    AGGREGATOR_TEMPERATURE,
    PANEL_TEMPERATURE,
    QWEN,
    Json,
    Profile,
    Router,
    Simulator,
    StartRouter,
    asked,
    chunks_in,
    data_in,
    final_replies,
    panel_replies,
    text_of,
    wait_until,
)

TRICKY = (
    'He said "hï" — \\n 日本語 🎈👩‍👩‍👧 {"choices":[{"finish_reason":"stop"}],"usage":{}}\n'
    'data: [DONE]\n\n"finish_reason":"stop" <b>&amp;</b> \x7f end'
)
PANEL = {"contains": f'"temperature":{PANEL_TEMPERATURE}'}
FINAL = {"contains": f'"temperature":{AGGREGATOR_TEMPERATURE}'}
SHAPES = pytest.mark.parametrize("model", [QWEN, "llamacpp"])


def served_by(profile: Profile, model: str, **sections: Any) -> Json:
    return profile(upstreams=[{"name": "qwen", "model": model}], **sections)


def deltas(chunks: list[Json]) -> list[Json]:
    return [choice["delta"] for chunk in chunks for choice in chunk["choices"]]


# -- when --------------------------------------------------------------------------------------------------------------


def test_headers_leave_before_anybody_has_answered(router: StartRouter, profile: Profile, simulator: Simulator) -> None:
    # without heartbeats nothing else could take them along
    silent = router(profile(response={"heartbeat": "0s"}))
    simulator.rules({"match": PANEL, "action": {"hang": {}}})
    with silent.stream(asked()) as events:
        assert events.status == 200
        assert events.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert events.headers["cache-control"] == "no-cache"
        assert events.headers["x-accel-buffering"] == "no"
        assert events.headers["x-moa-mode"] == "fuse"
        assert events.headers["x-request-id"]
        assert all(call.outcome == "running" for call in simulator.calls())


def test_heartbeats_until_the_first_token_and_nothing_else(
    router: StartRouter, profile: Profile, simulator: Simulator
) -> None:
    beating = router(profile(response={"heartbeat": "50ms"}))
    simulator.rules({"match": PANEL, "action": {"hang": {}}})
    with beating.stream(asked()) as events:
        assert [event for event, _ in zip(events, range(3), strict=False)] == [": ", ": ", ": "]


def test_heartbeats_can_be_turned_off(router: StartRouter, profile: Profile, simulator: Simulator) -> None:
    silent = router(profile(response={"heartbeat": "0s"}))
    simulator.rules({"match": PANEL, "action": {"delay": 0.3}})
    assert all(event.startswith("data: ") for event in silent.events(asked()))


@SHAPES
def test_tokens_leave_while_the_aggregator_still_writes(
    router: StartRouter, profile: Profile, simulator: Simulator, model: str
) -> None:
    simulator.rules(
        {"match": FINAL, "action": {"reply": "one two three four five six", "hang": {"after": 4}}},
    )
    with router(served_by(profile, model)).stream(asked()) as events:
        text = ""
        for event in events:
            text += text_of(chunks_in([event]))
            # the role's chunk, and three tokens; a fourth is never written
            if text == "one two three":
                break
        assert simulator.calls()[-1].outcome == "running"


def test_the_answer_begins_no_sooner_than_it_is_written(
    router: StartRouter, profile: Profile, simulator: Simulator
) -> None:
    beating = router(profile(response={"heartbeat": "50ms"}))
    simulator.rules({"match": FINAL, "action": {"hang": {"after": 1}}})
    with beating.stream(asked()) as events:
        wait_until(lambda: len(simulator.calls()) == 2, "the aggregator's call")
        # one that has announced its turn has said nothing yet: another one could still be asked
        assert {event for event, _ in zip(events, range(10), strict=False)} == {": "}


# -- what --------------------------------------------------------------------------------------------------------------


@SHAPES
@pytest.mark.parametrize("name", ["research", "fusion/research", "research:synthesize"])
def test_one_head_through_the_whole_answer(router: StartRouter, profile: Profile, model: str, name: str) -> None:
    serving = router(served_by(profile, model))
    chunks = serving.chunks({**asked(), "model": name, "stream_options": {"include_usage": True}})
    heads = {(chunk["id"], chunk["object"], chunk["created"], chunk["model"]) for chunk in chunks}
    assert len(heads) == 1
    answer_id, kind, created, shown = heads.pop()
    assert (kind, shown) == ("chat.completion.chunk", name)
    assert answer_id.startswith("chatcmpl-")
    assert created > 0
    assert serving.chunks(asked())[0]["id"] != answer_id


@SHAPES
def test_role_once_and_first(router: StartRouter, profile: Profile, model: str) -> None:
    roles = [delta.get("role") for delta in deltas(router(served_by(profile, model)).chunks(asked()))]
    assert roles[0] == "assistant"
    assert set(roles[1:]) == {None}


@SHAPES
def test_text_is_exactly_what_the_upstream_wrote(
    router: StartRouter, profile: Profile, simulator: Simulator, model: str
) -> None:
    simulator.rules(final_replies(TRICKY))
    serving = router(served_by(profile, model))
    with serving.openai.chat.completions.stream(**asked()) as stream:
        streamed = stream.get_final_completion().choices[0].message.content
    assert streamed == TRICKY
    assert serving.openai.chat.completions.create(**asked()).choices[0].message.content == TRICKY


@SHAPES
@pytest.mark.parametrize("size", [1, 7])
def test_text_survives_a_stream_in_any_pieces(
    router: StartRouter, profile: Profile, simulator: Simulator, model: str, size: int
) -> None:
    drip = {"interval": 0.0001, "size": size}
    simulator.rules({"match": FINAL, "action": {"reply": TRICKY[:60], "drip": drip}})
    assert text_of(router(served_by(profile, model)).chunks(asked())) == TRICKY[:60]


@SHAPES
def test_one_chunk_for_each_of_the_upstreams(
    router: StartRouter, profile: Profile, simulator: Simulator, model: str
) -> None:
    simulator.rules(final_replies("one two three four five"))
    contents = [delta["content"] for delta in deltas(router(served_by(profile, model)).chunks(asked()))[1:-1]]
    assert contents == ["one", " two", " three", " four", " five"]


def test_unknown_fields_are_kept(router: StartRouter, profile: Profile, simulator: Simulator) -> None:
    of_choice = router(served_by(profile, QWEN)).chunks(asked())
    assert all("token_ids" in choice for chunk in of_choice[1:] for choice in chunk["choices"])
    assert of_choice[-1]["choices"][0]["stop_reason"] is None
    of_chunk = router(served_by(profile, "llamacpp")).chunks(asked())
    assert {chunk.get("system_fingerprint") for chunk in of_chunk[1:]} == {"b9999-sim"}


def test_odd_chunks_are_relayed_too(small: Router, simulator: Simulator) -> None:
    """Spaces, another order of keys, several choices' worth of fields, comments, CRLF, no space behind `data:`."""
    events = [
        'data: {"id": "x", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": "A"}}]}',
        ": a comment",
        'data:{"choices":[{"delta":{"content":"B"},"index":0,"extra":{"deep":[1]}}],"id":"y","vendor":7}',
        'event: message\r\ndata: {"id":"x","choices":[{"index":0,"delta":{"content":"C"},"finish_reason":null}]}',
        'data: {"id":"x","choices":[]}',
        'data: {"id":"x","choices":[{"index":0,"delta":{"content":"D"},"finish_reason":null}],"vendor":[8]}',
        'data: {"id":"x","choices":[{"index":0,"delta":{},"finish_reason":"stop","seconds":1.5}],"took":3}',
        "data: [DONE]",
    ]
    body = "".join(f"{event}\n\n" for event in events)
    head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
    simulator.rules({"match": FINAL, "action": {"raw": {"pieces": [{"text": head + body}]}}})
    chunks = small.chunks(asked())
    assert text_of(chunks) == "ABCD"
    assert len({(chunk["id"], chunk["model"], chunk["object"]) for chunk in chunks}) == 1
    assert [chunk["vendor"] for chunk in chunks if "vendor" in chunk] == [7, [8]]
    assert [choice["extra"] for chunk in chunks for choice in chunk["choices"] if "extra" in choice] == [{"deep": [1]}]
    assert chunks[-1]["took"] == 3
    assert chunks[-1]["choices"][0]["seconds"] == 1.5


def test_logprobs_are_streamed(small: Router, simulator: Simulator) -> None:
    simulator.rules(final_replies("one two"))
    with small.openai.chat.completions.stream(**asked(logprobs=True, top_logprobs=2)) as stream:
        logprobs = stream.get_final_completion().choices[0].logprobs
    assert logprobs is not None
    assert [entry.token for entry in logprobs.content or []] == ["one", " two"]


def test_reasoning_of_the_aggregator_is_streamed(router: StartRouter, profile: Profile, simulator: Simulator) -> None:
    simulator.rules({"match": FINAL, "action": {"reply": {"text": "So.", "reasoning": "Let me think."}}})
    chunks = router(served_by(profile, QWEN)).chunks(asked())
    assert text_of(chunks, "reasoning_content") == "Let me think."
    assert text_of(chunks) == "So."


@pytest.mark.parametrize("streamed", [True, False])
def test_several_choices(small: Router, simulator: Simulator, *, streamed: bool) -> None:
    simulator.rules({"match": FINAL, "action": {"reply": {"texts": ["first one", "the second"]}}})
    client: Any = small.openai
    if streamed:
        with client.chat.completions.stream(**asked(n=2)) as stream:
            answer = stream.get_final_completion()
    else:
        answer = client.chat.completions.create(**asked(n=2))
    found = {choice.index: choice.message.content for choice in answer.choices}
    assert found == {0: "first one", 1: "the second"}
    assert {choice.finish_reason for choice in answer.choices} == {"stop"}


# -- how it ends -------------------------------------------------------------------------------------------------------


@SHAPES
def test_moa_rides_on_the_chunk_with_the_finish_reason(router: StartRouter, profile: Profile, model: str) -> None:
    chunks = router(served_by(profile, model)).chunks(asked())
    assert [index for index, chunk in enumerate(chunks) if "moa" in chunk] == [len(chunks) - 1]
    reasons = [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]]
    assert reasons[-1] == "stop"
    assert set(reasons[:-1]) == {None}
    moa = chunks[-1]["moa"]
    assert (moa["profile"], moa["mode"], moa["strategy"], moa["degraded"]) == ("research", "fuse", "Synthesize", [])
    assert moa["panel"] == {"asked": 3, "answered": 3, "quorum": 2}
    assert moa["calls"] == len(moa["stages"]) == 2
    assert [(stage["stage"], stage["layer"], stage["upstream"], stage["outcome"]) for stage in moa["stages"]] == [
        ("panel", 1, "qwen", "ok"),
        ("aggregator", 0, "qwen", "ok"),
    ]


@SHAPES
def test_usage_last_and_only_when_asked(
    router: StartRouter, profile: Profile, simulator: Simulator, model: str
) -> None:
    serving = router(served_by(profile, model))
    assert not any("usage" in chunk for chunk in serving.chunks(asked()))
    assert not any("usage" in chunk for chunk in serving.chunks(asked(stream_options={"include_usage": False})))
    simulator.reset()
    chunks = serving.chunks(asked(stream_options={"include_usage": True}))
    assert [index for index, chunk in enumerate(chunks) if chunk.get("usage")] == [len(chunks) - 1]
    assert chunks[-1]["choices"] == []
    calls = simulator.settled()
    usage = chunks[-1]["usage"]
    assert usage["prompt_tokens"] == sum(call.prompt_tokens for call in calls)
    assert usage["completion_tokens"] == sum(call.completion_tokens for call in calls)
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


@SHAPES
def test_done_once_and_last(router: StartRouter, profile: Profile, model: str) -> None:
    events = router(served_by(profile, model)).events(asked())
    assert data_in(events).count("[DONE]") == 1
    assert events[-1] == "data: [DONE]"


@SHAPES
@pytest.mark.parametrize("fault", [{"cut": 3}, {"reset": 3}, {"error_event": {"after": 3, "message": "my GPU melted"}}])
def test_a_stream_that_breaks_says_so(
    router: StartRouter, profile: Profile, simulator: Simulator, model: str, fault: Json
) -> None:
    simulator.rules({"match": FINAL, "action": {"reply": "one two three four", **fault}})
    serving = router(served_by(profile, model))
    events = data_in(serving.events(asked(stream_options={"include_usage": True})))
    error = json.loads(events[-1])["error"]
    assert set(error) == {"message", "type", "code", "param"}
    assert "qwen" in error["message"]
    assert "GPU" not in error["message"]
    assert text_of(chunks_in([f"data: {event}" for event in events[:-1]])) == "one two"
    assert not any('"finish_reason":"' in event or '"usage":{' in event for event in events)
    assert "[DONE]" not in events


def test_the_sdk_raises_when_a_stream_breaks(small: Router, simulator: Simulator) -> None:
    simulator.rules({"match": FINAL, "action": {"reply": "one two three four", "cut": 3}})
    text, client = "", cast("Any", small.openai)
    with pytest.raises(openai.APIError, match="broke off"):  # noqa: PT012 - the error comes in the midst of it
        for chunk in client.chat.completions.create(**asked(stream=True)):
            text += chunk.choices[0].delta.content or ""
    assert text == "one two"


async def test_the_asynchronous_sdk(small: Router, simulator: Simulator) -> None:
    simulator.rules(panel_replies("a", "b", "c"), final_replies(TRICKY))
    async with small.async_openai() as client, client.chat.completions.stream(**asked()) as stream:
        answer = await stream.get_final_completion()
    assert answer.choices[0].message.content == TRICKY


def test_http_1_0_gets_its_stream_without_chunks(small: Router, simulator: Simulator) -> None:
    simulator.rules(final_replies("one two three"))
    place = urlsplit(small.url)
    body = json.dumps(asked(stream=True)).encode()
    with socket.create_connection((place.hostname, place.port), timeout=20) as connection:
        connection.sendall(b"POST /v1/chat/completions HTTP/1.0\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
        received = b""
        while data := connection.recv(65536):
            received += data
    head, _, events = received.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head.lower()
    assert text_of(chunks_in(events.decode().split("\n\n"))) == "one two three"
    assert events.endswith(b"data: [DONE]\n\n")
