"""Memory that requests hold while they wait for models."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from bench.load import connections, request
from bench.processes import Process
from bench.report import Result
from bench.scene import profile, router

if TYPE_CHECKING:
    from bench.scene import Scene


async def measure(scene: Scene) -> list[Result]:
    """As many fused requests at the same time, in a router that has served nothing before; the same for the relay.

    The relay waits as long in its one call as the router does in panel and aggregator.
    """
    crowd, hold = scene.scale.crowd, scene.scale.hold * 1000
    upstreams = dict.fromkeys(("one", "two", "three", "writer"), f"{scene.upstream.url}/wait-{hold:.0f}/v1")
    async with router(profile("crowded", upstreams, quorum="100%")) as fusing:
        grown, empty, peak = await _grow(fusing, request(fusing.url, "crowded"), crowd)
    async with Process("bench.relay", scene.upstream.url) as relay:
        ask = request(relay.url, "constant", path=f"/wait-{2 * hold:.0f}/v1/chat/completions")
        relay_grown, *_ = await _grow(relay, ask, crowd)
    details = {"requests at the same time": float(crowd), "before the first, MiB": empty, "at the most, MiB": peak}
    return [Result("memory of a fused 3+1 request", grown, "KiB", relay_grown, grown / relay_grown, details=details)]


async def _grow(process: Process, ask: bytes, crowd: int) -> tuple[float, float, float]:
    """KiB that each request adds at the most, and MiB of the process before and at the peak."""
    async with connections(process.url, crowd) as clients:
        empty = process.resident_bytes()
        async with asyncio.TaskGroup() as group:
            for client in clients:
                group.create_task(client.ask(ask))
        peak = process.peak_bytes()
    return (peak - empty) / crowd / 2**10, empty / 2**20, peak / 2**20
