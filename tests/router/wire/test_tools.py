"""Rules of the wire: tools. The panel proposes in vain, the aggregator alone calls."""

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
    panel_replies,
    text_of,
    user,
)

PANEL = {"contains": f'"temperature":{PANEL_TEMPERATURE}'}
FINAL = {"contains": f'"temperature":{AGGREGATOR_TEMPERATURE}'}
RAW_TOOLS = (
    '[ {"type":"function", "function":{"name":"get_weather","description":"caf\\u00e9","strict" : true,'
    '"parameters":{"type":"object","properties":{"city":{"type":"string"}},"required":["city"]}}} ,'
    '{"type":"function","function":{"name":"clock","parameters":{"type":"object","properties":{}}}} ]'
)
TOOLS: list[Json] = json.loads(RAW_TOOLS)
CALL = {"name": "get_weather", "arguments": '{"city": "Köln \\"am Rhein\\""}'}
BOTH = pytest.mark.parametrize("streamed", [True, False])
TOOL_TURN: list[Json] = [
    user("Weather?"),
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "clock", "arguments": "{}"}}],
    },
    {"role": "tool", "tool_call_id": "c1", "content": "noon"},
]


def proposing(*calls: Json, text: str = "") -> Json:
    return {"match": PANEL, "action": {"reply": {"text": text, "tool_calls": list(calls)}}}


def calling(*calls: Json) -> Json:
    return {"match": FINAL, "action": {"reply": {"tool_calls": list(calls)}}}


def answer_of(router: Router, *, streamed: bool, **fields: Any) -> Any:
    """The answer, as the official client puts it together."""
    client: Any = router.openai
    if streamed:
        with client.chat.completions.stream(**asked(**fields)) as stream:
            return stream.get_final_completion()
    return client.chat.completions.create(**asked(**fields))


def shown_to_the_aggregator(simulator: Simulator) -> str:
    return str(simulator.final().fields["messages"][-1]["content"])


# -- who is told -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", ["true", "false"])
@pytest.mark.parametrize("choice", ['"auto"', '"none"', '{"type":"function", "function":{"name":"clock"}}'])
def test_every_call_carries_tools_and_choice_as_they_came(
    small: Router, simulator: Simulator, choice: str, stream: str
) -> None:
    body = (
        f'{{"model":"research","stream":{stream},"messages":[{{"role":"user","content":"Hi."}}],'
        f'"tools" : {RAW_TOOLS}, "tool_choice":  {choice}, "parallel_tool_calls":false}}'
    )
    assert small.post(body).status == 200
    calls = simulator.settled()
    assert len(calls) == 2
    for call in calls:
        assert f'"tools":{RAW_TOOLS}' in call.body
        assert f'"tool_choice":{choice}' in call.body
        assert '"parallel_tool_calls":false' in call.body


def test_functions_of_old_count_as_tools(small: Router, simulator: Simulator) -> None:
    functions = [tool["function"] for tool in TOOLS]
    assert small.post(asked(functions=functions, function_call="auto")).status == 200
    assert all(call.fields["functions"] == functions for call in simulator.settled())


@BOTH
def test_proposals_are_shown_as_text_and_reach_nobody_else(
    small: Router, simulator: Simulator, *, streamed: bool
) -> None:
    simulator.rules(proposing(CALL, {"name": "clock", "arguments": "{}"}, text="Let me look."), final_replies("Sunny."))
    answer = answer_of(small, streamed=streamed, tools=TOOLS)
    assert answer.choices[0].message.content == "Sunny."
    assert not answer.choices[0].message.tool_calls
    assert answer.choices[0].finish_reason == "stop"
    shown = shown_to_the_aggregator(simulator)
    proposal = f"Let me look.\n[proposes tool call] get_weather({CALL['arguments']})\n[proposes tool call] clock({{}})"
    assert shown.count(proposal) == 3
    assert "tool_calls" not in json.dumps(simulator.final().fields["messages"])


