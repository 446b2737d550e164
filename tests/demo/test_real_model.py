"""The router in front of a real language model, spoken to as its users do: through OpenAI's own SDK.

A model of 135 million parameters says what it likes. What is asserted is what must hold whatever it says.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from openai import APIStatusError, BadRequestError, OpenAI
from openai.types.chat import ChatCompletion, ChatCompletionMessageParam, ChatCompletionToolParam
from openai.types.chat.chat_completion_chunk import ChoiceDeltaToolCall
from pydantic import BaseModel, ConfigDict
from tests.demo.conftest import Model

from moa_router.demo.model import MODEL, SLOTS

# half a minute on two quiet cores; a busy machine may take its time
pytestmark = [pytest.mark.model, pytest.mark.timeout(400)]

FINISHED = {"stop", "length"}
IDLE_SECONDS = 30.0
#: Tokens enough for the longest JSON that the grammars here allow, with all the white space they allow.
ROOM = 250

TRAVEL: tuple[ChatCompletionMessageParam, ...] = (
    {"role": "system", "content": "You are a travel guide. Answer in one or two short sentences."},
)
TRAVEL_QUESTIONS = (
    "I have one day in Paris. What should I see first?",
    "And where could I eat near there?",
    "It is going to rain. What would you change?",
)
COOKING_QUESTIONS = (
    "How long do I boil an egg?\nI like it soft — “mollet”, as the French say. 🥚",
    "And if it comes straight out of the fridge?",
    "Sum up what you told me in one sentence.",
)
WEATHER: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city, now.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


@dataclass
class Streamed:
    """A streamed answer, put together."""

    candidates: str = ""
    content: str = ""
    calls: list[ChoiceDeltaToolCall] = field(default_factory=list)
    finish_reason: str | None = None
    moa: dict[str, Any] = field(default_factory=dict)
    usage: dict[str, Any] = field(default_factory=dict)
    heads: set[tuple[str, int, str]] = field(default_factory=set)
    order: list[Literal["candidates", "content", "calls", "finish", "usage"]] = field(default_factory=list)


def stream(client: OpenAI, messages: Sequence[ChatCompletionMessageParam], **fields: Any) -> Streamed:
    """Ask for a streamed answer and take it in."""
    got = Streamed()
    for chunk in client.chat.completions.create(
        model="demo", messages=list(messages), stream=True, stream_options={"include_usage": True}, **fields
    ):
        got.heads.add((chunk.id, chunk.created, chunk.model))
        if chunk.usage is not None:
            assert chunk.choices == []
            got.order.append("usage")
            got.usage = chunk.usage.model_dump()
            continue
        [choice] = chunk.choices
        shown = (choice.delta.model_extra or {}).get("reasoning_content")
        if shown:
            got.order.append("candidates")
            got.candidates += shown
        if choice.delta.content:
            got.order.append("content")
            got.content += choice.delta.content
        if choice.delta.tool_calls:
            got.order.append("calls")
            got.calls += choice.delta.tool_calls
        if choice.finish_reason is not None:
            got.order.append("finish")
            got.finish_reason = choice.finish_reason
            # of several choices, the last to end brings it
            got.moa = (chunk.model_extra or {}).get("moa", {})
    return got


def assert_fused(moa: dict[str, Any], usage: dict[str, Any]) -> None:
    """Two of three candidates, an aggregator that found their conversation in the cache, and sums that agree."""
    assert (moa["profile"], moa["mode"], moa["strategy"], moa["degraded"]) == ("demo", "fuse", "Synthesize", [])
    assert (moa["panel"]["asked"], moa["panel"]["quorum"]) == (3, 2)
    assert moa["panel"]["answered"] >= 2
    panel = [stage for stage in moa["stages"] if stage["stage"] == "panel"]
    assert {stage["outcome"] for stage in panel} <= {"ok", "cancelled"}
    assert sum(stage["outcome"] == "ok" for stage in panel) == moa["panel"]["answered"]
    [aggregator] = [stage for stage in moa["stages"] if stage["stage"] == "aggregator"]
    assert aggregator["outcome"] == "ok"
    assert not aggregator.get("estimated")
    # the aggregator is asked right after the panel, and its prompt begins with the panel's
    reported = [stage for stage in panel if stage["outcome"] == "ok" and not stage.get("estimated")]
    [prompt] = {stage["usage"]["prompt_tokens"] for stage in reported}
    assert aggregator["usage"]["prompt_tokens"] > prompt
    assert aggregator["usage"]["prompt_tokens_details"]["cached_tokens"] > prompt / 2
    assert_counted(moa, usage)


def assert_counted(moa: dict[str, Any], usage: dict[str, Any]) -> None:
    """The answer's usage is the sum over its stages, and every call is a stage."""
    stages = [stage["usage"] for stage in moa["stages"]]
    assert moa["calls"] == len(stages)
    assert {stage["model"] for stage in moa["stages"]} == {MODEL}
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert usage[name] == sum(stage[name] for stage in stages)
    cached = [stage["prompt_tokens_details"]["cached_tokens"] for stage in stages]
    assert usage["prompt_tokens_details"]["cached_tokens"] == sum(cached)


