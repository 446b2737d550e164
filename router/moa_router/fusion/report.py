"""What a request cost and what happened to it, as the client is told."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from moa_router.upstream.usage import Usage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moa_router.fusion.run import Run
    from moa_router.upstream.client import Call


def usage_body(usage: Usage, cost: Decimal | None) -> dict[str, object]:
    """Token counts as OpenAI's `usage` object, with `cost` where prices are known."""
    body: dict[str, object] = {
        "prompt_tokens": usage.input,
        "completion_tokens": usage.output,
        "total_tokens": usage.input + usage.output,
        "prompt_tokens_details": {"cached_tokens": usage.cached_input},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
    }
    if cost is not None:
        body["cost"] = float(cost)
    return body


def total_usage(calls: Sequence[Call]) -> tuple[Usage, Decimal | None]:
    """The sum over all calls; the cost only if every upstream that was asked has prices."""
    total, cost = Usage(), Decimal(0)
    priced = bool(calls)
    for call in calls:
        if call.usage is not None:
            total.add(call.usage)
        if call.cost is None:
            priced = False
        else:
            cost += call.cost
    return total, cost if priced else None


def moa_body(run: Run) -> dict[str, object]:
    """The `moa` object of an answer."""
    body: dict[str, object] = {
        "profile": run.plan.name,
        "mode": run.mode,
        "strategy": run.strategy,
        "degraded": run.degraded,
    }
    if run.panel is not None:
        panel = run.panel
        body["panel"] = {"asked": panel.asked, "answered": panel.answered, "quorum": panel.quorum}
    body["calls"] = len(run.calls)
    body["stages"] = [_stage(call) for call in run.calls]
    return body


def headers(run: Run) -> dict[str, str]:
    """Response headers that say what the `moa` object says, for those who look at headers only."""
    shown: dict[str, str] = {"x-moa-mode": run.mode}
    if run.degraded:
        shown["x-moa-degraded"] = ",".join(run.degraded)
    if run.panel is not None:
        shown["x-moa-panel"] = f"{run.panel.answered}/{run.panel.asked}"
    if run.timings:
        shown["server-timing"] = ", ".join(f"{name};dur={seconds * 1000:.1f}" for name, seconds in run.timings)
    return shown


def waiting_seconds(calls: Sequence[Call]) -> float:
    """How long at least one call was under way: the length of the union of their times."""
    total = end = 0.0
    for call in calls:
        if call.ended > end:
            total += call.ended - max(call.started, end)
            end = call.ended
    return total


def _stage(call: Call) -> dict[str, object]:
    usage = call.usage or Usage()
    upstream = call.site.upstream
    stage: dict[str, object] = {
        "stage": call.site.stage,
        "layer": call.layer,
        "upstream": upstream.name,
        "model": upstream.model,
        "outcome": call.outcome,
        # round() on a float goes by way of its decimal text, and costs as much as all the rest of this object
        "duration_ms": int((call.ended - call.started) * 10_000 + 0.5) / 10,
        "usage": usage_body(usage, call.cost),
    }
    if usage.estimated:
        stage["estimated"] = True
    return stage
