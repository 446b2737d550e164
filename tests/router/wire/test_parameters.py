"""Rules of the wire: the panel samples with the profile's values; what shapes the answer goes to the final call."""

import json
from typing import Any

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
    final_replies,
    merged,
)

#: What the router puts into every body by itself.
OWN = {"model", "messages", "stream", "stream_options"}
#: What the client asks of the answer, as raw JSON that an encoder would write otherwise.
RAW = {
    "max_tokens": "17",
    "stop": '[ "\\u007a\\u007az" ]',
    "seed": "7",
    "user": '"\\u0061nn"',
    "metadata": '{ "b" : "1", "a" : "2" }',
    "logprobs": "true",
    "top_logprobs": "2",
    "logit_bias": '{"7": 1.50}',
    "presence_penalty": "1e-1",
    "frequency_penalty": "0.10",
    "top_p": "0.90",
    "temperature": "0.20",
    "parallel_tool_calls": "false",
    "service_tier": '"auto"',
    "store": "null",
    "top_k": "40",
    "min_p": "0.050",
    "chat_template_kwargs": '{"enable_thinking":  false}',
    "guided_json": '{"type": "object", "properties": {}}',
    "vendor_number": "123456789012345678901234567890",
    "vendor_deep": '[[{"x":[ ]}]]',
    "caf\\u00e9": '"\\ud83d\\ude00"',
}
FORM = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object", "properties": {}}}}


def body(fields: dict[str, str], **more: str) -> str:
    given = {"model": '"research"', "messages": '[{"role":"user","content":"Why?"}]', **fields, **more}
    return "{" + ", ".join(f'"{name}" : {value}' for name, value in given.items()) + "}"


@pytest.mark.parametrize("stream", ["false", "true"])
def test_the_final_call_has_the_clients_fields_as_they_came(small: Router, simulator: Simulator, stream: str) -> None:
    assert small.post(body(RAW, stream=stream)).status == 200
    sent = [call for call in simulator.settled() if '"vendor_number"' in call.body]
    assert len(sent) == 1
    for name, value in RAW.items():
        assert f'"{json.loads(chr(34) + name + chr(34))}":{value}' in sent[0].body
    assert set(sent[0].fields) - OWN == {json.loads(f'"{name}"') for name in RAW}


def test_max_completion_tokens_reaches_the_final_call_alone(
    router: StartRouter, profile: Profile, simulator: Simulator
) -> None:
    limited = router(profile(aggregator={"maxTokens": 11}))
    answer = limited.openai.chat.completions.create(**asked(max_completion_tokens=5))
    assert answer.choices[0].finish_reason == "length"
    final = simulator.final()
    assert final.fields["max_completion_tokens"] == 5
    assert "max_tokens" not in final.fields
    assert final.completion_tokens == 5


def test_stop_shapes_the_answer(small: Router, simulator: Simulator) -> None:
    simulator.rules(final_replies("one two STOP three"))
    assert small.openai.chat.completions.create(**asked(stop="STOP")).choices[0].message.content == "one two "
    assert "stop" not in simulator.panel()[0].fields


def test_response_format_shapes_the_answer(small: Router, simulator: Simulator) -> None:
    answer = small.openai.chat.completions.create(**asked(response_format=FORM))
    assert isinstance(json.loads(answer.choices[0].message.content or ""), dict)
    assert simulator.final().fields["response_format"] == FORM
    assert "response_format" not in simulator.panel()[0].fields


def test_logprobs_come_back(small: Router) -> None:
    answer = small.openai.chat.completions.create(**asked(logprobs=True, top_logprobs=1))
    assert answer.choices[0].logprobs is not None
    assert answer.choices[0].logprobs.content


# -- the panel ---------------------------------------------------------------------------------------------------------


def test_the_panel_samples_with_the_profiles_values(
    router: StartRouter, profile: Profile, simulator: Simulator
) -> None:
    member = {
        "upstream": "qwen",
        "samples": 2,
        "temperature": PANEL_TEMPERATURE,
        "topP": 0.9,
        "maxTokens": 12,
        "seed": 5,
    }
    serving = router(profile(panel={"members": [member], "quorum": 2}))
    assert serving.post(body(RAW)).status == 200
    (panel,) = simulator.panel()
    fields = {name: value for name, value in panel.fields.items() if name not in OWN}
    assert fields == {
        "n": 2,
        "temperature": 0.7,
        "top_p": 0.9,
        "max_tokens": 12,
        "seed": 5,
        # these shape the prompt, and would part it from the aggregator's
        "chat_template_kwargs": {"enable_thinking": False},
        "parallel_tool_calls": False,
    }


