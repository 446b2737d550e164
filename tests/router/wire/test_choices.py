"""Several samples of one member in one call: where the upstream can, and what happens where it cannot."""

import pytest
from tests.router.wire.asking import ask, counting
from tests.router.wire.harness import PANEL_TEMPERATURE, Call, Json, Profile, Simulator, StartRouter


def self_moa(
    profile: Profile, model: str, panel: Json | None = None, upstream: Json | None = None, **member: object
) -> Json:
    """Three samples of one member, all of them wanted."""
    members = [{"upstream": "up", "samples": 3, "temperature": PANEL_TEMPERATURE, **member}]
    return profile(
        upstreams=[{"name": "up", "model": model, **(upstream or {})}, {"name": "writer", "model": "Qwen/Qwen3-32B"}],
        panel={"members": members, "quorum": 3, **(panel or {})},
        aggregator={"upstream": "writer"},
    )


def shape(calls: list[Call]) -> list[tuple[int, str]]:
    return [(call.n, call.outcome) for call in calls]


def seeds(calls: list[Call]) -> list[tuple[int, int | None]]:
    return [(call.fields.get("n", 1), call.fields.get("seed")) for call in calls]


class TestFanOut:
    def test_auto_asks_equal_members_in_one_call(
        self, router: StartRouter, profile: Profile, simulator: Simulator
    ) -> None:
        equal = {"upstream": "up", "temperature": PANEL_TEMPERATURE}
        served = router(
            self_moa(profile, "other", {"members": [equal, {**equal, "name": "twin"}, {**equal, "topP": 0.9}]})
        )
        assert ask(served).panel == "3/3"
        assert sorted(shape(simulator.panel())) == [(1, "ok"), (2, "ok")]

    def test_parallel_asks_one_by_one(self, router: StartRouter, profile: Profile, simulator: Simulator) -> None:
        assert ask(router(self_moa(profile, "other", {"fanOut": "Parallel"}))).panel == "3/3"
        calls = simulator.panel()
        assert shape(calls) == [(1, "ok")] * 3
        assert all("n" not in call.fields for call in calls)

    def test_greedy_samples_are_not_asked_together(
        self, router: StartRouter, profile: Profile, simulator: Simulator
    ) -> None:
        ask(router(self_moa(profile, "other", temperature=0)))
        assert [call.n for call in simulator.settled() if call.model == "other"] == [1, 1, 1]

    def test_multiple_choices_insists(self, router: StartRouter, profile: Profile, simulator: Simulator) -> None:
        ask(router(self_moa(profile, "other", {"fanOut": "MultipleChoices"}, temperature=0)))
        assert [call.n for call in simulator.settled() if call.model == "other"] == [3]


class TestRefusal:
    @pytest.mark.parametrize("quorum", [2, 3], ids=["streamed", "whole"])
    def test_is_met_by_single_calls_and_remembered(
        self, router: StartRouter, profile: Profile, simulator: Simulator, quorum: int
    ) -> None:
        served = router(self_moa(profile, "onechoice", {"quorum": quorum, "grace": "10s"}), fresh=True)
        assert (ask(served).panel, ask(served).panel) == ("3/3", "3/3")
        assert shape(simulator.panel()) == [(3, "rejected"), *[(1, "ok")] * 6]

    @pytest.mark.parametrize("quorum", [2, 3], ids=["streamed", "whole"])
    def test_too_few_choices_are_topped_up_and_remembered(
        self, router: StartRouter, profile: Profile, simulator: Simulator, quorum: int
    ) -> None:
        served = router(self_moa(profile, "other", {"quorum": quorum, "grace": "10s"}), fresh=True)
        simulator.rules({"match": {"n_gt": 1}, "action": {"fewer_choices": 1}})
        answers = [ask(served), ask(served)]
        assert [(answer.panel, answer.degraded) for answer in answers] == [("3/3", [])] * 2
        assert shape(simulator.panel()) == [(3, "fault:fewer_choices"), *[(1, "ok")] * 5]

    def test_of_a_declared_capability_is_not_remembered(
        self, router: StartRouter, profile: Profile, simulator: Simulator
    ) -> None:
        served = router(self_moa(profile, "onechoice", upstream={"capabilities": ["MultipleChoices"]}), fresh=True)
        assert (ask(served).panel, ask(served).panel) == ("3/3", "3/3")
        assert [call.n for call in simulator.panel()] == [3, 1, 1, 1, 3, 1, 1, 1]

    def test_an_undeclared_capability_is_not_tried(
        self, router: StartRouter, profile: Profile, simulator: Simulator
    ) -> None:
        ask(router(self_moa(profile, "other", upstream={"capabilities": ["Tools"]})))
        assert [call.n for call in simulator.panel()] == [1, 1, 1]

    @pytest.mark.parametrize(
        ("action", "outcome"),
        [
            ({"status": 429}, "rate_limited"),
            ({"status": 503}, "server_error"),
            ({"reset": 0}, "reset"),
            ({"garbage": 0}, "invalid"),
            (
                {"status": {"code": 400, "body": {"error": {"message": "exceeds the maximum context length"}}}},
                "client_error",
            ),
        ],
    )
    def test_another_failure_says_nothing_about_choices(
        self, router: StartRouter, profile: Profile, simulator: Simulator, action: Json, outcome: str
    ) -> None:
        served = router(self_moa(profile, "other"))
        simulator.rules({"match": {"n_gt": 1}, "times": 1, "action": action})
        with counting(served, "moa_upstream_requests_total", upstream="up", outcome=outcome) as failed:
            answer = ask(served)
        assert (answer.panel, answer.degraded, failed) == ("0/3", ["panel"], [1])
        assert ask(served).panel == "3/3"
        assert [call.n for call in simulator.panel()] == [3, 3]


class TestSeeds:
    def test_one_seed_is_enough_for_one_call(self, router: StartRouter, profile: Profile, simulator: Simulator) -> None:
        ask(router(self_moa(profile, "other", seed=7)))
        assert seeds(simulator.panel()) == [(3, 7)]

    def test_single_calls_count_on(self, router: StartRouter, profile: Profile, simulator: Simulator) -> None:
        ask(router(self_moa(profile, "other", {"fanOut": "Parallel"}, seed=7)))
        assert sorted(seeds(simulator.panel())) == [(1, 7), (1, 8), (1, 9)]

    def test_so_do_those_behind_a_refusal(self, router: StartRouter, profile: Profile, simulator: Simulator) -> None:
        ask(router(self_moa(profile, "onechoice", seed=7), fresh=True))
        assert seeds(simulator.panel())[0] == (3, 7)
        assert sorted(seeds(simulator.panel())[1:]) == [(1, 7), (1, 8), (1, 9)]

    def test_and_those_that_top_up(self, router: StartRouter, profile: Profile, simulator: Simulator) -> None:
        served = router(self_moa(profile, "other", seed=7), fresh=True)
        simulator.rules({"match": {"n_gt": 1}, "action": {"fewer_choices": 1}})
        ask(served)
        assert sorted(seeds(simulator.panel())[1:]) == [(1, 8), (1, 9)]

    def test_the_upstreams_own_is_final(self, router: StartRouter, profile: Profile, simulator: Simulator) -> None:
        served = router(self_moa(profile, "other", {"fanOut": "Parallel"}, {"parameters": {"seed": 1}}, seed=7))
        ask(served)
        assert seeds(simulator.panel()) == [(1, 1)] * 3

    def test_without_one_none_is_sent(self, router: StartRouter, profile: Profile, simulator: Simulator) -> None:
        ask(router(self_moa(profile, "other")))
        assert seeds(simulator.panel()) == [(3, None)]
