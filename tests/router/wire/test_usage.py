"""Usage is the truth: what clients, metrics and the upstream's own books say is the same."""

import json
from collections.abc import Mapping, Sequence
from fractions import Fraction

import pytest
from tests.router.wire.asking import Answer, ask, member, on, trio
from tests.router.wire.harness import (
    QWEN,
    Call,
    Json,
    Profile,
    Router,
    Sample,
    Simulator,
    StartRouter,
    panel_replies,
)

both_ways = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
TOKENS = "moa_stage_tokens_total"
KINDS = ("input", "cached_input", "output", "reasoning")


def booked(calls: Sequence[Call]) -> dict[str, int]:
    """What the upstream's books say was used."""
    return {
        "input": sum(call.prompt_tokens for call in calls),
        "cached_input": sum(call.cached_tokens for call in calls),
        "output": sum(call.completion_tokens for call in calls),
        "reasoning": sum(call.reasoning_tokens for call in calls),
    }


def told(usage: Json) -> dict[str, int]:
    """What a `usage` object says was used."""
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    return {
        "input": usage["prompt_tokens"],
        "cached_input": usage["prompt_tokens_details"]["cached_tokens"],
        "output": usage["completion_tokens"],
        "reasoning": usage["completion_tokens_details"]["reasoning_tokens"],
    }


class Ledger:
    """What a router's metrics have counted since it was opened."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self._before = router.samples()

    def grown(self, name: str, **labels: str) -> float:
        """By how much a metric's values with these labels have grown."""
        return total(self._router.samples(), name, labels) - total(self._before, name, labels)

    def tokens(self, **labels: str) -> dict[str, int]:
        """Tokens by kind."""
        now = self._router.samples()
        return {
            kind: int(
                total(now, TOKENS, {**labels, "type": kind}) - total(self._before, TOKENS, {**labels, "type": kind})
            )
            for kind in KINDS
        }


def total(samples: Sequence[Sample], name: str, labels: Mapping[str, str]) -> float:
    return sum(sample.value for sample in samples if sample.name == name and labels.items() <= sample.labels.items())


def agrees(ledger: Ledger, simulator: Simulator, *answers: Answer) -> None:
    """Clients, stages, metrics and books tell the same story."""
    truth = booked(simulator.settled())
    assert {kind: sum(told(answer.usage)[kind] for answer in answers) for kind in KINDS} == truth
    for answer in answers:
        stages = [told(stage["usage"]) for stage in answer.moa["stages"]]
        assert {kind: sum(stage[kind] for stage in stages) for kind in KINDS} == told(answer.usage)
        assert answer.moa["calls"] == len(stages)
        assert not any(stage.get("estimated") for stage in answer.moa["stages"])
    assert ledger.tokens() == truth
    assert ledger.grown("moa_estimated_usage_total") == 0