def test_the_panels_defaults_are_few(small: Router, simulator: Simulator) -> None:
    assert small.post(asked()).status == 200
    (panel,) = simulator.panel()
    assert {name: value for name, value in panel.fields.items() if name not in OWN} == {"n": 3, "temperature": 0.7}


def parametrised(profile: Profile, parameters: Json, **sections: Any) -> Json:
    return profile(upstreams=[{"name": "qwen", "model": QWEN, "parameters": parameters}], **sections)


def test_an_upstreams_parameters_are_final_for_the_panel(
    router: StartRouter, profile: Profile, simulator: Simulator
) -> None:
    parameters = {"temperature": 0.1, "top_k": 20, "chat_template_kwargs": {"enable_thinking": False}, "min_p": None}
    serving = router(parametrised(profile, parameters))
    request = asked(top_k=99, temperature=1.5, chat_template_kwargs={"enable_thinking": True})
    assert serving.post(request).status == 200
    (panel,) = [call for call in simulator.settled() if call.n == 3]
    assert {name: panel.fields[name] for name in parameters} == parameters


def test_an_upstreams_parameters_are_defaults_for_the_answer(
    router: StartRouter, profile: Profile, simulator: Simulator
) -> None:
    serving = router(parametrised(profile, {"temperature": 0.1, "top_k": 20, "vendor": {"a": [1]}}))
    assert serving.post(asked(top_k=99)).status == 200
    (final,) = [call for call in simulator.settled() if call.n == 1]
    assert (final.fields["temperature"], final.fields["top_k"], final.fields["vendor"]) == (0.1, 99, {"a": [1]})
    assert final.body.count('"top_k"') == 1


def test_the_client_wins_over_the_aggregators_defaults(
    router: StartRouter, profile: Profile, simulator: Simulator
) -> None:
    serving = router(profile(aggregator={"maxTokens": 9}))
    assert serving.post(asked()).status == 200
    assert simulator.final().fields["temperature"] == AGGREGATOR_TEMPERATURE
    assert simulator.final().fields["max_tokens"] == 9
    simulator.reset()
    assert serving.post(asked(temperature=1.25, max_tokens=6)).status == 200
    assert simulator.final().fields["temperature"] == 1.25
    assert simulator.final().fields["max_tokens"] == 6
    assert simulator.final().body.count('"temperature"') == simulator.final().body.count('"max_tokens"') == 1


@pytest.mark.parametrize(
    ("parameters", "client", "expected"),
    [
        ({"max_completion_tokens": 8}, {}, {"max_completion_tokens": 8}),
        ({"max_completion_tokens": 8}, {"max_tokens": 7}, {"max_tokens": 7}),
        ({"max_tokens": 8}, {"max_completion_tokens": 7}, {"max_completion_tokens": 7}),
        ({}, {"max_completion_tokens": 7}, {"max_completion_tokens": 7}),
        ({}, {}, {"max_tokens": 9}),
    ],
)
def test_one_limit_of_length_under_one_name(
    router: StartRouter, profile: Profile, simulator: Simulator, parameters: Json, client: Json, expected: Json
) -> None:
    serving = router(parametrised(profile, parameters, aggregator={"maxTokens": 9}))
    assert serving.post(asked(**client)).status == 200
    final = simulator.final().fields
    assert {name: value for name, value in final.items() if name.startswith("max_")} == expected


def test_parameters_of_the_single_mode(router: StartRouter, profile: Profile, simulator: Simulator) -> None:
    serving = router(parametrised(profile, {"top_k": 20, "min_p": 0.1}, aggregator={"maxTokens": 9}))
    assert serving.post({**asked(top_k=5), "model": "research:single"}).status == 200
    (call,) = simulator.settled()
    # the client's own, and the upstream's; nothing of the aggregator's
    assert {name: value for name, value in call.fields.items() if name not in OWN} == {"top_k": 5, "min_p": 0.1}


# -- several choices ---------------------------------------------------------------------------------------------------


def test_n_goes_to_the_final_call(small: Router, simulator: Simulator) -> None:
    answer = small.openai.chat.completions.create(**asked(n=2))
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert simulator.final().n == 2
    assert simulator.panel()[0].n == 3


