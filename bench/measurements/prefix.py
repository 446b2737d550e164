"""What panel and aggregator share of the prompt: tokens the aggregator's upstream finds in its prefix cache."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

import orjson

from bench.load import connections, request
from bench.processes import Process
from bench.report import Result
from bench.scene import profile, router

if TYPE_CHECKING:
    from bench.scene import Scene

MODEL = "simulated"
TURNS = 12
#: Tokens of a candidate; they are new to the aggregator whatever is shared.
ANSWER_TOKENS = 60


async def measure(scene: Scene) -> list[Result]:
    """A long conversation, fused by a simulated vLLM with automatic prefix caching, cold at each round."""
    shares, details = [], {}
    settings = f"{MODEL},tokens={ANSWER_TOKENS},tokens_spread=0"
    for _ in range(scene.scale.rounds):
        async with (
            Process("moa_simulator", "serve", "--port", "0", "--model", settings) as simulator,
            router(profile("shared", {"sim": f"{simulator.url}/v1"}, model=MODEL, members=["sim"] * 3)) as fusing,
            connections(fusing.url, 1) as (client,),
        ):
            answer = orjson.loads((await client.ask(request(fusing.url, "shared", turns=TURNS))).body)
            usage = answer["moa"]["stages"][-1]["usage"]
            cached, prompt = usage["prompt_tokens_details"]["cached_tokens"], usage["prompt_tokens"]
            shares.append(100 * cached / prompt)
            details = {"tokens of the aggregator's prompt": float(prompt), "of them found in the cache": float(cached)}
    return [Result("aggregator's prompt found in prefix cache", median(shares), "%", rounds=shares, details=details)]
