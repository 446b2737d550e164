"""The table and the remarks under an answer."""

from typing import Any

import pytest
from pydantic import ValidationError

from moa_router.demo.report import HEADINGS, Report, remarks, rows


def stage(name: str, outcome: str, tokens: tuple[int, int, int], milliseconds: float, **more: Any) -> dict[str, Any]:
    prompt, cached, completion = tokens
    usage = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }
    return {"stage": name, "outcome": outcome, "duration_ms": milliseconds, "usage": usage, **more}


def report(*stages: dict[str, Any], degraded: tuple[str, ...] = ()) -> Report:
    panel = {"asked": 3, "answered": 2, "quorum": 2}
    return Report.model_validate({"profile": "demo", "degraded": degraded, "panel": panel, "stages": stages})


FUSED = report(
    stage("panel", "ok", (40, 0, 20), 1500.0),
    stage("panel", "cancelled", (0, 0, 31), 2100.0, estimated=True),
    stage("panel", "ok", (40, 16, 30), 2000.0),
    stage("aggregator", "ok", (300, 32, 50), 3000.0),
)


def test_a_stage_is_a_row_and_all_of_them_are_the_last() -> None:
    assert rows(FUSED, 5.25) == [
        ("panel", "3", "~80", "16", "~81", "2.1 s", "2 ok, 1 cancelled"),
        ("aggregator", "1", "300", "32", "50", "3.0 s", "1 ok"),
        ("all", "4", "~380", "48", "~131", "5.2 s", "ok"),
    ]
    assert all(len(row) == len(HEADINGS) for row in rows(FUSED, 5.25))


def test_what_was_shared_and_cancelled_is_said() -> None:
    shared, cancelled = remarks(FUSED)
    assert shared.startswith("Shared: 32 of the aggregator's 300 prompt tokens")
    assert cancelled == "Cancelled: 1 of the panel's calls, after about 31 tokens; 2 of 3 candidates were enough."


def test_nothing_shared_and_nothing_cancelled_is_said_too() -> None:
    quiet = report(stage("panel", "ok", (40, 0, 20), 1.0), stage("aggregator", "ok", (300, 0, 50), 1.0))
    assert [remark.split(".")[0] for remark in remarks(quiet)] == ["Shared: nothing", "Cancelled: nothing"]


def test_an_aggregator_that_failed_shared_nothing_worth_telling() -> None:
    failed = report(stage("aggregator", "server_error", (0, 0, 0), 1.0), degraded=("aggregator",))
    *_, cancelled, degraded = remarks(failed)
    assert len(remarks(failed)) == 2
    assert cancelled.startswith("Cancelled: nothing")
    assert degraded.startswith("Degraded: aggregator.")
    assert rows(failed, 1.0)[-1][-1] == "degraded"


@pytest.mark.parametrize("moa", [None, {}, {"degraded": [], "stages": [{"stage": "panel"}]}])
def test_something_else_is_no_report(moa: object) -> None:
    with pytest.raises(ValidationError):
        Report.model_validate(moa)
