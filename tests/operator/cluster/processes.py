"""The operator as its own process, as it runs in a pod."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

START_SECONDS = 30.0
STOP_SECONDS = 20.0
IMAGE = "moa-router:test"


@dataclass(frozen=True)
class Process:
    """A running operator."""

    process: asyncio.subprocess.Process
    port: int
    log: Path

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Tells it to stop and waits until it has; returns its exit status."""
        if self.process.returncode is None:
            self.process.send_signal(number)
        async with asyncio.timeout(STOP_SECONDS):
            return await self.process.wait()

    async def admin(self, path: str) -> tuple[int, str]:
        """What the admin port answers."""
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{self.port}{path}") as response:
            return response.status, await response.text()

    async def samples(self, name: str) -> dict[tuple[str, ...], float]:
        """The samples of a metric, by the values of its labels in the order of their names."""
        _, text = await self.admin("/metrics")
        return {
            tuple(value for _, value in sorted(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name
        }

    async def total(self, name: str) -> float:
        """The sum of a metric."""
        return sum((await self.samples(name)).values())


@contextlib.asynccontextmanager
async def running(kubeconfig: Path, log: Path, *arguments: str) -> AsyncIterator[Process]:
    """Runs an operator while the context is open; its log is part of the error when it does not come up."""
    command = [sys.executable, "-m", "moa_operator", "run", "--admin-host=127.0.0.1", "--admin-port=0"]
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *command,
            f"--router-image={IMAGE}",
            "--log-level=debug",
            *arguments,
            env={**os.environ, "KUBECONFIG": str(kubeconfig), "PYTHONWARNINGS": "default"},
            stdout=asyncio.subprocess.PIPE,
            stderr=output,
        )
    try:
        assert process.stdout is not None
        line = await asyncio.wait_for(process.stdout.readline(), START_SECONDS)
        assert line, await asyncio.to_thread(log.read_text)
        yield Process(process, int(line.split()[-1]), log)
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), STOP_SECONDS)
            except TimeoutError:
                process.kill()
                await process.wait()
