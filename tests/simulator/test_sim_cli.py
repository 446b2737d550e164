"""The command, as a process."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from moa_simulator.__main__ import main


@asynccontextmanager
async def serving(*arguments: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "moa_simulator", "serve", *arguments, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(30):
            line = (await process.stdout.readline()).decode()
        assert line.startswith("moa-sim listening on http://127.0.0.1:")
        yield process, line.split()[-1]
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_it_serves_until_told_to_stop_then_exits_0(tmp_path: Path, number: signal.Signals) -> None:
    file = tmp_path / "sim.yaml"
    file.write_text("rules: [{times: 1, action: {status: 503}}]")
    models = ("--model", "a,tokens=3", "--model", "b", "--config", str(file))
    async with serving(*models) as (process, url), aiohttp.ClientSession(url) as session:
        async with session.get("/v1/models") as response:
            assert [card["id"] for card in (await response.json())["data"]] == ["a", "b"]
        async with session.post("/v1/completions", json={"model": "a", "prompt": "x"}) as response:
            assert response.status == 503
        process.send_signal(number)
        async with asyncio.timeout(30):
            assert await process.wait() == 0


async def test_a_port_in_use_is_told() -> None:
    async with serving() as (_, url):
        port = url.rpartition(":")[2]
        second = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "moa_simulator", "serve", "--port", port), stderr=asyncio.subprocess.PIPE
        )
        async with asyncio.timeout(30):
            _, complaint = await second.communicate()
    assert second.returncode == 1
    assert complaint.decode().startswith(f"moa-sim cannot listen on 127.0.0.1:{port}: ")


def test_a_wrong_setting_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--model", "a,ttft=soon"]) == 2
    assert "--model a: ttft: Input should be a valid number" in capsys.readouterr().err
    assert main(["serve", "--model", "a", "--model", "a"]) == 2
    assert "two models are named 'a'" in capsys.readouterr().err