class TestTruth:
    @both_ways
    def test_of_separate_calls(self, router: StartRouter, profile: Profile, simulator: Simulator, stream: bool) -> None:
        served = router(trio(profile, panel={"quorum": 3}))
        ledger = Ledger(served)
        # the second finds the first's prefix in the cache
        agrees(ledger, simulator, ask(served, stream=stream), ask(served, stream=stream))
        assert booked(simulator.calls())["cached_input"] > 0

    @both_ways
    @pytest.mark.parametrize("quorum", [2, 3], ids=["panel streamed", "panel whole"])
    def test_of_choices_in_one_call(
        self, router: StartRouter, profile: Profile, simulator: Simulator, stream: bool, quorum: int
    ) -> None:
        served = router(profile(panel={"quorum": quorum, "grace": "10s"}))
        ledger = Ledger(served)
        agrees(ledger, simulator, ask(served, stream=stream))
        assert [call.n for call in simulator.settled()] == [3, 1]

    @both_ways
    def test_of_layers(self, router: StartRouter, profile: Profile, simulator: Simulator, stream: bool) -> None:
        served = router(trio(profile, panel={"quorum": 3, "layers": 3}))
        ledger = Ledger(served)
        agrees(ledger, simulator, ask(served, stream=stream))

    @both_ways
    def test_of_refused_choices_and_fallbacks(
        self, router: StartRouter, profile: Profile, simulator: Simulator, stream: bool
    ) -> None:
        """Calls that were refused used nothing, and that is no estimate."""
        members = [{**member("spare"), "samples": 3}, member("b")]
        served = router(trio(profile, members=members, panel={"quorum": 4}, aggregator={"fallbackUpstreams": ["a"]}))
        ledger = Ledger(served)
        simulator.rules(on("writer", status=503), on("b", status=429))
        answer = ask(served, stream=stream)
        assert answer.outcomes("aggregator") == {"writer": "server_error", "a": "ok"}
        refused = {"input": 0, "cached_input": 0, "output": 0, "reasoning": 0}
        assert told(answer.stages("aggregator")[0]["usage"]) == refused
        # the books know the length of a prompt that was refused; nobody pays for it
        for call in simulator.settled():
            if call.outcome != "ok":
                assert call.completion_tokens == 0
        paid = booked([call for call in simulator.settled() if call.outcome == "ok"])
        assert told(answer.usage) == paid == ledger.tokens()

    @both_ways
    @pytest.mark.parametrize("model", ["research", "research:single", "writer"])
    def test_of_reasoning(
        self, router: StartRouter, profile: Profile, simulator: Simulator, stream: bool, model: str
    ) -> None:
        thinker = {"model": "thinker"}
        served = router(trio(profile, panel={"quorum": 3}, upstream={"b": thinker, "writer": thinker}))
        ledger = Ledger(served)
        answer = ask(served, stream=stream, model=model)
        agrees(ledger, simulator, answer)
        assert told(answer.usage)["reasoning"] >= 12

    @both_ways
    def test_of_several_answers(
        self, router: StartRouter, profile: Profile, simulator: Simulator, stream: bool
    ) -> None:
        served = router(trio(profile, panel={"quorum": 3}))
        ledger = Ledger(served)
        agrees(ledger, simulator, ask(served, stream=stream, n=3))

    @both_ways
    def test_of_one_upstream_alone(
        self, router: StartRouter, profile: Profile, simulator: Simulator, stream: bool
    ) -> None:
        served = router(trio(profile))
        ledger = Ledger(served)
        answers = [ask(served, stream=stream, model=model) for model in ("research:single", "writer", QWEN)]
        agrees(ledger, simulator, *answers)
        assert [answer.moa["stages"][0]["stage"] for answer in answers] == ["single", "passthrough", "passthrough"]
        assert ledger.tokens(stage="passthrough")["output"] == told(answers[1].usage)["output"] * 2

    @both_ways
    def test_of_the_best_candidate_is_all_that_was_used(
        self, router: StartRouter, profile: Profile, simulator: Simulator, stream: bool
    ) -> None:
        served = router(trio(profile, panel={"quorum": 3}))
        ledger = Ledger(served)
        simulator.rules(on("writer", status=500))
        answer = ask(served, stream=stream)
        assert answer.degraded == ["aggregator"]
        paid = [call for call in simulator.settled() if call.outcome == "ok"]
        assert told(answer.usage) == booked(paid) == ledger.tokens()

    def test_of_a_stream_is_told_last_and_only_if_asked_for(
        self, router: StartRouter, profile: Profile, simulator: Simulator
    ) -> None:
        served = router(trio(profile, panel={"quorum": 3}))
        ledger = Ledger(served)
        assert ask(served, stream=True, stream_options=None).usage == {}
        assert ask(served, stream=True, stream_options={"include_usage": False}).usage == {}
        assert ledger.tokens()["output"] == booked(simulator.settled())["output"]