def moa_of(answer: ChatCompletion) -> dict[str, Any]:
    extra: dict[str, Any] = answer.model_extra or {}
    moa: dict[str, Any] = extra["moa"]
    return moa


def usage_of(answer: ChatCompletion) -> dict[str, Any]:
    assert answer.usage is not None
    return answer.usage.model_dump()


class TestConversations:
    def test_of_several_turns_streamed(self, client: OpenAI) -> None:
        messages = [*TRAVEL]
        for question in TRAVEL_QUESTIONS:
            messages.append({"role": "user", "content": question})
            answer = stream(client, messages)
            assert_fused(answer.moa, answer.usage)
            assert answer.finish_reason in FINISHED
            assert answer.content.strip()
            assert answer.candidates.count("[candidate ") == 3
            [head] = answer.heads
            assert head[2] == "demo"
            # candidates come before the answer, one piece after the other, and the books after both
            first = answer.order.index("content")
            assert set(answer.order[:first]) == {"candidates"}
            assert first > 3
            assert answer.order[first:-2] == ["content"] * (len(answer.order) - first - 2)
            assert answer.order[-2:] == ["finish", "usage"]
            messages.append({"role": "assistant", "content": answer.content})

    def test_of_several_turns_at_once(self, client: OpenAI) -> None:
        messages: list[ChatCompletionMessageParam] = []
        for question in COOKING_QUESTIONS:
            messages.append({"role": "user", "content": question})
            raw = client.chat.completions.with_raw_response.create(model="fusion/demo", messages=messages)
            answer = raw.parse()
            moa = moa_of(answer)
            assert_fused(moa, usage_of(answer))
            assert raw.headers["x-moa-panel"] == f"{moa['panel']['answered']}/3"
            assert "x-moa-degraded" not in raw.headers
            assert answer.model == "fusion/demo"
            [choice] = answer.choices
            assert choice.finish_reason in FINISHED
            assert choice.message.role == "assistant"
            assert choice.message.content
            messages.append({"role": "assistant", "content": choice.message.content})

    def test_by_one_model_alone(self, client: OpenAI) -> None:
        messages: list[ChatCompletionMessageParam] = [*TRAVEL, {"role": "user", "content": TRAVEL_QUESTIONS[0]}]
        answer = client.chat.completions.create(model="demo:single", messages=messages, max_tokens=12)
        moa = moa_of(answer)
        assert (moa["mode"], moa["calls"], moa["stages"][0]["stage"]) == ("single", 1, "single")
        assert_counted(moa, usage_of(answer))
        assert usage_of(answer)["completion_tokens"] <= 12


class TestTools:
    def test_are_called_by_the_aggregator_and_their_result_is_read(self, client: OpenAI, model: Model) -> None:
        messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What is the weather in Paris?"}]
        # the first token of a call, made likely: so small a model seldom makes one unless it is made to
        opening = {str(model.tokens(text)[0]): 20 for text in ("{", '{"name')}
        asked = stream(
            client, messages,
            tools=[WEATHER], tool_choice="required", parallel_tool_calls=False, logit_bias=opening, max_tokens=ROOM,
        )  # fmt: skip
        assert_fused(asked.moa, asked.usage)
        assert asked.finish_reason == "tool_calls"
        first, *rest = asked.calls
        assert first.id
        assert first.function is not None
        assert first.function.name == "get_weather"
        assert {call.index for call in asked.calls} == {0}
        assert all(call.id is None and call.function and call.function.name is None for call in rest)
        arguments = "".join(call.function.arguments or "" for call in asked.calls if call.function is not None)
        assert json.loads(arguments)["city"] in {"Paris", "Rome"}

        call = {"id": first.id, "type": "function", "function": {"name": "get_weather", "arguments": arguments}}
        told: Any = [
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": first.id, "content": "18 degrees, sunny"},
        ]
        answered = stream(client, [*messages, *told], tools=[WEATHER], tool_choice="none")
        # a tool's result goes straight to the aggregator's upstream
        assert [stage["stage"] for stage in answered.moa["stages"]] == ["aggregator"]
        assert answered.moa["degraded"] == []
        assert_counted(answered.moa, answered.usage)
        assert answered.finish_reason in FINISHED
        assert answered.content.strip()
        assert answered.calls == []


