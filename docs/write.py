"""Writes the references in this folder from the code: `make docs`."""

from pathlib import Path

from moa_api import reference as profile
from moa_router.telemetry import reference as metrics

HERE = Path(__file__).parent

for name, render in {"profile.md": profile.render, "metrics.md": metrics.render}.items():
    (HERE / name).write_text(render())
