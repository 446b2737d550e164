"""Time a client waits longer because the router is there."""

from __future__ import annotations

import asyncio
import random
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING

from bench.load import closed_loop, connections, open_loop, request
from bench.report import Result, compared, quantile
from bench.scene import TIMED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.load import Connection, Reply
    from bench.scene import Scene

MEMBERS = 3


async def first_token(scene: Scene) -> list[Result]:
    """Streams one after the other: by the router, and by a client that makes the same calls itself.

    That client asks three members at the same time, waits for all of them and then streams the last answer: what its
    user waits is the models' time and nobody else's.
    """
    url, path = scene.upstream.url, f"/{TIMED}/v1/chat/completions"
    whole, stream = (request(url, "constant", path=path, stream=flag) for flag in (False, True))
    fused, passed = (request(scene.router.url, model, stream=True) for model in ("timed", "timer"))
    waits: dict[str, list[float]] = {name: [] for name in ("fused", "by hand", "passthrough", "direct")}
    async with connections(url, MEMBERS) as direct, connections(scene.router.url, 1) as (client,):
        for _ in range(scene.scale.rounds):
            rounds: dict[str, list[float]] = {name: [] for name in waits}
            for _ in range(scene.scale.samples):
                rounds["fused"].append((await client.ask(fused)).first)
                rounds["by hand"].append(await _by_hand(direct, whole, stream))
                rounds["passthrough"].append((await client.ask(passed)).first)
                rounds["direct"].append((await direct[0].ask(stream)).first)
            for name, seconds in rounds.items():
                waits[name].append(median(seconds) * 1e3)
    return [
        _added("added time to first token, fused 3+1", waits["fused"], waits["by hand"]),
        _added("added time to first token, passthrough", waits["passthrough"], waits["direct"]),
    ]


def _added(name: str, router: Sequence[float], without: Sequence[float]) -> Result:
    added = [one - other for one, other in zip(router, without, strict=True)]
    details = {"through the router, ms": median(router), "without it, ms": median(without)}
    return Result(name, median(added), "ms", aim=1.0, rounds=added, details=details)


async def _by_hand(clients: Sequence[Connection], whole: bytes, stream: bytes) -> float:
    begun = asyncio.get_running_loop().time()
    async with asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(client.ask(whole))
    panel = asyncio.get_running_loop().time() - begun
    return panel + (await clients[0].ask(stream)).first


async def half_load(scene: Scene) -> list[Result]:
    """Unstreamed requests at random times, half as many as this machine gets through; the upstream never waits.

    The relay gets as many. How late the client itself was is told too: where that is more than a fraction of the
    latency, the machine was too busy with other things for this measurement.
    """
    scale = scene.scale
    asked = {
        "relay": (scene.relay, request(scene.relay.url, "constant", path="/now/v1/chat/completions")),
        "router": (scene.router, request(scene.router.url, "fused")),
    }
    async with connections(scene.router.url, scale.clients) as clients:
        begun = perf_counter()
        await closed_loop(clients, asked["router"][1], scale.requests)
        rate = 0.5 * scale.requests / (perf_counter() - begun)
    replies: dict[str, list[list[Reply]]] = {name: [] for name in asked}
    for turn in range(scale.rounds):
        for name, (process, ask) in asked.items():
            arrivals = _poisson(rate, scale.load_seconds, seed=turn)
            replies[name].append(await open_loop(process.url, ask, arrivals))
    details = {
        "requests per second": rate,
        "99th percentile, ms": _tail([[reply.total for reply in one] for one in replies["router"]]),
        "99th percentile of the relay, ms": _tail([[reply.total for reply in one] for one in replies["relay"]]),
        "client late, 99th percentile, ms": _tail([[reply.late for reply in one] for one in replies["router"]]),
    }
    waits = {name: [median(reply.total for reply in one) * 1e3 for one in rounds] for name, rounds in replies.items()}
    return [compared("latency of fused 3+1 at half load", "ms", waits["router"], waits["relay"], details=details)]


def _tail(rounds: Sequence[Sequence[float]]) -> float:
    """The 99th percentile of the median round, in milliseconds."""
    return median(quantile(seconds, 0.99) for seconds in rounds) * 1e3


def _poisson(rate: float, seconds: float, seed: int) -> list[float]:
    """Arrival times of a Poisson process: requests of many clients that know nothing of each other."""
    dice, now, arrivals = random.Random(seed), 0.0, []
    while (now := now + dice.expovariate(rate)) < seconds:
        arrivals.append(now)
    return arrivals or [0.0]
