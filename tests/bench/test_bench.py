"""Every measurement runs and reports in the promised shape; nothing is said about times."""

import asyncio
import math
import os
import sys
from pathlib import Path

import orjson
import pytest
from bench import machine
from bench.load import BadReplyError, connections, request
from bench.measurements import MEASUREMENTS
from bench.processes import Process
from bench.report import compared, document, quantile, table
from bench.scene import Scale, profile, router, scene

TINY = Scale(rounds=1, requests=4, clients=2, stream_seconds=0.08, samples=1, load_seconds=0.05, crowd=3, hold=0.05)
COMPARED = {"cpu": 2, "streams": 1, "first-token": 0, "half-load": 1, "memory": 1, "quorum": 1, "prefix": 0}


async def test_every_measurement_reports() -> None:
    described = machine.describe()
    async with scene(TINY) as ready:
        for name, measure in MEASUREMENTS.items():
            results = await measure(ready)
            assert results, name
            assert sum(result.ratio is not None for result in results) == COMPARED[name]
            assert all(math.isfinite(result.value) for result in results)
            assert all(result.relay is None or result.relay > 0 for result in results)
            written = orjson.loads(orjson.dumps(document(described, results, 1.0)))
            assert [one["name"] for one in written["results"]] == [result.name for result in results]
            assert all(result.name in table(described, results) for result in results)
            if name == "prefix":
                assert 50 < results[0].value < 100, "panel and aggregator share the conversation, and no more"


async def test_what_went_wrong_is_not_measured() -> None:
    async with Process("bench.upstream") as upstream:
        gone = upstream.url
    upstreams = {"member": f"{gone}/now/v1", "writer": f"{gone}/now/v1"}
    async with router(profile("broken", upstreams)) as process, connections(process.url, 1) as (client,):
        with pytest.raises(BadReplyError, match="502"):
            await client.ask(request(process.url, "broken"))


async def test_processes_end_with_their_scene() -> None:
    pids: list[int] = []

    async def interrupted() -> None:
        async with scene(TINY) as ready:
            pids.extend(process.pid for process in (ready.upstream, ready.relay, ready.router))
            raise KeyError("stop here")

    with pytest.raises(KeyError):
        await interrupted()
    assert len(pids) == 3
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


async def test_a_process_that_does_not_start_is_told_of() -> None:
    with pytest.raises(RuntimeError, match="ended with status"):
        async with Process("bench.relay"):
            pass


async def test_cpu_time_is_the_processes_own() -> None:
    async with Process("bench.upstream") as upstream:
        before = upstream.cpu_seconds()
        async with connections(upstream.url, 1) as (client,):
            for _ in range(50):
                await client.ask(request(upstream.url, "constant", path="/now/v1/chat/completions"))
        assert upstream.cpu_seconds() > before
        assert upstream.peak_bytes() >= upstream.resident_bytes() > 0


async def test_the_command_line() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench", "--help", stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2],
        env={**os.environ, "COLUMNS": "100"},
    )  # fmt: skip
    output, _ = await process.communicate()
    assert process.returncode == 0
    assert all(name in output.decode() for name in MEASUREMENTS)


def test_ratios_are_taken_round_by_round() -> None:
    result = compared("a", "us", [10, 40, 30], [10, 20, 10], aim=1.5)
    assert (result.value, result.relay, result.ratio) == (30, 10, 2)
    row = table({}, [result]).splitlines()[-1]
    assert "2.00" in row
    assert "<= 1.5" in row


def test_quantile() -> None:
    assert quantile(range(100), 0.99) == 99
    assert quantile([3.0], 0.99) == 3.0
