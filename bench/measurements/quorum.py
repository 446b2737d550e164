"""What one slow member costs, with a quorum and without."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from bench.load import connections, request
from bench.report import Result, compared

if TYPE_CHECKING:
    from bench.scene import Scene


async def measure(scene: Scene) -> list[Result]:
    """Two members answer in 30 ms and one in 300: quorum 2 of 3 without grace, beside waiting for everybody."""
    asked = {name: request(scene.router.url, name) for name in ("decided", "patient")}
    waits: dict[str, list[float]] = {name: [] for name in asked}
    async with connections(scene.router.url, 1) as (client,):
        for _ in range(scene.scale.rounds):
            for name, ask in asked.items():
                seconds = [(await client.ask(ask)).total for _ in range(max(1, scene.scale.samples // 10))]
                waits[name].append(median(seconds) * 1e3)
    return [
        compared(
            "one member of three 10x slower, quorum 2", "ms", waits["decided"], waits["patient"], against="waiting"
        )
    ]
