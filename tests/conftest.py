"""What every room's tests share: the Kubernetes fixtures, and a last word on what was not run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from _pytest.terminal import TerminalReporter

pytest_plugins = ["tests.cluster.fixtures"]

# how long an example takes says something about the machine, nothing about the code
settings.register_profile("moa", deadline=None)
settings.load_profile("moa")


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    """Say in the last lines what this machine could not run, and why."""
    reasons: dict[str, int] = {}
    for report in terminalreporter.getreports("skipped"):
        text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reason = text.removeprefix("Skipped: ")
        reasons[reason] = reasons.get(reason, 0) + 1
    if reasons:
        terminalreporter.section("not run on this machine")
        for reason, count in sorted(reasons.items()):
            terminalreporter.write_line(f"{count} tests: {reason}")
