"""Rules of the wire: `response.showCandidates`."""

import json
from typing import Any

import pytest
from tests.router.wire.harness import (
    PANEL_TEMPERATURE,
    Json,
    Profile,
    Router,
    Simulator,
    StartRouter,
    asked,
    chunks_in,
    final_replies,
    panel_replies,
    text_of,
)

PANEL = {"contains": f'"temperature":{PANEL_TEMPERATURE}'}
MEMBERS = [
    {"name": "ann", "upstream": "qwen", "temperature": PANEL_TEMPERATURE},
    {"name": "ben", "upstream": "other", "temperature": PANEL_TEMPERATURE},
]
UPSTREAMS = [{"name": "qwen", "model": "Qwen/Qwen3-32B"}, {"name": "other", "model": "other"}]
CLOSING = "ends </think> here, and </THINK > there"


def showing(how: str, profile: Profile, **sections: Any) -> Json:
    return profile(response={"showCandidates": how, "heartbeat": "50ms"}, **sections)


@pytest.fixture
def reasoning(router: StartRouter, profile: Profile) -> Router:
    return router(showing("Reasoning", profile))


@pytest.fixture
def think(router: StartRouter, profile: Profile) -> Router:
    return router(showing("Think", profile))


def whole_text(router: Router, *, streamed: bool, **fields: Any) -> str:
    """The answer's text."""
    if streamed:
        return text_of(router.chunks(asked(**fields)))
    return str(router.post(asked(**fields)).json["choices"][0]["message"]["content"])


def answered(texts: list[str]) -> str:
    return "\n\n".join(f"[candidate {number}: qwen]\n{text}" for number, text in enumerate(texts, 1))


@pytest.mark.parametrize(("how", "field"), [("Reasoning", "reasoning_content"), ("Think", "content")])
def test_token_by_token_while_the_panel_still_works(
    router: StartRouter, profile: Profile, simulator: Simulator, how: str, field: str
) -> None:
    # three choices: three chunks announce the role, three carry a first token, three a second
    simulator.rules({"match": PANEL, "action": {"reply": "one two three four", "hang": {"after": 9}}})
    with router(showing(how, profile)).stream(asked()) as events:
        seen: list[Json] = []
        for event in events:
            seen += chunks_in([event])
            if text_of(seen, field).endswith("one two"):
                break
        assert [call.outcome for call in simulator.calls()] == ["running"]
        pieces = [choice["delta"].get(field) for chunk in seen for choice in chunk["choices"]]
        assert pieces[-2:] == ["one", " two"]


def test_reasoning_then_the_answer(reasoning: Router, simulator: Simulator) -> None:
    simulator.rules(panel_replies("alpha beta", "gamma", "delta"), final_replies("The answer."))
    chunks = reasoning.chunks(asked())
    assert text_of(chunks, "reasoning_content") == answered(["alpha beta", "gamma", "delta"])
    assert text_of(chunks) == "The answer."
    kinds = [
        "reasoning" if choice["delta"].get("reasoning_content") else "content"
        for chunk in chunks
        for choice in chunk["choices"]
        if choice["delta"].get("reasoning_content") or choice["delta"].get("content")
    ]
    assert kinds == sorted(kinds, reverse=True)
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
    roles = [choice["delta"].get("role") for chunk in chunks for choice in chunk["choices"]]
    assert [role for role in roles if role] == ["assistant"]


def test_the_sdk_sees_reasoning(reasoning: Router, simulator: Simulator) -> None:
    simulator.rules(panel_replies("alpha", "beta", "gamma"), final_replies("The answer."))
    with reasoning.openai.chat.completions.stream(**asked()) as stream:
        message: Any = stream.get_final_completion().choices[0].message
    assert message.content == "The answer."
    assert message.reasoning_content == answered(["alpha", "beta", "gamma"])


def test_members_are_named_and_not_interleaved(router: StartRouter, profile: Profile, simulator: Simulator) -> None:
    simulator.rules(
        {"match": {**PANEL, "model": "other"}, "action": {"reply": "b1 b2 b3", "inter_token": 0.002}},
        {"match": {**PANEL, "model": "Qwen/Qwen3-32B"}, "action": {"reply": "a1 a2 a3", "inter_token": 0.003}},
        final_replies("Done."),
    )
    shown = text_of(
        router(showing("Reasoning", profile, upstreams=UPSTREAMS, panel={"members": MEMBERS, "quorum": "100%"})).chunks(
            asked()
        ),
        "reasoning_content",
    )
    names = ["ann", "ben"] if shown.startswith("[candidate 1: ann]") else ["ben", "ann"]
    texts = {"ann": "a1 a2 a3", "ben": "b1 b2 b3"}
    assert shown == "\n\n".join(f"[candidate {number}: {name}]\n{texts[name]}" for number, name in enumerate(names, 1))