@pytest.mark.parametrize("stream", [False, True])
def test_first_has_one_answer(small: Router, simulator: Simulator, *, stream: bool) -> None:
    reply = small.post({**asked(n=2, stream=stream), "model": "research:first"})
    assert reply.status == 400
    assert reply.error["param"] == "n"
    assert "n" in reply.error["message"]
    assert simulator.calls() == []


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("lacking", "field", "fields"),
    [
        ("unstructured", "response_format", {"response_format": FORM}),
        ("onechoice", "n", {"n": 2}),
    ],
)
def test_what_nobody_can_honour_is_a_400_that_names_it(
    router: StartRouter, profile: Profile, simulator: Simulator, lacking: str, field: str, fields: Json, *, stream: bool
) -> None:
    declared = profile(
        upstreams=[
            {"name": "qwen", "model": QWEN},
            {"name": "lacking", "model": lacking, "capabilities": ["Vision", "Tools"]},
        ],
        aggregator={"upstream": "lacking"},
    )
    reply = router(declared).post(asked(stream=stream, **fields))
    assert reply.status == 400
    assert reply.error["param"] == field
    assert field in reply.error["message"]
    assert simulator.calls() == []


@pytest.mark.parametrize(
    ("lacking", "field", "fields"),
    [
        ("unstructured", "response_format", {"response_format": FORM}),
        ("onechoice", "n", {"n": 2}),
    ],
)
def test_what_nobody_can_honour_is_learned(
    router: StartRouter, profile: Profile, simulator: Simulator, lacking: str, field: str, fields: Json
) -> None:
    undeclared = profile(
        upstreams=[{"name": "qwen", "model": QWEN}, {"name": "lacking", "model": lacking}],
        aggregator={"upstream": "lacking"},
    )
    serving = router(undeclared, fresh=True)
    for _ in range(2):
        reply = serving.post(asked(**fields))
        assert reply.status == 400
        assert reply.error["param"] == field
    # the second time nobody was asked
    assert len(simulator.settled()) == 2


def test_a_fallback_that_can_honour_it_is_asked_instead(
    router: StartRouter, profile: Profile, simulator: Simulator
) -> None:
    able = profile(
        upstreams=[{"name": "qwen", "model": QWEN}, {"name": "lacking", "model": "onechoice", "capabilities": []}],
        aggregator={"upstream": "lacking", "fallbackUpstreams": ["qwen"]},
    )
    answer = router(able).openai.chat.completions.create(**asked(n=2))
    assert len(answer.choices) == 2
    assert {call.model for call in simulator.settled()} == {QWEN}


# -- wrong types -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"),
        ({"model": 7}, "model"),
        ({"model": ""}, "model"),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": {"role": "user"}}, "messages"),
        ({"messages": ["hi"]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": "x"}, {"content": "x"}]}, "messages[1]"),
        ({"messages": [{"role": 1}]}, "messages[0]"),
        ({"stream": "yes"}, "stream"),
        ({"stream": 1}, "stream"),
        ({"n": 0}, "n"),
        ({"n": 1.5}, "n"),
        ({"n": True}, "n"),
        ({"n": "2"}, "n"),
        ({"n": 129}, "n"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": False, "stream_options": {}}, "stream_options"),
        ({"stream": True, "stream_options": True}, "stream_options"),
        ({"stream": True, "stream_options": {"include_usage": "yes"}}, "stream_options.include_usage"),
    ],
)
def test_wrong_types_are_a_400_that_names_the_field(
    small: Router, simulator: Simulator, fields: Json, param: str
) -> None:
    reply = small.post(merged(asked(), fields))
    assert reply.status == 400
    assert reply.error["type"] == "invalid_request_error"
    assert reply.error["param"] == param
    assert param.split("[", maxsplit=1)[0] in reply.error["message"]
    assert simulator.calls() == []


@pytest.mark.parametrize("fields", [{"stream": None}, {"n": None}, {"stream_options": None}, {"tools": None}])
def test_null_is_as_good_as_nothing(small: Router, fields: Json) -> None:
    given = json.dumps({**asked(), **fields})
    assert small.post(given).status == 200


def test_a_field_that_the_upstream_refuses_is_named(small: Router, simulator: Simulator) -> None:
    refusal = {"error": {"message": "top_logprobs: secret words", "type": "BadRequestError", "param": "top_logprobs"}}
    simulator.rules(
        {
            "match": {"contains": f'"temperature":{AGGREGATOR_TEMPERATURE}'},
            "action": {"status": {"code": 400, "body": refusal}},
        }
    )
    with pytest.raises(openai.BadRequestError) as caught:
        small.openai.chat.completions.create(**asked(logprobs=True, top_logprobs=99))
    assert caught.value.param == "top_logprobs"
    assert "qwen" in str(caught.value)
    assert "secret" not in str(caught.value)
