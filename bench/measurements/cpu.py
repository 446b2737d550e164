"""CPU time of the router's process per request: the figure that decides how many routers one needs."""

from __future__ import annotations

from collections import defaultdict
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from bench.load import closed_loop, connections, request
from bench.report import Result, compared

if TYPE_CHECKING:
    from bench.processes import Process
    from bench.scene import Scene

WARM_UP = 200


async def measure(scene: Scene) -> list[Result]:
    """Unstreamed requests by several clients, each asking again at once; relay, passthrough and fusion in turns."""
    scale = scene.scale
    asked: dict[str, tuple[Process, bytes]] = {
        "relay": (scene.relay, request(scene.relay.url, "constant", path="/now/v1/chat/completions")),
        "passthrough": (scene.router, request(scene.router.url, "one")),
        "fused": (scene.router, request(scene.router.url, "fused")),
    }
    costs: dict[str, list[float]] = defaultdict(list)
    async with AsyncExitStack() as stack:
        clients = {
            name: await stack.enter_async_context(connections(process.url, scale.clients))
            for name, (process, _) in asked.items()
        }
        for name, (_, ask) in asked.items():
            await closed_loop(clients[name], ask, min(WARM_UP, scale.requests))
        for _ in range(scale.rounds):
            for name, (process, ask) in asked.items():
                before = process.cpu_seconds()
                await closed_loop(clients[name], ask, scale.requests)
                costs[name].append((process.cpu_seconds() - before) / scale.requests * 1e6)
    relay = costs["relay"]
    return [
        compared("CPU of a passthrough request", "us", costs["passthrough"], relay, aim=0.5),
        compared("CPU of a fused 3+1 request", "us", costs["fused"], relay, aim=1.5),
    ]
