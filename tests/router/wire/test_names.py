"""Rules of the wire: names and modes."""

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
    text_of,
)

MODES = ["fuse", "single", "synthesize", "first"]
#: Two upstreams serve the same model; one is named like another's model.
UPSTREAMS: list[Json] = [
    {"name": "qwen", "model": QWEN},
    {"name": "again", "model": QWEN, "parameters": {"top_k": 7}},
    {"name": "other", "model": "paced", "contextLength": 32768},
    {"name": "paced", "model": "other", "parameters": {"top_k": 8}},
]
NAMES = ["research", "fusion/research", "team-a/best", "best"]


@pytest.fixture
def named(router: StartRouter, profile: Profile) -> Router:
    return router(profile(upstreams=UPSTREAMS, response={"modelNames": NAMES[2:]}))


def served(router: Router, simulator: Simulator, model: str, headers: Json | None = None, query: str = "") -> Json:
    """The `moa` object of an answer, whose mode is checked against header and calls."""
    simulator.reset()
    path = f"/v1/chat/completions{query}"
    reply = router.post({**asked(), "model": model}, headers, path)
    assert reply.status == 200, reply.body
    assert reply.json["model"] == model
    moa: Json = reply.json["moa"]
    assert reply.headers["x-moa-mode"] == moa["mode"]
    # a race may be over before the last call has left
    assert moa["calls"] >= len(simulator.settled()) > 0
    return moa


def stages(moa: Json) -> list[str]:
    return [stage["stage"] for stage in moa["stages"]]


# -- profiles ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_profiles_names_fuse(named: Router, simulator: Simulator, name: str) -> None:
    moa = served(named, simulator, name)
    assert (moa["profile"], moa["mode"], moa["strategy"]) == ("research", "fuse", "Synthesize")
    assert stages(moa) == ["panel", "aggregator"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("mode", "strategy", "expected"),
    [
        ("fuse", "Synthesize", ["panel", "aggregator"]),
        ("synthesize", "Synthesize", ["panel", "aggregator"]),
        ("single", None, ["single"]),
        ("first", "First", ["panel", "panel", "panel"]),
    ],
)
def test_a_suffix_picks_the_mode(
    named: Router, simulator: Simulator, name: str, mode: str, strategy: str | None, expected: list[str]
) -> None:
    moa = served(named, simulator, f"{name}:{mode}")
    assert (moa["mode"], moa["strategy"], stages(moa)) == (mode, strategy, expected)


def test_suffix_over_header_over_query(named: Router, simulator: Simulator) -> None:
    header = {"x-moa-mode": "single"}
    assert served(named, simulator, "research", query="?mode=first")["mode"] == "first"
    assert served(named, simulator, "research", query="?x=1&mode=first&y=2")["mode"] == "first"
    assert served(named, simulator, "research", header)["mode"] == "single"
    assert served(named, simulator, "research", header, "?mode=first")["mode"] == "single"
    assert served(named, simulator, "research:synthesize", header, "?mode=first")["mode"] == "synthesize"


def test_the_sdk_can_pick_a_mode(named: Router) -> None:
    by_header: Any = named.openai.chat.completions.create(**asked(), extra_headers={"x-moa-mode": "single"})
    by_query: Any = named.openai.chat.completions.create(**asked(), extra_query={"mode": "single"})
    assert by_header.moa["mode"] == by_query.moa["mode"] == "single"


@pytest.mark.parametrize("mode", ["vote", "judge", "select", "SINGLE", "", "fuse "])
@pytest.mark.parametrize("streamed", [True, False])
def test_an_unknown_mode_is_a_400(named: Router, simulator: Simulator, mode: str, *, streamed: bool) -> None:
    replies = [named.post(asked(stream=streamed), path=f"/v1/chat/completions?mode={mode.replace(' ', '%20')}")]
    if mode == mode.strip():
        replies.append(named.post(asked(stream=streamed), {"x-moa-mode": mode}))
    for reply in replies:
        assert reply.status == 400
        assert reply.error["code"] == "unknown_mode"
        assert reply.error["param"] == "mode"
        assert all(known in reply.error["message"] for known in MODES)
    assert simulator.calls() == []


