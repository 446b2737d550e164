"""CPU time per event of a stream that is relayed, one event at a time."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from bench.load import BadReplyError, Connection, connections, request
from bench.report import Result, compared
from bench.scene import PACE_MS, events_of, paced
from bench.upstream import TOKEN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.scene import Scene

STREAMS = 4


async def measure(scene: Scene) -> list[Result]:
    """Paced streams side by side, through the relay and through the router (passthrough) in turns."""
    events = events_of(scene.scale)
    asked = {
        "relay": (
            scene.relay,
            request(scene.relay.url, "constant", stream=True, path=f"/{paced(scene.scale)}/v1/chat/completions"),
        ),
        "router": (scene.router, request(scene.router.url, "pacer", stream=True)),
    }
    costs: dict[str, list[float]] = {name: [] for name in asked}
    async with AsyncExitStack() as stack:
        clients = {
            name: await stack.enter_async_context(connections(process.url, STREAMS))
            for name, (process, _) in asked.items()
        }
        for _ in range(scene.scale.rounds):
            for name, (process, ask) in asked.items():
                before = process.cpu_seconds()
                await _streams(clients[name], ask, events)
                costs[name].append((process.cpu_seconds() - before) / (STREAMS * events) * 1e6)
    return [compared("CPU of a relayed stream event", "us", costs["router"], costs["relay"], aim=0.7)]


async def _streams(clients: Sequence[Connection], ask: bytes, events: int) -> None:
    """Run streams that begin a fraction of their pace apart, so that their events do not meet."""
    async with asyncio.TaskGroup() as group:
        for number, client in enumerate(clients):
            group.create_task(_stream(client, ask, events, delay=number * PACE_MS / 1000 / STREAMS))


async def _stream(client: Connection, ask: bytes, events: int, delay: float) -> None:
    await asyncio.sleep(delay)
    reply = await client.ask(ask)
    if reply.body.count(TOKEN) != events:
        raise BadReplyError(f"{reply.body.count(TOKEN)} of {events} events arrived")
