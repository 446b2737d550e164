"""The processes of a run: what is measured, what stands behind it, and what each of them uses."""

from __future__ import annotations

import asyncio
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

READY_SECONDS = 20.0
STOP_SECONDS = 5.0

_LISTENS = re.compile(rb"listening on (http://\S+)")
_ROOT = Path(__file__).resolve().parent.parent


class Process:
    """A Python program that prints `listening on URL` when it is ready; an async context manager.

    Args:
        module: the module to run.
        arguments: its command line.

    Attributes:
        url: where it listens.
    """

    def __init__(self, module: str, *arguments: str) -> None:
        self.url = ""
        self._module = module
        self._arguments = arguments
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", self._module, *self._arguments, stdout=asyncio.subprocess.PIPE, cwd=_ROOT
        )
        try:
            async with asyncio.timeout(READY_SECONDS):
                self.url = await self._ready(self._process)
        except BaseException:
            await self._stop(self._process)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            await self._stop(self._process)

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    def cpu_seconds(self) -> float:
        """CPU time of all its threads so far, user and system together.

        Read from the process' own CPU clock, whose id clock_getcpuclockid(3) makes of a process id as below: it counts
        in nanoseconds where `/proc/PID/stat` counts in hundredths of a second.
        """
        return time.clock_gettime(~self.pid << 3 | 2)

    def resident_bytes(self) -> int:
        """Memory it holds now."""
        return self._status("VmRSS")

    def peak_bytes(self) -> int:
        """The most memory it has held so far."""
        return self._status("VmHWM")

    async def _ready(self, process: asyncio.subprocess.Process) -> str:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            found = _LISTENS.search(line)
            if found:
                return found[1].decode()
        raise RuntimeError(f"{self._module} ended with status {await process.wait()} before it was ready")

    async def _stop(self, process: asyncio.subprocess.Process) -> None:
        if process.returncode is not None:
            return
        process.terminate()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    def _status(self, field: str) -> int:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
        raise RuntimeError(f"the kernel does not tell {field}")