class City(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Literal["Paris", "Rome"]
    is_capital: bool


class TestSchemas:
    def test_shape_the_answer(self, client: OpenAI) -> None:
        answer = client.chat.completions.parse(
            model="demo",
            messages=[{"role": "user", "content": "Tell me about Paris, as JSON."}],
            response_format=City,
            max_tokens=ROOM,
        )
        [choice] = answer.choices
        assert choice.finish_reason == "stop"
        assert isinstance(choice.message.parsed, City)
        assert choice.message.content is not None
        assert set(json.loads(choice.message.content)) == {"name", "is_capital"}
        assert_fused(moa_of(answer), usage_of(answer))

    def test_shape_a_streamed_answer(self, client: OpenAI) -> None:
        schema = {"name": "city", "strict": True, "schema": City.model_json_schema()}
        answer = stream(
            client,
            [{"role": "user", "content": "Tell me about Rome, as JSON."}],
            response_format={"type": "json_schema", "json_schema": schema},
            max_tokens=ROOM,
        )
        assert answer.finish_reason == "stop"
        City.model_validate_json(answer.content)
        assert_fused(answer.moa, answer.usage)


class TestRefusals:
    @pytest.mark.parametrize(
        ("fields", "code", "param"),
        [
            ({"messages": [{"role": "user", "content": "word " * 9000}]}, "context_length_exceeded", "messages"),
            ({"extra_body": {"temperature": "warm"}}, "upstream_refused", "temperature"),
            ({"n": SLOTS + 1}, "upstream_refused", "n"),
        ],
    )
    def test_name_what_the_client_can_mend(self, client: OpenAI, fields: dict[str, Any], code: str, param: str) -> None:
        messages = [{"role": "user", "content": "Hello"}]
        with pytest.raises(BadRequestError) as refused:
            client.chat.completions.create(**{"model": "demo", "messages": messages, "max_tokens": 4, **fields})
        assert (refused.value.code, refused.value.param) == (code, param)
        assert "llama" not in refused.value.message

    def test_of_a_number_of_choices_leave_smaller_ones_possible(self, client: OpenAI) -> None:
        messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hello"}]
        with pytest.raises(BadRequestError):
            client.chat.completions.create(model="demo", messages=messages, max_tokens=4, n=SLOTS + 1)
        answer = stream(client, messages, max_tokens=12, n=2)
        assert answer.order.count("finish") == 2
        [aggregator] = [stage for stage in answer.moa["stages"] if stage["stage"] == "aggregator"]
        # llama.cpp reports the tokens of one choice alone
        assert aggregator["estimated"] is True
        assert_counted(answer.moa, answer.usage)

    def test_of_images_say_so(self, client: OpenAI) -> None:
        pixel = "data:image/png;base64,iVBORw0KGgo="
        parts: Any = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": pixel}}]
        for _ in range(2):
            # the second time it is known without asking
            with pytest.raises(APIStatusError) as refused:
                client.chat.completions.create(model="demo", messages=[{"role": "user", "content": parts}])
            assert (refused.value.status_code, refused.value.param) == (400, "messages")
            assert "images" in refused.value.message


class TestDisconnect:
    def test_ends_the_generation(self, client: OpenAI, model: Model) -> None:
        messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Tell me a very long story."}]
        with client.chat.completions.create(
            model="demo", messages=messages, stream=True, max_tokens=4000, extra_body={"ignore_eos": True}
        ) as chunks:
            for chunk in chunks:
                if chunk.choices and chunk.choices[0].delta.content:
                    break
            assert model.busy() >= 1
        # 4000 tokens take this model a minute and more on the fastest of machines
        deadline = time.monotonic() + IDLE_SECONDS
        while model.busy():
            assert time.monotonic() < deadline, "the model is still writing"
            time.sleep(0.1)
