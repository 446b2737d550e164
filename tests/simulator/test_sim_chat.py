"""Chat completions, unstreamed: what an answer says, and what it counts."""

import json

import jsonschema
import pytest
from tests.simulator.client import Answer, Serve

from moa_simulator import ModelConfig
from moa_simulator.protocol.requests import Message
from moa_simulator.template import render
from moa_simulator.tokens import tokenize

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
TIME = {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}}}}
IMAGE = [
    {"type": "text", "text": "What is this?"},
    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}},
]


async def test_an_answer_has_vllms_fields_in_vllms_order(serve: Serve) -> None:
    client = await serve(tokens=8, tokens_spread=0)
    answer = await client.chat("Hello")
    assert list(answer) == [
        *("id", "object", "created", "model", "choices", "service_tier", "system_fingerprint", "usage"),
        *("prompt_logprobs", "prompt_token_ids", "kv_transfer_params"),
    ]
    (choice,) = answer["choices"]
    assert list(choice) == ["index", "message", "logprobs", "finish_reason", "stop_reason", "token_ids"]
    assert choice["finish_reason"] == "stop"
    assert len(tokenize(choice["message"]["content"])) == 8
    prompt = render([Message("user", "Hello")], (), 1)
    assert answer["usage"] == {
        "prompt_tokens": len(prompt),
        "total_tokens": len(prompt) + 8,
        "completion_tokens": 8,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


async def test_an_answers_id_is_the_request_id(serve: Serve) -> None:
    client = await serve()
    async with client.session.post(
        "/v1/chat/completions",
        json={"model": "sim", "messages": [{"role": "user", "content": "x"}]},
        headers={"X-Request-Id": "abc"},
    ) as response:
        assert (await response.json())["id"] == "chatcmpl-abc"


def text_of(answer: Answer) -> str:
    text: str = answer["choices"][0]["message"]["content"]
    return text


async def test_text_depends_on_model_prompt_seed_temperature_and_index_alone(serve: Serve) -> None:
    client = await serve(ModelConfig(name="sim"), ModelConfig(name="other"))
    other_server = await serve()
    first = await client.chat("Hello", seed=1, temperature=0.5)
    assert text_of(await other_server.chat("Hello", seed=1, temperature=0.5)) == text_of(first)
    variants = [
        await client.chat("Hello", seed=2, temperature=0.5),
        await client.chat("Hello", seed=1, temperature=0.6),
        await client.chat("Hello!", seed=1, temperature=0.5),
        await client.chat("Hello", seed=1, temperature=0.5, model="other"),
    ]
    assert len({text_of(first), *map(text_of, variants)}) == 5


async def test_at_temperature_0_neither_seed_nor_index_matter(serve: Serve) -> None:
    client = await serve()
    answer = await client.chat("Hello", n=3, temperature=0, seed=1)
    texts = {choice["message"]["content"] for choice in answer["choices"]}
    assert texts == {text_of(await client.chat("Hello", temperature=0, seed=2))}


async def test_choices_differ_in_text_and_length_and_share_the_prompt(serve: Serve) -> None:
    client = await serve(tokens=40, tokens_spread=0.5)
    answer = await client.chat("Hello", n=5)
    texts = [choice["message"]["content"] for choice in answer["choices"]]
    lengths = [len(tokenize(text)) for text in texts]
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3, 4]
    assert len(set(texts)) == 5
    assert len(set(lengths)) > 1
    assert all(20 <= length <= 60 for length in lengths)
    assert answer["usage"]["completion_tokens"] == sum(lengths)
    assert answer["usage"]["prompt_tokens"] == (await client.chat("Hello"))["usage"]["prompt_tokens"]


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
async def test_length_limit(serve: Serve, field: str) -> None:
    client = await serve(tokens=50)
    answer = await client.chat("Hello", **{field: 5})
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 5
    assert len(tokenize(text_of(answer))) == 5


