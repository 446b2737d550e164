"""When enough of the panel have answered: quorum, grace, deadlines."""

import pytest
from tests.router.wire.asking import ask, counting, final_of, on, panel_of, trio
from tests.router.wire.harness import (
    PANEL_TEMPERATURE,
    Json,
    Profile,
    Simulator,
    StartRouter,
    panel_replies,
)

NEVER: Json = {"hang": {}}
QUORUMS = [(1, 1), (2, 2), (3, 3), ("1%", 1), ("33%", 1), ("34%", 2), ("67%", 3), ("100%", 3), (None, 2)]
both_ways = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


class TestQuorum:
    @both_ways
    def test_behind_it_the_rest_is_cancelled_and_the_upstream_sees_it(
        self, router: StartRouter, profile: Profile, simulator: Simulator, stream: bool
    ) -> None:
        served = router(trio(profile, panel={"quorum": 2, "grace": "100ms"}))
        simulator.rules(on("c", inter_token=0.2))
        with (
            counting(served, "moa_cancelled_calls_total", stage="panel", reason="quorum") as cancelled,
            counting(served, "moa_quorum_total", outcome="met") as met,
            counting(served, "moa_upstream_requests_total", upstream="c", outcome="cancelled") as counted,
        ):
            answer = ask(served, stream=stream)
        late = panel_of(simulator.settled())["c"]
        assert late.outcome == "cancelled"
        assert late.completion_tokens < 10
        assert (answer.panel, answer.degraded) == ("2/3", [])
        assert answer.outcomes() == {"a": "ok", "b": "ok", "c": "cancelled"}
        assert (cancelled, met, counted) == ([1], [1], [1])
        if not stream:
            assert answer.headers["x-moa-panel"] == "2/3"
            assert "x-moa-degraded" not in answer.headers

    def test_within_the_grace_a_late_one_is_let_in(
        self, router: StartRouter, profile: Profile, simulator: Simulator
    ) -> None:
        served = router(trio(profile, panel={"quorum": 2, "grace": "15s"}))
        simulator.rules(on("c", delay=0.3, reply="I am late."))
        answer = ask(served)
        assert (answer.panel, answer.degraded) == ("3/3", [])
        assert "I am late." in final_of(simulator.settled())[0].body

    @pytest.mark.parametrize(("quorum", "enough"), QUORUMS)
    def test_may_be_a_number_or_a_share_rounded_up(
        self, router: StartRouter, profile: Profile, simulator: Simulator, quorum: int | str | None, enough: int
    ) -> None:
        profiles = {quorum: f"quorum-{number}" for number, (quorum, _) in enumerate(QUORUMS)}
        served = router(*[trio(profile, name=name, panel={"quorum": wanted}) for wanted, name in profiles.items()])
        simulator.rules(*[on(name, **NEVER) for name in "cba"[: 3 - enough]])
        answer = ask(served, model=profiles[quorum])
        assert answer.moa["panel"] == {"asked": 3, "answered": enough, "quorum": enough}
        assert answer.degraded == []

    def test_is_met_inside_a_call_whose_rest_is_cancelled(
        self, router: StartRouter, profile: Profile, simulator: Simulator
    ) -> None:
        served = router(profile(panel={"quorum": 2, "grace": "0s"}))
        rambling = "on and on " * 200
        simulator.rules(panel_replies("The first.", rambling, "The third.", inter_token=0.02))
        answer = ask(served)
        (call,) = simulator.panel()
        assert (call.n, call.stream, call.outcome) == (3, True, "cancelled")
        assert call.completion_tokens < 150
        assert answer.panel == "2/3"
        shown = simulator.final().body
        assert "The first." in shown
        assert "The third." in shown
        assert "on and on" not in shown
        assert [stage["outcome"] for stage in answer.stages("panel")] == ["cancelled"]

    def test_of_all_is_not_streamed_in_vain(self, router: StartRouter, profile: Profile, simulator: Simulator) -> None:
        served = router(profile(panel={"quorum": 3}))
        assert ask(served).panel == "3/3"
        (call,) = simulator.panel()
        assert not call.stream