@pytest.mark.parametrize("how", ["Reasoning", "Think"])
@BOTH
def test_proposals_are_not_shown_to_the_client(
    router: StartRouter, profile: Profile, simulator: Simulator, how: str, *, streamed: bool
) -> None:
    simulator.rules(proposing(CALL), final_replies("Sunny."))
    showing = router(profile(response={"showCandidates": how}))
    answer = answer_of(showing, streamed=streamed, tools=TOOLS)
    assert not answer.choices[0].message.tool_calls
    assert "get_weather" not in answer.model_dump_json()


@BOTH
def test_a_proposal_alone_is_a_candidate(small: Router, simulator: Simulator, *, streamed: bool) -> None:
    simulator.rules(proposing(CALL), final_replies("Sunny."))
    answer = answer_of(small, streamed=streamed, tools=TOOLS)
    moa = answer.moa if not streamed else small.chunks(asked(tools=TOOLS))[-1]["moa"]
    assert moa["panel"] == {"asked": 3, "answered": 3, "quorum": 2}
    assert moa["degraded"] == []


def test_a_proposal_is_not_given_as_the_best_candidate(small: Router, simulator: Simulator) -> None:
    simulator.rules(proposing(CALL), {"match": FINAL, "action": {"status": 500}})
    reply = small.post(asked(tools=TOOLS))
    assert reply.status == 502
    assert "get_weather" not in reply.body.decode()


# -- who calls ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [QWEN, "llamacpp"])
@BOTH
def test_the_aggregator_calls(
    router: StartRouter, profile: Profile, simulator: Simulator, model: str, *, streamed: bool
) -> None:
    simulator.rules(panel_replies("a", "b", "c"), calling(CALL, {"name": "clock", "arguments": "{}"}))
    serving = router(profile(upstreams=[{"name": "qwen", "model": model}]))
    choice = answer_of(serving, streamed=streamed, tools=TOOLS).choices[0]
    assert choice.finish_reason == "tool_calls"
    calls = choice.message.tool_calls
    assert [(call.function.name, call.function.arguments) for call in calls] == [
        ("get_weather", CALL["arguments"]),
        ("clock", "{}"),
    ]
    assert all(call.type == "function" and call.id for call in calls)
    assert len({call.id for call in calls}) == 2


def test_tool_calls_are_streamed_as_deltas(small: Router, simulator: Simulator) -> None:
    simulator.rules(panel_replies("a", "b", "c"), {**calling(CALL), "action": {**calling(CALL)["action"]}})
    deltas = [chunk["choices"][0]["delta"] for chunk in small.chunks(asked(tools=TOOLS))]
    pieces = [delta["tool_calls"][0] for delta in deltas if delta.get("tool_calls")]
    assert pieces[0]["function"]["name"] == "get_weather"
    assert pieces[0]["id"]
    arguments = [piece["function"]["arguments"] for piece in pieces[1:]]
    assert len(arguments) > 3
    assert "".join(arguments) == CALL["arguments"]


def test_deltas_leave_while_the_call_is_still_written(small: Router, simulator: Simulator) -> None:
    rule = calling(CALL)
    rule["action"]["hang"] = {"after": 3}
    simulator.rules(panel_replies("a", "b", "c"), rule)
    with small.stream(asked(tools=TOOLS)) as events:
        assert any('"name":"get_weather"' in event for event in events)
        assert simulator.calls()[-1].outcome == "running"


@BOTH
def test_a_call_that_the_client_forces(small: Router, *, streamed: bool) -> None:
    forced = {"type": "function", "function": {"name": "get_weather"}}
    choice = answer_of(small, streamed=streamed, tools=TOOLS, tool_choice=forced).choices[0]
    (call,) = choice.message.tool_calls
    assert call.function.name == "get_weather"
    assert set(json.loads(call.function.arguments)) == {"city"}


@BOTH
def test_the_whole_loop(small: Router, simulator: Simulator, *, streamed: bool) -> None:
    messages: list[Json] = [user("Use get_weather please")]
    message = answer_of(small, streamed=streamed, messages=messages, tools=TOOLS).choices[0].message
    (call,) = message.tool_calls
    messages += [
        {"role": "assistant", "tool_calls": [call.model_dump(exclude_none=True)]},
        {"role": "tool", "tool_call_id": call.id, "content": "17 degrees"},
    ]
    simulator.reset()
    answer = answer_of(small, streamed=streamed, messages=messages, tools=TOOLS)
    assert answer.choices[0].message.content
    # the last turn is a tool's result: straight to the aggregator's upstream
    (only,) = simulator.settled()
    assert [turn["role"] for turn in only.fields["messages"]] == ["user", "assistant", "tool"]
    assert only.fields["messages"][-1] == messages[-1]