async def test_ignore_eos_fills_the_limit_and_min_tokens_is_kept(serve: Serve) -> None:
    client = await serve(tokens=3)
    assert (await client.chat("x", max_tokens=90, ignore_eos=True))["usage"]["completion_tokens"] == 90
    assert (await client.chat("x", max_tokens=90, min_tokens=20))["usage"]["completion_tokens"] == 20


@pytest.mark.parametrize("stop", ["three", ["nowhere", "three", "four"]])
async def test_stop_strings(serve: Serve, stop: object) -> None:
    client = await serve(rules=({"action": {"reply": "one two three four"}},))
    answer = await client.chat("x", stop=stop)
    (choice,) = answer["choices"]
    assert (choice["message"]["content"], choice["finish_reason"], choice["stop_reason"]) == (
        "one two ",
        "stop",
        "three",
    )
    assert answer["usage"]["completion_tokens"] == len(tokenize("one two "))


async def test_prefix_is_cached_in_blocks_and_by_the_conversation_so_far(serve: Serve) -> None:
    client = await serve(tokens=40, tokens_spread=0)
    question = "word " * 100
    first = await client.chat(question)
    again = await client.chat(question)
    prompt = first["usage"]["prompt_tokens"]
    assert first["usage"]["prompt_tokens_details"] == {"cached_tokens": 0}
    assert again["usage"]["prompt_tokens_details"] == {"cached_tokens": (prompt - 1) // 16 * 16}
    turns = [
        {"role": "user", "content": question},
        {"role": "assistant", "content": text_of(first)},
        {"role": "user", "content": "And then?"},
    ]
    third = await client.chat(messages=turns)
    assert third["usage"]["prompt_tokens_details"]["cached_tokens"] == (prompt + 40) // 16 * 16


async def test_a_changed_front_shares_nothing_and_a_changed_tail_shares_the_front(serve: Serve) -> None:
    client = await serve()
    tail = [{"role": "user", "content": "word " * 100}]
    await client.chat(messages=[{"role": "system", "content": "Be brief."}, *tail])
    other = await client.chat(messages=[{"role": "system", "content": "Be long."}, *tail])
    assert other["usage"]["prompt_tokens_details"] == {"cached_tokens": 0}
    longer = [{"role": "user", "content": "word " * 100 + "and more"}]
    shared = await client.chat(messages=[{"role": "system", "content": "Be brief."}, *longer])
    assert shared["usage"]["prompt_tokens_details"]["cached_tokens"] >= 96


async def test_tools_stand_in_front_of_the_conversation(serve: Serve) -> None:
    client = await serve()
    question = "word " * 100
    await client.chat(question)
    with_tools = await client.chat(question, tools=[WEATHER])
    assert with_tools["usage"]["prompt_tokens_details"] == {"cached_tokens": 0}
    assert (await client.chat(question, tools=[WEATHER], tool_choice="none"))["usage"]["prompt_tokens_details"] == {
        "cached_tokens": (len(render([Message("user", question)], (), 1)) - 1) // 16 * 16
    }


async def test_images_cost_a_fixed_number_of_tokens_and_different_ones_share_none(serve: Serve) -> None:
    client = await serve(image_tokens=64)
    plain = await client.chat("What is this?")
    shown = await client.chat(IMAGE)
    assert shown["usage"]["prompt_tokens"] == plain["usage"]["prompt_tokens"] + 64
    other = [IMAGE[0], {"type": "image_url", "image_url": {"url": "data:image/png;base64,BB"}}]
    assert (await client.chat(other))["usage"]["prompt_tokens_details"] == {"cached_tokens": 0}
    assert (await client.chat(IMAGE))["usage"]["prompt_tokens_details"]["cached_tokens"] >= 64


async def test_names_roles_and_tool_turns_count_as_prompt(serve: Serve) -> None:
    client = await serve()
    base = (await client.chat("Hi"))["usage"]["prompt_tokens"]
    named = await client.chat(messages=[{"role": "user", "name": "ann", "content": "Hi"}])
    assert named["usage"]["prompt_tokens"] == base + 2
    called = await client.chat(
        messages=[
            {"role": "user", "content": "Hi"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
            },
            {"role": "tool", "tool_call_id": "1", "content": "ok"},
        ]
    )
    assert called["usage"]["prompt_tokens"] > base + 8


async def test_json_object_and_json_schema(serve: Serve) -> None:
    client = await serve()
    answer = await client.chat("x", response_format={"type": "json_object"})
    assert isinstance(json.loads(text_of(answer)), dict)
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string"}, "degrees": {"type": "integer", "minimum": -5, "maximum": 5}},
        "required": ["city", "degrees"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "weather", "schema": schema}}
    for asked in (
        {"response_format": form},
        {"guided_json": schema},
        {"structured_outputs": {"json": json.dumps(schema)}},
    ):
        jsonschema.validate(json.loads(text_of(await client.chat("x", **asked))), schema)