class TestTime:
    @both_ways
    def test_a_hanging_member_leaves_the_aggregator_its_share(
        self, router: StartRouter, profile: Profile, simulator: Simulator, stream: bool
    ) -> None:
        served = router(trio(profile, panel={"quorum": 3}, timeouts={"request": "2s", "connect": "1s"}))
        simulator.rules(on("b", **NEVER))
        answer = ask(served, stream=stream)
        assert (answer.status, answer.finish) == (200, "stop")
        assert (answer.panel, answer.degraded) == ("2/3", ["quorum"])
        assert answer.outcomes()["b"] == "timeout"
        assert panel_of(simulator.settled())["b"].outcome == "cancelled"

    def test_a_panel_that_hangs_as_a_whole_does_too(
        self, router: StartRouter, profile: Profile, simulator: Simulator
    ) -> None:
        served = router(trio(profile, timeouts={"request": "2s", "connect": "1s"}))
        simulator.rules(*[on(name, **NEVER) for name in "abc"])
        answer = ask(served)
        assert (answer.status, answer.panel, answer.degraded) == (200, "0/3", ["panel"])
        assert set(answer.outcomes().values()) == {"timeout"}

    def test_layers_share_what_the_aggregator_leaves(
        self, router: StartRouter, profile: Profile, simulator: Simulator
    ) -> None:
        served = router(trio(profile, panel={"layers": 2, "quorum": 3}, timeouts={"request": "2s", "connect": "1s"}))
        simulator.rules(on("b", **NEVER))
        answer = ask(served)
        assert (answer.status, answer.finish) == (200, "stop")
        assert [(stage["layer"], stage["outcome"]) for stage in answer.stages("panel")].count((2, "ok")) == 2

    def test_the_client_may_ask_for_less(self, router: StartRouter, profile: Profile, simulator: Simulator) -> None:
        served = router(trio(profile, panel={"quorum": 3}))
        simulator.rules(on("b", **NEVER))
        answer = ask(served, headers={"x-request-timeout": "1"})
        assert (answer.status, answer.panel, answer.degraded) == (200, "2/3", ["quorum"])

    def test_the_client_may_not_ask_for_more(self, router: StartRouter, profile: Profile, simulator: Simulator) -> None:
        served = router(trio(profile, timeouts={"request": "500ms", "connect": "500ms"}))
        simulator.rules(on("writer", **NEVER))
        answer = ask(served, model="research:single", headers={"x-request-timeout": "100"})
        assert answer.status == 504
        assert answer.error is not None
        assert answer.error["type"] == "timeout_error"
        assert "timed out" in answer.error["message"]

    @pytest.mark.parametrize("value", ["", "soon", "0", "-1", "nan", "inf", "-inf", "1e999", "1,5", "0x10"])
    def test_a_time_that_is_none_is_refused(
        self, router: StartRouter, profile: Profile, simulator: Simulator, value: str
    ) -> None:
        answer = ask(router(trio(profile)), headers={"x-request-timeout": value})
        assert answer.status == 400
        assert answer.error is not None
        assert answer.error["param"] == "x-request-timeout"
        assert simulator.calls() == []

    @pytest.mark.parametrize(
        "sections",
        [
            {"timeouts": {"member": "300ms"}},
            {"members": [{"upstream": name, "temperature": PANEL_TEMPERATURE, "timeout": "300ms"} for name in "abc"]},
        ],
        ids=["of the profile", "of the member"],
    )
    def test_a_members_own_time_is_kept(
        self, router: StartRouter, profile: Profile, simulator: Simulator, sections: Json
    ) -> None:
        served = router(trio(profile, panel={"quorum": 3}, **sections))
        simulator.rules(on("b", **NEVER))
        answer = ask(served)
        assert (answer.status, answer.panel, answer.degraded) == (200, "2/3", ["quorum"])
        assert answer.outcomes()["b"] == "timeout"
        assert panel_of(simulator.settled())["b"].outcome == "cancelled"

    def test_a_silent_stream_is_given_up_before_its_time(
        self, router: StartRouter, profile: Profile, simulator: Simulator
    ) -> None:
        """Choices of one call come as a stream: no word for `idle`, and the call is over."""
        served = router(profile(timeouts={"idle": "300ms"}))
        simulator.rules(panel_replies("Yes.", "No, and here is why.", hang=5))
        answer = ask(served)
        assert [stage["outcome"] for stage in answer.stages("panel")] == ["timeout"]
        assert answer.status == 200