# -- tool turns --------------------------------------------------------------------------------------------------------


@BOTH
def test_a_tool_turn_goes_straight_to_the_aggregator(small: Router, simulator: Simulator, *, streamed: bool) -> None:
    request = {"model": "research", "messages": TOOL_TURN, "tools": TOOLS}
    moa = small.chunks(request)[-1]["moa"] if streamed else small.post(request).json["moa"]
    assert [stage["stage"] for stage in moa["stages"]] == ["aggregator"]
    assert moa["degraded"] == []
    (call,) = simulator.settled()
    assert call.fields["messages"] == TOOL_TURN
    assert call.fields["temperature"] == AGGREGATOR_TEMPERATURE


@BOTH
def test_a_tool_turn_is_fused_when_the_profile_wants_it(
    router: StartRouter, profile: Profile, simulator: Simulator, *, streamed: bool
) -> None:
    fusing = router(profile(panel={"onToolTurn": "Fuse"}))
    request = {"model": "research", "messages": TOOL_TURN, "tools": TOOLS}
    moa = fusing.chunks(request)[-1]["moa"] if streamed else fusing.post(request).json["moa"]
    assert [stage["stage"] for stage in moa["stages"]] == ["panel", "aggregator"]
    final = simulator.final().fields["messages"]
    assert final[:-1] == TOOL_TURN
    assert final[-1]["role"] == "user"
    assert simulator.panel()[0].fields["messages"] == TOOL_TURN


def test_a_user_turn_after_tools_is_fused(small: Router, simulator: Simulator) -> None:
    messages = [*TOOL_TURN, {"role": "assistant", "content": "It is noon."}, user("And now?")]
    assert small.post({"model": "research", "messages": messages, "tools": TOOLS}).status == 200
    assert len(simulator.settled()) == 2


# -- upstreams without -------------------------------------------------------------------------------------------------

CAPABLE: list[Json] = [{"name": "qwen", "model": QWEN}, {"name": "toolless", "model": "toolless"}]
DECLARED: list[Json] = [CAPABLE[0], {**CAPABLE[1], "capabilities": ["Vision"]}]
#: Two members on the upstream that knows no tools: two calls, refused at the same time.
MIXED: list[Json] = [
    {"upstream": "qwen", "temperature": PANEL_TEMPERATURE},
    {"name": "one", "upstream": "toolless", "temperature": PANEL_TEMPERATURE, "role": "a critic"},
    {"name": "two", "upstream": "toolless", "temperature": PANEL_TEMPERATURE, "role": "a poet"},
]


def test_a_member_without_tools_is_asked_without_them(
    router: StartRouter, profile: Profile, simulator: Simulator
) -> None:
    serving = router(profile(upstreams=DECLARED, panel={"members": MIXED, "quorum": "100%"}))
    reply = serving.post(asked(tools=TOOLS, tool_choice="auto", parallel_tool_calls=True))
    assert reply.json["moa"]["panel"] == {"asked": 3, "answered": 3, "quorum": 3}
    assert len(simulator.panel()) == 3
    for call in simulator.panel():
        offered = {name for name in call.fields if "tool" in name}
        assert offered == ({"tools", "tool_choice", "parallel_tool_calls"} if call.model == QWEN else set())