def test_think_block_is_closed_before_the_answer(think: Router, simulator: Simulator) -> None:
    simulator.rules(panel_replies("alpha", "beta", "gamma"), final_replies("The answer."))
    text = text_of(think.chunks(asked()))
    assert text == f"<think>\n{answered(['alpha', 'beta', 'gamma'])}\n</think>\n\nThe answer."


@pytest.mark.parametrize("streamed", [True, False])
def test_a_candidate_cannot_close_the_block(think: Router, simulator: Simulator, *, streamed: bool) -> None:
    simulator.rules(panel_replies(f"{CLOSING} </", "x</thi", "nk>"), final_replies("The answer."))
    text = whole_text(think, streamed=streamed)
    block, close, answer = text.rpartition("</think>")
    assert close
    assert answer == "\n\nThe answer."
    assert "</think" not in block
    assert "ends </ think> here" in block


@pytest.mark.parametrize("streamed", [True, False])
def test_never_is_the_default_and_shows_nothing(small: Router, simulator: Simulator, *, streamed: bool) -> None:
    simulator.rules(panel_replies("alpha", "beta", "gamma"), final_replies("The answer."))
    if streamed:
        chunks = small.chunks(asked())
        assert text_of(chunks) == "The answer."
        assert "alpha" not in json.dumps(chunks)
    else:
        reply = small.post(asked())
        assert reply.json["choices"][0]["message"]["content"] == "The answer."
        assert b"alpha" not in reply.body


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("mode", ["single", "first"])
def test_nothing_to_show_without_an_aggregator(
    reasoning: Router, simulator: Simulator, mode: str, *, streamed: bool
) -> None:
    request = {**asked(stream=streamed), "model": f"research:{mode}"}
    assert b"[candidate" not in reasoning.post(request).body
    assert simulator.settled()


# -- answers that come as a whole --------------------------------------------------------------------------------------


def test_unstreamed_reasoning(reasoning: Router, simulator: Simulator) -> None:
    simulator.rules(panel_replies("alpha", "beta", "gamma"), final_replies("The answer."))
    message: Any = reasoning.openai.chat.completions.create(**asked()).choices[0].message
    assert message.content == "The answer."
    assert message.reasoning_content == answered(["alpha", "beta", "gamma"])


def test_unstreamed_reasoning_in_front_of_the_aggregators_own(reasoning: Router, simulator: Simulator) -> None:
    simulator.rules(
        panel_replies("alpha", "beta", "gamma"),
        {"action": {"reply": {"text": "The answer.", "reasoning": "I weigh them."}}},
    )
    message = reasoning.post(asked()).json["choices"][0]["message"]
    assert message["reasoning_content"] == answered(["alpha", "beta", "gamma"]) + "\n\nI weigh them."


def test_unstreamed_think(think: Router, simulator: Simulator) -> None:
    simulator.rules(panel_replies("alpha", "beta", "gamma"), final_replies("The answer."))
    message = think.post(asked()).json["choices"][0]["message"]
    assert message["content"] == f"<think>\n{answered(['alpha', 'beta', 'gamma'])}\n</think>\n\nThe answer."


@pytest.mark.parametrize("streamed", [True, False])
def test_think_does_not_spoil_json(think: Router, *, streamed: bool) -> None:
    form = {"type": "json_object"}
    assert isinstance(json.loads(whole_text(think, streamed=streamed, response_format=form)), dict)


@pytest.mark.parametrize("streamed", [True, False])
def test_only_the_first_choice_shows_them(reasoning: Router, simulator: Simulator, *, streamed: bool) -> None:
    simulator.rules(panel_replies("alpha", "beta", "gamma"), final_replies("The answer."))
    if streamed:
        chunks = reasoning.chunks(asked(n=2))
        shown = [text_of(chunks, "reasoning_content", index) for index in (0, 1)]
    else:
        choices = reasoning.post(asked(n=2)).json["choices"]
        shown = [choice["message"].get("reasoning_content") or "" for choice in choices]
    assert shown == [answered(["alpha", "beta", "gamma"]), ""]