@pytest.mark.parametrize(
    "model",
    [
        "research:vote",
        "research:",
        "research:Single",
        "Research",
        "fusion/nobody",
        "qwen:single",
        "nobody",
        "x" * 10_000,
        "research\n",
    ],
)
@pytest.mark.parametrize("streamed", [True, False])
def test_nobodys_name_is_a_404(named: Router, simulator: Simulator, model: str, *, streamed: bool) -> None:
    reply = named.post({**asked(stream=streamed), "model": model})
    assert reply.status == 404
    assert (reply.error["type"], reply.error["code"], reply.error["param"]) == (
        "not_found_error",
        "model_not_found",
        "model",
    )
    assert len(reply.body) < 1_000
    assert simulator.calls() == []


def test_the_sdk_knows_that_404(named: Router) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        named.openai.chat.completions.create(**{**asked(), "model": "nobody"})
    assert caught.value.code == "model_not_found"


# -- upstreams ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "upstream"),
    [
        ("qwen", "qwen"),
        ("again", "again"),
        # of two that serve a model the first listed is meant
        (QWEN, "qwen"),
        # a name goes before a model
        ("paced", "paced"),
        ("other", "other"),
    ],
)
def test_an_upstream_by_name_then_by_model(named: Router, simulator: Simulator, model: str, upstream: str) -> None:
    moa = served(named, simulator, model)
    assert (moa["profile"], moa["mode"], moa["strategy"]) == ("research", "passthrough", None)
    assert [(stage["stage"], stage["upstream"]) for stage in moa["stages"]] == [("passthrough", upstream)]
    (call,) = simulator.calls()
    expected = next(item for item in UPSTREAMS if item["name"] == upstream)
    assert call.model == expected["model"]
    assert call.fields.get("top_k") == expected.get("parameters", {}).get("top_k")


def test_the_mode_of_an_upstream_is_nobodys_choice(named: Router, simulator: Simulator) -> None:
    assert served(named, simulator, "qwen", {"x-moa-mode": "first"}, "?mode=nonsense")["mode"] == "passthrough"


@pytest.mark.parametrize("name", ["qwen", "research:single"])
def test_unknown_fields_pass_through_untouched(named: Router, simulator: Simulator, name: str) -> None:
    messages = '[ {"role":"user", "content":"\\u0057hy?" , "odd":1.0} ]'
    raw = f'{{"vendor": {{"b":1.50}}, "model":"{name}", "messages":{messages},"tail":[ ]}}'
    assert named.post(raw).status == 200
    (call,) = simulator.settled()
    assert call.body == f'{{"model":"{QWEN}","messages":{messages},"vendor":{{"b":1.50}},"tail":[ ]}}'


@pytest.mark.parametrize("name", ["qwen", "research:single"])
def test_one_upstreams_answer_as_it_is(named: Router, simulator: Simulator, name: str) -> None:
    simulator.rules({"action": {"reply": {"text": "Because.", "reasoning": "Hmm."}}})
    reply = named.post({**asked(logprobs=True), "model": name})
    message = reply.json["choices"][0]["message"]
    assert (message["content"], message["reasoning_content"]) == ("Because.", "Hmm.")
    assert reply.json["choices"][0]["logprobs"]
    # vLLM's own
    assert "prompt_logprobs" in reply.json
    chunks = named.chunks({**asked(stream_options={"include_usage": True}), "model": name})
    assert text_of(chunks) == "Because."
    assert {chunk["model"] for chunk in chunks} == {name}
    assert [chunk["moa"]["calls"] for chunk in chunks if "moa" in chunk] == [1]
    assert chunks[-1]["usage"]["completion_tokens"] == simulator.settled()[-1].completion_tokens


def test_refusals_of_one_upstream_keep_their_status_when_streamed(named: Router, simulator: Simulator) -> None:
    simulator.rules({"action": {"status": 503}})
    for name in ("qwen", "research:single"):
        reply = named.post({**asked(stream=True), "model": name})
        assert reply.status == 502
        assert "qwen" in reply.error["message"]


# -- single ------------------------------------------------------------------------------------------------------------


def test_single_asks_the_aggregators_upstream_with_the_clients_own_values(
    router: StartRouter, profile: Profile, simulator: Simulator
) -> None:
    fused = profile(upstreams=UPSTREAMS, aggregator={"upstream": "other", "maxTokens": 9})
    moa = served(router(fused), simulator, "research:single")
    assert moa["stages"][0]["upstream"] == "other"
    assert set(simulator.calls()[0].fields) == {"model", "messages"}