class TestCancelled:
    def test_calls_count_with_what_was_reported(
        self, router: StartRouter, profile: Profile, simulator: Simulator
    ) -> None:
        """Choices in one stream carry the usage so far; what was not yet told cannot be known."""
        served = router(profile(panel={"quorum": 2, "grace": "0s"}))
        ledger = Ledger(served)
        simulator.rules(panel_replies("One.", "Two.", "and on " * 300, inter_token=0.01))
        answer = ask(served)
        (call,) = simulator.panel()
        (stage,) = answer.stages("panel")
        assert (call.outcome, stage["outcome"]) == ("cancelled", "cancelled")
        assert "estimated" not in stage
        usage = told(stage["usage"])
        assert usage["input"] == call.prompt_tokens
        assert 4 <= usage["output"] <= call.completion_tokens
        assert ledger.tokens(stage="panel") == usage
        assert told(answer.usage) == ledger.tokens()

    def test_calls_without_a_report_are_estimated_and_say_so(
        self, router: StartRouter, profile: Profile, simulator: Simulator
    ) -> None:
        served = router(trio(profile, panel={"quorum": 2}))
        ledger = Ledger(served)
        simulator.rules(on("c", inter_token=0.1))
        answer = ask(served)
        call = next(call for call in simulator.settled() if call.outcome == "cancelled")
        stage = next(stage for stage in answer.stages("panel") if stage["outcome"] == "cancelled")
        assert stage["estimated"] is True
        assert told(stage["usage"])["output"] <= call.completion_tokens
        assert ledger.grown("moa_estimated_usage_total", stage="panel", upstream="c") == 1
        assert told(answer.usage) == ledger.tokens()

    @pytest.mark.parametrize("fault", [{"missing_usage": True}, {"cut": 9}, {"reset": 9}, {"hang": 9}])
    def test_streams_that_tell_nothing_count_what_arrived(
        self, router: StartRouter, profile: Profile, simulator: Simulator, fault: Json
    ) -> None:
        """Never more than was produced, whatever befalls the stream."""
        members = [{**member("a"), "samples": 2}]
        served = router(trio(profile, members=members, panel={"quorum": 1, "grace": "1s"}, timeouts={"idle": "300ms"}))
        simulator.rules(
            {"match": {"n_gt": 1}, "action": {"reply": {"texts": ["three words here", "two words"]}, **fault}}
        )
        answer = ask(served)
        stage = answer.stages("panel")[0]
        call = simulator.panel()[0]
        assert told(stage["usage"])["output"] <= call.completion_tokens
        if fault == {"missing_usage": True}:
            assert stage["estimated"] is True
            assert told(stage["usage"])["output"] == call.completion_tokens


class TestLies:
    @both_ways
    @pytest.mark.parametrize(
        "usage",
        [
            {"prompt_tokens": -5, "completion_tokens": 3},
            {"prompt_tokens": 10**15, "completion_tokens": 3},
            {"prompt_tokens": "5", "completion_tokens": True},
            {"prompt_tokens": 5.5},
            [],
            "many",
            None,
        ],
        ids=str,
    )
    def test_are_not_believed(
        self, router: StartRouter, profile: Profile, simulator: Simulator, stream: bool, usage: object
    ) -> None:
        served = router(trio(profile))
        whole = {
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "two words"}, "finish_reason": "stop"}]
        }
        chunks = [
            {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]} for text in ("two ", "words")
        ]
        end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
        simulator.rules(on("writer", raw=http(*([*chunks, end] if stream else [whole]), usage=usage, stream=stream)))
        answer = ask(served, stream=stream, model="writer")
        assert answer.text == "two words"
        assert told(answer.usage) == {"input": 0, "cached_input": 0, "output": 2, "reasoning": 0}
        assert answer.moa["stages"][0]["estimated"] is True


