"""What an answer tells of its making: the `moa` object of the wire, as rows of a table and a few sentences."""

from __future__ import annotations

from collections.abc import Sequence  # noqa: TC003 - pydantic resolves annotations when it runs

from pydantic import BaseModel

HEADINGS = ("stage", "calls", "tokens in", "cached", "out", "time", "outcome")


class PromptDetails(BaseModel):
    """Details of the tokens of a prompt."""

    cached_tokens: int = 0


class CallUsage(BaseModel):
    """Tokens of one call."""

    prompt_tokens: int
    completion_tokens: int
    prompt_tokens_details: PromptDetails = PromptDetails()


class CallReport(BaseModel):
    """One call that was made for a request.

    Attributes:
        stage: the stage it was made for.
        outcome: how it ended: `ok`, `cancelled`, …
        duration_ms: how long it took, in milliseconds.
        usage: its tokens.
        estimated: whether they were counted by what arrived, because the upstream reported nothing.
    """

    stage: str
    outcome: str
    duration_ms: float
    usage: CallUsage
    estimated: bool = False


class PanelReport(BaseModel):
    """How many candidates the panel was asked for, and how many came."""

    asked: int = 0
    answered: int = 0


class Report(BaseModel):
    """The `moa` object of an answer, as far as the demo shows it."""

    degraded: Sequence[str]
    panel: PanelReport = PanelReport()
    stages: Sequence[CallReport]


def rows(report: Report, seconds: float) -> list[tuple[str, ...]]:
    """A row for each stage and one for all, in the order of `HEADINGS`.

    Args:
        report: what was done.
        seconds: how long the answer took, as the client saw it.
    """
    table = []
    for stage in dict.fromkeys(call.stage for call in report.stages):
        calls = [call for call in report.stages if call.stage == stage]
        # calls of a stage run side by side
        longest = max(call.duration_ms for call in calls) / 1000
        table.append(_row(stage, calls, longest, _outcomes(calls)))
    return [*table, _row("all", report.stages, seconds, "degraded" if report.degraded else "ok")]


def remarks(report: Report) -> list[str]:
    """What is worth saying in words: what was shared, and what was cancelled."""
    said = [_shared(call) for call in report.stages if call.stage == "aggregator" and call.outcome == "ok"]
    said.append(_cancelled(report))
    if report.degraded:
        said.append(f"Degraded: {', '.join(report.degraded)}. The answer falls short of what the profile promises.")
    return said


def _shared(call: CallReport) -> str:
    prompt, cached = call.usage.prompt_tokens, call.usage.prompt_tokens_details.cached_tokens
    if not cached:
        return f"Shared: nothing. The aggregator's {prompt} prompt tokens were all read anew."
    return (
        f"Shared: {cached} of the aggregator's {prompt} prompt tokens came out of the upstream's prefix cache; "
        "the panel had read the same conversation."
    )


def _cancelled(report: Report) -> str:
    cancelled = [call for call in report.stages if call.outcome == "cancelled"]
    if not cancelled:
        return "Cancelled: nothing. Every call had ended when there were candidates enough."
    tokens = sum(call.usage.completion_tokens for call in cancelled)
    about = "about " if any(call.estimated for call in cancelled) else ""
    return (
        f"Cancelled: {len(cancelled)} of the panel's calls, after {about}{tokens} tokens; "
        f"{report.panel.answered} of {report.panel.asked} candidates were enough."
    )


def _row(stage: str, calls: Sequence[CallReport], seconds: float, outcome: str) -> tuple[str, ...]:
    mark = "~" if any(call.estimated for call in calls) else ""
    return (
        stage,
        str(len(calls)),
        f"{mark}{sum(call.usage.prompt_tokens for call in calls)}",
        str(sum(call.usage.prompt_tokens_details.cached_tokens for call in calls)),
        f"{mark}{sum(call.usage.completion_tokens for call in calls)}",
        f"{seconds:.1f} s",
        outcome,
    )


def _outcomes(calls: Sequence[CallReport]) -> str:
    outcomes = [call.outcome for call in calls]
    shown = sorted(set(outcomes), key=lambda outcome: (outcome != "ok", outcome))
    return ", ".join(f"{outcomes.count(outcome)} {outcome}" for outcome in shown)