@BOTH
def test_a_member_without_tools_is_found_out(
    router: StartRouter, profile: Profile, simulator: Simulator, *, streamed: bool
) -> None:
    showing = {"showCandidates": "Reasoning" if streamed else "Never"}
    learning = profile(upstreams=CAPABLE, panel={"members": MIXED, "quorum": "100%"}, response=showing)
    serving = router(learning, fresh=True)
    for expected in ({"rejected": 2, "ok": 4}, {"rejected": 0, "ok": 4}):
        simulator.reset()
        request = asked(tools=TOOLS)
        moa = serving.chunks(request)[-1]["moa"] if streamed else serving.post(request).json["moa"]
        assert moa["panel"] == {"asked": 3, "answered": 3, "quorum": 3}
        assert moa["degraded"] == []
        outcomes = [call.outcome for call in simulator.settled()]
        assert {kind: outcomes.count(kind) for kind in expected} == expected


@BOTH
@pytest.mark.parametrize("upstreams", [CAPABLE, DECLARED], ids=["learned", "declared"])
def test_an_aggregator_without_tools_is_a_400_that_names_them(
    router: StartRouter, profile: Profile, simulator: Simulator, upstreams: list[Json], *, streamed: bool
) -> None:
    lacking = router(profile(upstreams=upstreams, aggregator={"upstream": "toolless"}), fresh=upstreams is CAPABLE)
    for attempt in range(2):
        request = asked(tools=TOOLS, stream=streamed)
        if streamed and upstreams is CAPABLE and attempt == 0:
            # nobody knew, so headers had left
            error = json.loads(lacking.events(request)[-1].removeprefix("data: "))["error"]
        else:
            reply = lacking.post(request)
            assert reply.status == 400
            error = reply.error
        assert error["param"] == "tools"
        assert error["type"] == "invalid_request_error"
        assert "tools" in error["message"]
    assert len(simulator.settled()) == (2 if upstreams is CAPABLE else 0)


@BOTH
@pytest.mark.parametrize("upstreams", [CAPABLE, DECLARED], ids=["learned", "declared"])
def test_a_fallback_that_knows_tools_is_asked_instead(
    router: StartRouter, profile: Profile, simulator: Simulator, upstreams: list[Json], *, streamed: bool
) -> None:
    simulator.rules(
        panel_replies("a", "b", "c"), {"match": {**FINAL, "model": QWEN}, "action": calling(CALL)["action"]}
    )
    falling = profile(upstreams=upstreams, aggregator={"upstream": "toolless", "fallbackUpstreams": ["qwen"]})
    answer = answer_of(router(falling, fresh=upstreams is CAPABLE), streamed=streamed, tools=TOOLS)
    assert answer.choices[0].message.tool_calls[0].function.name == "get_weather"


def test_without_tools_the_toolless_serves_as_well(router: StartRouter, profile: Profile) -> None:
    lacking = router(profile(upstreams=DECLARED, aggregator={"upstream": "toolless"}))
    assert lacking.post(asked()).status == 200
    assert lacking.post(asked(tools=[])).status == 200


# -- other modes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["single", "first"])
@BOTH
def test_other_modes_return_the_call_that_was_made(
    small: Router, simulator: Simulator, mode: str, *, streamed: bool
) -> None:
    simulator.rules({"action": {"reply": {"tool_calls": [CALL]}}})
    choice = answer_of(small, streamed=streamed, model=f"research:{mode}", tools=TOOLS).choices[0]
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls
    assert (call.function.name, call.function.arguments) == ("get_weather", CALL["arguments"])


def test_in_a_race_only_members_with_tools_run(router: StartRouter, profile: Profile, simulator: Simulator) -> None:
    serving = router(profile(upstreams=DECLARED, panel={"members": MIXED, "quorum": "100%"}))
    reply = serving.post({**asked(tools=TOOLS), "model": "research:first"})
    assert reply.json["moa"]["panel"]["asked"] == 1
    assert {call.model for call in simulator.settled()} == {QWEN}
    nobody = router(profile(upstreams=DECLARED, panel={"members": MIXED[1:], "quorum": 1}))
    with pytest.raises(openai.BadRequestError) as caught:
        nobody.openai.chat.completions.create(**{**asked(tools=TOOLS), "model": "research:first"})
    assert caught.value.param == "tools"


def test_tool_text_is_not_mistaken_for_content(small: Router, simulator: Simulator) -> None:
    simulator.rules(proposing(CALL, text="Words."), final_replies("Done."))
    assert text_of(small.chunks(asked(tools=TOOLS))) == "Done."