async def test_auto_calls_the_tools_the_last_user_turn_names(serve: Serve) -> None:
    client = await serve()
    answer = await client.chat("Use get_weather and get_time", tools=[WEATHER, TIME])
    (choice,) = answer["choices"]
    calls = choice["message"]["tool_calls"]
    assert [call["function"]["name"] for call in calls] == ["get_weather", "get_time"]
    assert list(json.loads(calls[0]["function"]["arguments"])) == ["city"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    assert len({call["id"] for call in calls}) == 2
    one = await client.chat("Use get_weather and get_time", tools=[WEATHER, TIME], parallel_tool_calls=False)
    assert len(one["choices"][0]["message"]["tool_calls"]) == 1


async def test_auto_answers_in_words_when_no_tool_is_named_or_the_tool_has_answered(serve: Serve) -> None:
    client = await serve()
    assert "tool_calls" not in (await client.chat("Hello", tools=[WEATHER]))["choices"][0]["message"]
    turns = [
        {"role": "user", "content": "get_weather"},
        {"role": "tool", "tool_call_id": "1", "content": "get_weather"},
    ]
    assert "tool_calls" not in (await client.chat(messages=turns, tools=[WEATHER]))["choices"][0]["message"]
    assert (await client.chat("get_weather", tools=[WEATHER], tool_choice="none"))["choices"][0]["message"]["content"]


async def test_required_and_named_choices_always_call(serve: Serve) -> None:
    client = await serve()
    required = await client.chat("Hello", tools=[TIME, WEATHER], tool_choice="required")
    assert required["choices"][0]["finish_reason"] == "tool_calls"
    named = await client.chat(
        "Hello", tools=[TIME, WEATHER], tool_choice={"type": "function", "function": {"name": "get_weather"}}
    )
    assert named["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "get_weather"
    assert named["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
async def test_reasoning(serve: Serve, field: str) -> None:
    client = await serve(tokens=10, tokens_spread=0, reasoning_tokens=6, reasoning_field=field)
    answer = await client.chat("x")
    assert len(tokenize(answer["choices"][0]["message"][field])) == 6
    assert answer["usage"]["completion_tokens"] == 16
    assert answer["usage"]["completion_tokens_details"] == {"reasoning_tokens": 6}
    silent = await client.chat("x", chat_template_kwargs={"enable_thinking": False})
    assert silent["choices"][0]["message"][field] is None
    assert "completion_tokens_details" not in silent["usage"]
    cut = await client.chat("x", max_tokens=4)
    assert (cut["choices"][0]["message"]["content"], cut["choices"][0]["finish_reason"]) == ("", "length")


async def test_reasoning_on_request_and_hidden(serve: Serve) -> None:
    client = await serve(tokens=10, tokens_spread=0)
    asked = await client.chat("x", chat_template_kwargs={"enable_thinking": True})
    assert asked["usage"]["completion_tokens_details"] == {"reasoning_tokens": 32}
    hidden = await client.chat("x", chat_template_kwargs={"enable_thinking": True}, include_reasoning=False)
    assert hidden["choices"][0]["message"]["reasoning_content"] is None
    assert hidden["usage"]["completion_tokens"] == 42


async def test_logprobs(serve: Serve) -> None:
    client = await serve(tokens=5, tokens_spread=0)
    answer = await client.chat("x", logprobs=True, top_logprobs=3)
    content = answer["choices"][0]["logprobs"]["content"]
    assert "".join(entry["token"] for entry in content) == text_of(answer)
    for entry in content:
        assert entry["bytes"] == list(entry["token"].encode())
        ranked = [alternative["logprob"] for alternative in entry["top_logprobs"]]
        assert len(ranked) == 3
        assert ranked == sorted(ranked, reverse=True)
        assert ranked[0] == entry["logprob"] <= 0


async def test_missing_details_when_the_server_does_not_report_them(serve: Serve) -> None:
    client = await serve(prompt_tokens_details=False)
    assert "prompt_tokens_details" not in (await client.chat("x"))["usage"]


# Refusals.


async def test_context_overflow_in_vllms_words(serve: Serve) -> None:
    client = await serve(max_model_len=50)
    status, error = await client.refusal("word " * 100, max_tokens=10)
    prompt = len(render([Message("user", "word " * 100)], (), 1))
    assert status == 400
    assert error == {
        "message": f"This model's maximum context length is 50 tokens. However, you requested 10 output tokens and "
        f"your prompt contains {prompt} input tokens, for a total of {prompt + 10} tokens. Please reduce the "
        "length of the input prompt or the number of requested output tokens.",
        "type": "BadRequestError",
        "param": "input_tokens",
        "code": 400,
    }
    fits = await client.chat("word", ignore_eos=True)
    assert fits["usage"]["total_tokens"] == 50


@pytest.mark.parametrize(
    ("model", "fields", "status", "message"),
    [
        ({}, {"model": "nope"}, 404, "The model `nope` does not exist."),
        ({"vision": False}, {"content": IMAGE}, 400, "sim is not a multimodal model"),
        ({"multiple_choices": False}, {"n": 2}, 400, "Only one completion choice is allowed"),
        (
            {"tools": False},
            {"tools": [WEATHER]},
            400,
            '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set',
        ),
        (
            {"structured_output": False},
            {"response_format": {"type": "json_object"}},
            400,
            "Structured outputs are not supported by this model",
        ),
        ({}, {"n": 0}, 400, "Expected `int` >= 1 - at `$.n`"),
        ({}, {"temperature": "hot"}, 400, "Expected `float | null`, got `str` - at `$.temperature`"),
        ({}, {"messages": []}, 400, "messages must not be empty"),
        (
            {},
            {"guided_json": "{oops"},
            400,
            "the schema is not JSON: JSON is malformed: object keys must be strings (byte 1)",
        ),
        (
            {},
            {"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "fly"}}},
            400,
            "The tool specified in `tool_choice` does not match any of the specified `tools`: fly",
        ),
    ],
)
async def test_refusals(
    serve: Serve, model: dict[str, object], fields: dict[str, object], status: int, message: str
) -> None:
    client = await serve(ModelConfig.model_validate({"name": "sim", **model}))
    got, error = await client.refusal(**fields)
    assert (got, error["message"], error["code"]) == (status, message, status)
    assert client.sim.calls[-1].outcome == "rejected"
    assert client.sim.calls[-1].status == status


async def test_a_model_that_refuses_something_still_takes_the_rest(serve: Serve) -> None:
    client = await serve(vision=False, multiple_choices=False, tools=False, structured_output=False)
    assert text_of(await client.chat("x", n=1, tools=[WEATHER], tool_choice="none", response_format={"type": "text"}))


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b'{"model": 7, "stream": "yes", "n": "two"}', b"\xff"])
async def test_bodies_that_are_no_request(serve: Serve, body: bytes) -> None:
    client = await serve()
    status, answer = await client.post("/v1/chat/completions", body)
    assert status == 400
    assert answer["error"]["type"] == "Bad Request"