def http(*documents: Json, usage: object, stream: bool) -> Json:
    """A scripted response whose last part carries this usage."""
    if stream:
        parts = [*documents, {"choices": [], "usage": usage}]
        body = "".join(f"data: {json.dumps(part)}\n\n" for part in parts) + "data: [DONE]\n\n"
    else:
        body = json.dumps({**documents[0], "usage": usage})
    kind = "text/event-stream" if stream else "application/json"
    return {
        "pieces": [{"text": f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n{body}"}]
    }


PRICES: Json = {"inputPerMillion": 2, "cachedInputPerMillion": 0.5, "outputPerMillion": 8, "reasoningPerMillion": 3}
PLAIN: Json = {"inputPerMillion": 0.15, "outputPerMillion": 0.6}


class TestCost:
    @staticmethod
    def exact(usage: dict[str, int], prices: Json) -> Fraction:
        """The price of tokens, in exact arithmetic."""
        per = {name: Fraction(str(value)) / 10**6 for name, value in prices.items()}
        cached = per.get("cachedInputPerMillion", per["inputPerMillion"])
        reasoning = per.get("reasoningPerMillion", per["outputPerMillion"])
        return (
            (usage["input"] - usage["cached_input"]) * per["inputPerMillion"]
            + usage["cached_input"] * cached
            + (usage["output"] - usage["reasoning"]) * per["outputPerMillion"]
            + usage["reasoning"] * reasoning
        )

    @both_ways
    def test_is_exact(self, router: StartRouter, profile: Profile, simulator: Simulator, stream: bool) -> None:
        priced: dict[str, Json] = {name: {"pricing": PLAIN} for name in ("a", "c", "spare")}
        priced |= {"b": {"pricing": PRICES, "model": "thinker"}, "writer": {"pricing": PRICES}}
        served = router(trio(profile, panel={"quorum": 3}, upstream=priced))
        ledger = Ledger(served)
        answers = [ask(served, stream=stream), ask(served, stream=stream)]
        for answer in answers:
            due = sum(
                self.exact(told(stage["usage"]), priced[stage["upstream"]]["pricing"]) for stage in answer.moa["stages"]
            )
            assert answer.usage["cost"] == float(due)
            assert sum(stage["usage"]["cost"] for stage in answer.moa["stages"]) == pytest.approx(float(due), rel=1e-9)
        counted = ledger.grown("moa_stage_cost_total")
        assert counted == pytest.approx(sum(answer.usage["cost"] for answer in answers), rel=1e-9)

    @both_ways
    @pytest.mark.parametrize("model", ["research:single", "writer"])
    def test_is_told_of_a_single_upstream_too(
        self, router: StartRouter, profile: Profile, simulator: Simulator, stream: bool, model: str
    ) -> None:
        served = router(trio(profile, upstream={"writer": {"pricing": PLAIN}}))
        answer = ask(served, stream=stream, model=model)
        assert answer.usage["cost"] == float(self.exact(told(answer.usage), PLAIN))

    @both_ways
    def test_is_left_out_where_a_price_is_unknown(
        self, router: StartRouter, profile: Profile, simulator: Simulator, stream: bool
    ) -> None:
        priced = {name: {"pricing": PLAIN} for name in ("a", "b", "writer")}
        answer = ask(router(trio(profile, panel={"quorum": 3}, upstream=priced)), stream=stream)
        assert "cost" not in answer.usage
        assert ["cost" in stage["usage"] for stage in answer.moa["stages"]].count(False) == 1


class TestOutcomes:
    """Every request is counted once, by how it ended."""

    CASES: tuple[tuple[str, str, str, Json, list[Json]], ...] = (
        ("ok", "research", "fuse", {}, []),
        ("ok", "research:single", "single", {}, []),
        ("ok", "writer", "passthrough", {}, []),
        ("ok", "research:synthesize", "synthesize", {}, []),
        ("ok", "research:first", "first", {}, []),
        ("degraded", "research", "fuse", {}, [on("a", status=500), on("b", status=500)]),
        ("client_error", "research", "fuse", {"n": 2, "messages": [{"role": "user", "content": "x" * 90_000}]}, []),
        ("client_error", "research:first", "first", {"n": 2}, []),
        ("upstream_error", "writer", "passthrough", {}, [on("writer", status=500)]),
        ("upstream_error", "writer", "passthrough", {}, [on("writer", status=429)]),
        ("timeout", "writer", "passthrough", {}, [on("writer", hang={})]),
        ("client_error", "nobody", "_unresolved", {}, []),
        ("client_error", "research", "_unresolved", {"n": 0}, []),
    )

    @both_ways
    @pytest.mark.parametrize("number", range(len(CASES)))
    def test_are_counted(
        self, router: StartRouter, profile: Profile, simulator: Simulator, stream: bool, number: int
    ) -> None:
        outcome, model, mode, fields, rules = self.CASES[number]
        small = (
            {name: {"model": "small"} for name in ("a", "b", "c", "writer", "spare")} if "messages" in fields else {}
        )
        served = router(trio(profile, upstream=small, timeouts={"request": "1s", "connect": "1s"}))
        simulator.rules(*rules)
        before = {(s.labels["mode"], s.labels["outcome"]): s.value for s in requests(served)}
        ask(served, stream=stream, model=model, **fields)
        grown = {
            key: sample.value - before.get(key, 0)
            for sample in requests(served)
            if sample.value != before.get(key := (sample.labels["mode"], sample.labels["outcome"]), 0)
        }
        assert grown == {(mode, outcome): 1}


def requests(router: Router) -> list[Sample]:
    return [sample for sample in router.samples() if sample.name == "moa_requests_total"]
