"""Rules of the wire: images, and members that do not see."""

import json
from typing import Any

import pytest
from tests.router.wire.harness import (
    PANEL_TEMPERATURE,
    QWEN,
    Json,
    Profile,
    Router,
    Simulator,
    StartRouter,
    asked,
    chunks_in,
    user,
)

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo=", "detail": "low"}}
PICTURED: Json = {"model": "research", "messages": [user([{"type": "text", "text": "What is this?"}, IMAGE])]}
CAPABLE: list[Json] = [{"name": "qwen", "model": QWEN}, {"name": "blind", "model": "blind"}]
DECLARED: list[Json] = [CAPABLE[0], {**CAPABLE[1], "capabilities": ["Tools", "MultipleChoices"]}]
MIXED: list[Json] = [
    {"upstream": "qwen", "samples": 2, "temperature": PANEL_TEMPERATURE},
    {"upstream": "blind", "samples": 2, "temperature": PANEL_TEMPERATURE},
    {"name": "poet", "upstream": "blind", "temperature": PANEL_TEMPERATURE, "role": "a poet"},
]
BOTH = pytest.mark.parametrize("streamed", [True, False])


def panel_of(router: Router, request: Json, *, streamed: bool) -> tuple[Json, list[str]]:
    """Counts of the panel, and what fell short."""
    if streamed:
        moa = router.chunks(request)[-1]["moa"]
    else:
        reply = router.post(request)
        assert reply.status == 200, reply.body
        moa = reply.json["moa"]
        assert reply.headers["x-moa-panel"] == f"{moa['panel']['answered']}/{moa['panel']['asked']}"
    return moa["panel"], moa["degraded"]


def mixed(profile: Profile, upstreams: list[Json], **sections: Any) -> Json:
    return profile(upstreams=upstreams, **{"panel": {"members": MIXED, "quorum": None}, **sections})


def test_images_reach_every_stage(small: Router, simulator: Simulator) -> None:
    assert small.post(PICTURED).status == 200
    assert len(simulator.settled()) == 2
    assert all(IMAGE in call.fields["messages"][-1]["content"] for call in simulator.calls())


@BOTH
def test_members_that_do_not_see_sit_out(
    router: StartRouter, profile: Profile, simulator: Simulator, *, streamed: bool
) -> None:
    serving = router(mixed(profile, DECLARED))
    assert panel_of(serving, PICTURED, streamed=streamed) == ({"asked": 2, "answered": 2, "quorum": 2}, [])
    assert {call.model for call in simulator.settled()} == {QWEN}


def test_without_images_everybody_is_asked(router: StartRouter, profile: Profile, simulator: Simulator) -> None:
    serving = router(mixed(profile, DECLARED))
    assert panel_of(serving, asked("an image_url?"), streamed=False)[0]["asked"] == 5
    assert {call.model for call in simulator.settled()} == {QWEN, "blind"}


def test_an_image_anywhere_in_the_history_counts(router: StartRouter, profile: Profile, simulator: Simulator) -> None:
    serving = router(mixed(profile, DECLARED))
    history = {
        **PICTURED,
        "messages": [*PICTURED["messages"], {"role": "assistant", "content": "A dot."}, user("Sure?")],
    }
    assert panel_of(serving, history, streamed=False)[0]["asked"] == 2


@BOTH
def test_who_does_not_see_is_found_out(
    router: StartRouter, profile: Profile, simulator: Simulator, *, streamed: bool
) -> None:
    serving = router(mixed(profile, CAPABLE), fresh=True)
    for refused in (2, 0):
        simulator.reset()
        assert panel_of(serving, PICTURED, streamed=streamed) == ({"asked": 2, "answered": 2, "quorum": 2}, [])
        assert sum(call.outcome == "rejected" for call in simulator.settled()) == refused
    assert panel_of(serving, asked(), streamed=streamed)[0]["asked"] == 5


@BOTH
@pytest.mark.parametrize("upstreams", [CAPABLE, DECLARED], ids=["learned", "declared"])
def test_none_left_is_a_400_that_says_so(
    router: StartRouter, profile: Profile, simulator: Simulator, upstreams: list[Json], *, streamed: bool
) -> None:
    serving = router(
        mixed(profile, upstreams, panel={"members": MIXED[1:], "quorum": None}), fresh=upstreams is CAPABLE
    )
    for attempt in range(2):
        if streamed and upstreams is CAPABLE and attempt == 0:
            # nobody knew, so headers had left
            error = json.loads(serving.events(PICTURED)[-1].removeprefix("data: "))["error"]
        else:
            reply = serving.post({**PICTURED, "stream": streamed})
            assert reply.status == 400
            error = reply.error
        assert error["type"] == "invalid_request_error"
        assert error["param"] == "messages"
        assert "image" in error["message"]
    assert len(simulator.settled()) == (2 if upstreams is CAPABLE else 0)


@BOTH
def test_an_aggregator_that_does_not_see_leaves_the_best_candidate(
    router: StartRouter, profile: Profile, simulator: Simulator, *, streamed: bool
) -> None:
    serving = router(mixed(profile, DECLARED, aggregator={"upstream": "blind"}))
    assert panel_of(serving, PICTURED, streamed=streamed)[1] == ["aggregator"]


@BOTH
def test_a_fallback_that_sees_is_asked_instead(
    router: StartRouter, profile: Profile, simulator: Simulator, *, streamed: bool
) -> None:
    falling = {"upstream": "blind", "fallbackUpstreams": ["qwen"]}
    serving = router(mixed(profile, DECLARED, aggregator=falling))
    assert panel_of(serving, PICTURED, streamed=streamed)[1] == []
    assert {call.model for call in simulator.settled()} == {QWEN}


@pytest.mark.parametrize("upstreams", [CAPABLE, DECLARED], ids=["learned", "declared"])
@BOTH
def test_one_upstream_that_does_not_see_is_a_400(
    router: StartRouter, profile: Profile, upstreams: list[Json], *, streamed: bool
) -> None:
    serving = router(mixed(profile, upstreams, gate={"single": "blind"}), fresh=upstreams is CAPABLE)
    for model in ("blind", "research:single"):
        reply = serving.post({**PICTURED, "model": model, "stream": streamed})
        assert reply.status == 400
        assert "image" in reply.error["message"]
        assert reply.error["param"] == "messages"


def test_a_declared_capability_is_believed_over_a_refusal(
    router: StartRouter, profile: Profile, simulator: Simulator
) -> None:
    insisting = [CAPABLE[0], {**CAPABLE[1], "capabilities": ["Vision", "Tools", "MultipleChoices"]}]
    serving = router(mixed(profile, insisting))
    for _ in range(2):
        simulator.reset()
        panel, _ = panel_of(serving, PICTURED, streamed=False)
        assert panel["asked"] == 5
        assert any(call.outcome == "rejected" for call in simulator.settled())


def test_the_answer_to_an_image_streams(small: Router) -> None:
    assert chunks_in(small.events(PICTURED))[-1]["moa"]["degraded"] == []
