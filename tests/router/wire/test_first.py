"""The strategy First: the first whole answer wins, the others are cancelled."""

import json

import pytest
from tests.router.wire.asking import ask, counting, final_of, member, on, panel_of, trio
from tests.router.wire.harness import Json, Profile, Router, Simulator, StartRouter, asked, chunks_in, user

both_ways = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
BROKEN: Json = {"status": 500}
SLOW: Json = {"inter_token": 0.2}
WEATHER: Json = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}


@pytest.fixture
def race(router: StartRouter, profile: Profile) -> Router:
    """A router whose members race, without an aggregator."""
    return router(trio(profile, aggregator={"strategy": "First", "upstream": None}))


@both_ways
def test_the_first_wins_and_the_losers_are_cancelled(race: Router, simulator: Simulator, stream: bool) -> None:
    simulator.rules(on("a", **SLOW), on("b", delay=0.5, reply="I was first."), on("c", hang={}))
    with (
        counting(race, "moa_cancelled_calls_total", stage="panel", reason="decided") as cancelled,
        counting(race, "moa_requests_total", mode="fuse", outcome="ok") as requests,
    ):
        answer = ask(race, stream=stream)
    assert (answer.text, answer.finish, answer.degraded) == ("I was first.", "stop", [])
    assert (answer.moa["strategy"], answer.moa["panel"]) == ("First", {"asked": 3, "answered": 1, "quorum": 1})
    assert answer.outcomes() == {"a": "cancelled", "b": "ok", "c": "cancelled"}
    losers = panel_of(simulator.settled())
    assert (losers["a"].outcome, losers["c"].outcome) == ("cancelled", "cancelled")
    assert losers["a"].completion_tokens < 10
    assert (cancelled, requests) == ([2], [1])
    assert answer.done is stream


@both_ways
def test_who_fails_has_not_won(race: Router, simulator: Simulator, stream: bool) -> None:
    simulator.rules(on("a", **BROKEN), on("b", reply=""), on("c", delay=0.2, reply="Slow and steady."))
    answer = ask(race, stream=stream)
    assert (answer.text, answer.degraded, answer.panel) == ("Slow and steady.", [], "1/3")


@both_ways
def test_where_all_fail_so_does_the_request(race: Router, simulator: Simulator, stream: bool) -> None:
    simulator.rules({"action": BROKEN})
    answer = ask(race, stream=stream)
    assert answer.error is not None
    assert answer.error["code"] == "upstream_error"
    assert "member a answered 500; member b answered 500; member c answered 500" in answer.error["message"]
    assert answer.status == (200 if stream else 502)


@both_ways
@pytest.mark.parametrize("fault", [BROKEN, {"hang": {}}], ids=["failed", "hanging"])
def test_where_all_fail_an_aggregator_answers_if_there_is_one(
    router: StartRouter, profile: Profile, simulator: Simulator, stream: bool, fault: Json
) -> None:
    served = router(trio(profile, aggregator={"strategy": "First"}, timeouts={"request": "1s", "connect": "1s"}))
    simulator.rules(*[on(name, **fault) for name in "abc"], on("writer", reply="Somebody has to."))
    answer = ask(served, stream=stream)
    assert (answer.status, answer.text, answer.degraded) == (200, "Somebody has to.", ["panel"])
    assert len(final_of(simulator.settled())) == 1


def test_every_sample_runs_for_itself(router: StartRouter, profile: Profile, simulator: Simulator) -> None:
    served = router(profile(aggregator={"strategy": "First"}))
    answer = ask(served)
    assert answer.panel == "1/3"
    assert [call.n for call in simulator.settled()] == [1, 1, 1]


@both_ways
def test_the_winners_tool_calls_are_the_answer(race: Router, simulator: Simulator, stream: bool) -> None:
    call = {"tool_calls": [{"name": "weather", "arguments": '{"city":"Oslo"}'}]}
    simulator.rules(on("a", hang={}), on("b", hang={}), on("c", reply=call))
    body = asked("How is the weather in Oslo?", tools=[WEATHER], stream=stream)
    reply = race.post(body)
    if stream:
        deltas = [
            delta
            for chunk in chunks_in(reply.body.decode().split("\n\n"))
            for choice in chunk["choices"]
            for delta in choice["delta"].get("tool_calls", [])
        ]
        assert [delta["index"] for delta in deltas] == [0]
        (found,) = deltas
    else:
        choice = reply.json["choices"][0]
        assert choice["finish_reason"] == "tool_calls"
        (found,) = choice["message"]["tool_calls"]
    assert found["function"]["name"] == "weather"
    assert json.loads(found["function"]["arguments"]) == {"city": "Oslo"}
    assert found["id"]


def test_a_tools_result_goes_to_the_members_where_nobody_aggregates(race: Router, simulator: Simulator) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    turns = [
        user("How is the weather?"),
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "rain"},
    ]
    answer = ask(race, messages=turns)
    assert (answer.status, answer.panel) == (200, "1/3")
    assert all(call.fields["messages"] == turns for call in simulator.settled())


def test_a_tools_result_goes_to_the_aggregator_where_there_is_one(
    router: StartRouter, profile: Profile, simulator: Simulator
) -> None:
    served = router(trio(profile, aggregator={"strategy": "First"}))
    turns = [
        user("How is the weather?"),
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "rain"},
    ]
    answer = ask(served, messages=turns)
    assert (answer.status, answer.degraded) == (200, [])
    assert [call.is_panel for call in simulator.settled()] == [False]


def test_what_the_client_asks_of_the_answer_reaches_the_members(race: Router, simulator: Simulator) -> None:
    ask(race, max_completion_tokens=9, stop=["END"], user="u", temperature=1.9, top_k=3)
    for call in simulator.settled():
        fields = call.fields
        assert (fields["max_completion_tokens"], fields["stop"], fields["user"]) == (9, ["END"], "u")
        assert (fields["temperature"], fields["top_k"]) == (0.7, 3)


@both_ways
def test_several_choices_cannot_be_had(race: Router, simulator: Simulator, stream: bool) -> None:
    answer = ask(race, stream=stream, n=2)
    assert answer.error is not None
    assert (answer.error["param"], answer.error["type"]) == ("n", "invalid_request_error")
    assert simulator.calls() == []


def test_any_profile_can_be_asked_for_it(router: StartRouter, profile: Profile, simulator: Simulator) -> None:
    served = router(trio(profile))
    simulator.rules(on("a", hang={}), on("b", hang={}), on("c", reply="Me."))
    answer = ask(served, model="research:first")
    assert (answer.text, answer.moa["mode"], answer.moa["strategy"]) == ("Me.", "first", "First")
    assert final_of(simulator.settled()) == []


def test_only_the_last_layer_is_a_race(router: StartRouter, profile: Profile, simulator: Simulator) -> None:
    members = [member("a"), member("b")]
    served = router(
        trio(
            profile,
            members=members,
            panel={"layers": 2, "quorum": 2},
            aggregator={"strategy": "First", "upstream": None},
        )
    )
    simulator.rules(on("a", 1, reply="a draft"), on("b", 1, reply="b draft"), on("a", hang={}), on("b", reply="Done."))
    answer = ask(served)
    assert (answer.text, answer.panel) == ("Done.", "1/2")
    second = [call for call in simulator.settled() if call.is_panel][2:]
    assert all("a draft" in call.body and "b draft" in call.body for call in second)