def test_gate_single_names_another(router: StartRouter, profile: Profile, simulator: Simulator) -> None:
    gated = router(profile(upstreams=UPSTREAMS, gate={"single": "again"}))
    assert served(gated, simulator, "research:single")["stages"][0]["upstream"] == "again"
    assert served(gated, simulator, "research")["mode"] == "fuse"


def test_gate_never_bypasses_unless_a_mode_is_asked_for(
    router: StartRouter, profile: Profile, simulator: Simulator
) -> None:
    never = router(profile(gate={"policy": "Never"}))
    assert served(never, simulator, "research")["mode"] == "single"
    assert served(never, simulator, "research:fuse")["mode"] == "fuse"
    assert served(never, simulator, "research", {"x-moa-mode": "synthesize"})["mode"] == "synthesize"


def test_the_profiles_strategy_is_what_fuse_means(router: StartRouter, profile: Profile, simulator: Simulator) -> None:
    racing = router(profile(aggregator={"strategy": "First"}))
    assert served(racing, simulator, "research")["strategy"] == "First"
    assert served(racing, simulator, "research:fuse")["strategy"] == "First"
    assert served(racing, simulator, "research:synthesize")["strategy"] == "Synthesize"


def test_without_an_aggregator_nothing_is_synthesized(
    router: StartRouter, profile: Profile, simulator: Simulator
) -> None:
    members = [{"upstream": "qwen", "samples": 2, "temperature": PANEL_TEMPERATURE}]
    alone = profile(
        panel={"members": members, "quorum": 1},
        aggregator={"strategy": "First", "upstream": None, "temperature": AGGREGATOR_TEMPERATURE},
    )
    serving = router(alone)
    assert served(serving, simulator, "research")["strategy"] == "First"
    assert served(serving, simulator, "research:single")["stages"][0]["upstream"] == "qwen"
    reply = serving.post({**asked(), "model": "research:synthesize"})
    assert reply.status == 404
    modes = serving.get("/v1/models/research").json["modes"]
    assert modes == ["fuse", "single", "first"]


# -- models ------------------------------------------------------------------------------------------------------------


def test_models_lists_every_name_there_is(named: Router) -> None:
    models = list(named.openai.models.list())
    ids = [model.id for model in models]
    expected = [name + suffix for name in NAMES for suffix in ("", *(f":{mode}" for mode in MODES))]
    assert ids == [*expected, "qwen", "again", "other", "paced", QWEN]
    assert {(model.object, model.owned_by) for model in models} == {("model", "moa:research")}
    assert all(model.created > 1_700_000_000 for model in models)


@pytest.mark.parametrize(
    "name",
    ["research", "research:single", "fusion/research", "team-a/best", "team-a/best:first", QWEN, "qwen", "other"],
)
def test_each_listed_model_can_be_looked_up_and_asked(named: Router, simulator: Simulator, name: str) -> None:
    listed = {model["id"]: model for model in named.get("/v1/models").json["data"]}
    assert named.openai.models.retrieve(name).id == name
    assert named.get(f"/v1/models/{name}").json == listed[name]
    assert named.get(f"/v1/models/{name.replace('/', '%2F')}").json == listed[name]
    assert served(named, simulator, name)


def test_models_tell_modes_and_window(named: Router) -> None:
    listed = {model["id"]: model for model in named.get("/v1/models").json["data"]}
    assert listed["research"]["modes"] == MODES
    assert listed["research:first"]["mode"] == "first"
    assert listed["other"]["max_model_len"] == 32768
    assert "max_model_len" not in listed["qwen"]


@pytest.mark.parametrize("name", ["nobody", "research:vote", "fusion%2Fnobody", "a/b/c", "%00"])
def test_a_model_nobody_has_is_a_404(named: Router, name: str) -> None:
    reply = named.get(f"/v1/models/{name}")
    assert reply.status == 404
    assert reply.error["code"] == "model_not_found"


def test_the_listing_is_what_the_sdk_expects(named: Router) -> None:
    reply = named.get("/v1/models")
    assert reply.headers["content-type"] == "application/json"
    assert set(reply.json) == {"object", "data"}
    assert json.loads(reply.body)["object"] == "list"
