"""What a request cost, and what happened to it."""

from dataclasses import dataclass, field
from decimal import Decimal
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moa_router.fusion.report import headers, moa_body, total_usage, usage_body, waiting_seconds
from moa_router.fusion.run import PanelCount, Run
from moa_router.upstream.client import Call, Prices
from moa_router.upstream.usage import Usage


@dataclass
class Upstream:
    name: str = "qwen"
    model: str = "Qwen/Qwen3-32B"


@dataclass
class Site:
    stage: str = "panel"
    upstream: Upstream = field(default_factory=Upstream)


@dataclass
class FakeCall:
    """As much of an ended call as a report looks at."""

    usage: Usage | None = None
    cost: Decimal | None = None
    started: float = 0.0
    ended: float = 1.0
    layer: int = 0
    outcome: str = "ok"
    site: Site = field(default_factory=Site)


@dataclass
class Plan:
    name: str = "research"


@dataclass
class FakeRun:
    """As much of a request as a report looks at."""

    calls: list[Call]
    mode: str = "fuse"
    strategy: str | None = "Synthesize"
    degraded: list[str] = field(default_factory=list)
    panel: PanelCount | None = None
    timings: list[tuple[str, float]] = field(default_factory=list)
    plan: Plan = field(default_factory=Plan)


def calls(*fakes: FakeCall) -> list[Call]:
    return cast("list[Call]", list(fakes))


def run_of(*fakes: FakeCall, **more: object) -> Run:
    fake = FakeRun(calls(*fakes))
    for name, value in more.items():
        setattr(fake, name, value)
    return cast("Run", fake)


def panel(asked: int, answered: int, quorum: int) -> PanelCount:
    count = PanelCount()
    count.asked, count.answered, count.quorum = asked, answered, quorum
    return count


PRICES = Prices(
    input_=Decimal("0.000001"),
    cached_input=Decimal("0.0000001"),
    output=Decimal("0.000003"),
    reasoning=Decimal("0.000002"),
)


class TestUsage:
    def test_is_openais_object(self) -> None:
        assert usage_body(Usage(100, 64, 20, 5), None) == {
            "prompt_tokens": 100,
            "completion_tokens": 20,
            "total_tokens": 120,
            "prompt_tokens_details": {"cached_tokens": 64},
            "completion_tokens_details": {"reasoning_tokens": 5},
        }

    def test_costs_what_the_tokens_cost(self) -> None:
        cost = PRICES.cost(Usage(100, 64, 20, 5))
        assert cost == Decimal("0.0000974")
        assert usage_body(Usage(), cost)["cost"] == 0.0000974

    def test_is_the_sum_over_all_calls(self) -> None:
        usage, cost = total_usage(
            calls(
                FakeCall(Usage(100, 64, 20, 5), Decimal("0.1")),
                FakeCall(Usage(10, 0, 2, 0, estimated=True), Decimal("0.2")),
            )
        )
        assert usage == Usage(110, 64, 22, 5, estimated=True)
        assert cost == Decimal("0.3")

    def test_has_no_cost_if_one_upstream_has_no_price(self) -> None:
        assert total_usage(calls(FakeCall(Usage(1), Decimal(1)), FakeCall(Usage(1), None)))[1] is None
        assert total_usage([])[1] is None


class TestMoa:
    def test_tells_of_every_call(self) -> None:
        failed = FakeCall(Usage(output=3, estimated=True), outcome="cancelled", layer=2, started=1.0, ended=1.25)
        body = moa_body(run_of(FakeCall(Usage(10, 0, 2)), failed, panel=panel(3, 2, 2), degraded=["quorum"]))
        stages = body.pop("stages")
        assert body == {
            "profile": "research",
            "mode": "fuse",
            "strategy": "Synthesize",
            "degraded": ["quorum"],
            "panel": {"asked": 3, "answered": 2, "quorum": 2},
            "calls": 2,
        }
        assert isinstance(stages, list)
        assert stages[1] == {
            "stage": "panel",
            "layer": 2,
            "upstream": "qwen",
            "model": "Qwen/Qwen3-32B",
            "outcome": "cancelled",
            "duration_ms": 250.0,
            "usage": usage_body(Usage(output=3), None),
            "estimated": True,
        }
        assert "estimated" not in stages[0]

    def test_without_a_panel_has_none(self) -> None:
        assert "panel" not in moa_body(run_of(FakeCall(), mode="single", strategy=None))


class TestHeaders:
    def test_say_what_fell_short(self) -> None:
        shown = headers(
            run_of(
                panel=panel(3, 1, 2), degraded=["quorum", "aggregator"], timings=[("panel", 0.5), ("aggregator", 0.25)]
            )
        )
        assert shown == {
            "x-moa-mode": "fuse",
            "x-moa-degraded": "quorum,aggregator",
            "x-moa-panel": "1/3",
            "server-timing": "panel;dur=500.0, aggregator;dur=250.0",
        }

    def test_are_silent_when_all_is_well(self) -> None:
        assert headers(run_of(mode="single")) == {"x-moa-mode": "single"}


class TestWaiting:
    @pytest.mark.parametrize(
        ("spans", "seconds"),
        [([], 0.0), ([(0, 2)], 2.0), ([(0, 2), (1, 3)], 3.0), ([(0, 1), (2, 3)], 2.0), ([(0, 5), (1, 2)], 5.0)],
    )
    def test_is_the_time_in_which_any_call_was_under_way(
        self, spans: list[tuple[float, float]], seconds: float
    ) -> None:
        assert waiting_seconds(calls(*[FakeCall(started=start, ended=end) for start, end in spans])) == seconds

    @given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 20)), max_size=8))
    def test_is_the_union_of_their_times(self, spans: list[tuple[int, int]]) -> None:
        busy = {second for start, length in spans for second in range(start, start + length)}
        made = [FakeCall(started=start, ended=start + length) for start, length in sorted(spans)]
        assert waiting_seconds(calls(*made)) == len(busy)
