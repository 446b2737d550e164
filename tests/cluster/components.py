"""Children of the supervisor: started in process groups of their own, dead when it is."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.cluster.errors import ClusterError
from tests.cluster.processes import die_with_parent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.cluster.state import State

_REAP_DEADLINE = 10.0


class Components:
    """The running programs of one cluster, by name."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._running: dict[str, asyncio.subprocess.Process] = {}

    async def start(self, name: str, command: Sequence[str]) -> None:
        """Run a program; its output is appended to its log.

        Raises:
            ClusterError: It runs already.
        """
        if self.alive(name):
            raise ClusterError(f"{name} is running already")
        with self._state.log(name).open("ab") as log:
            self._running[name] = await asyncio.create_subprocess_exec(
                *command,
                cwd=self._state.directory,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
                preexec_fn=die_with_parent,  # safe here: the supervisor has one thread
            )

    async def stop(self, name: str) -> None:
        """Kill a program and wait until it has gone; nothing happens if it had.

        Killed and not asked: what a cluster holds is thrown away with it, and a fault test wants a sudden end.

        Raises:
            TimeoutError: It did not die.
        """
        process = self._running.pop(name, None)
        if process is None:
            return
        if process.returncode is None:
            process.kill()
        async with asyncio.timeout(_REAP_DEADLINE):
            await process.wait()

    async def stop_all(self) -> None:
        """Kill everything, in the reverse order of starting."""
        for name in reversed(list(self._running)):
            await self.stop(name)

    async def ended(self, name: str) -> int:
        """Wait for a program's own end; its exit status."""
        return await self._running[name].wait()

    def alive(self, name: str) -> bool:
        """Whether a program runs."""
        process = self._running.get(name)
        return process is not None and process.returncode is None

    def pids(self) -> dict[str, int]:
        """The programs that run, and their processes."""
        return {name: process.pid for name, process in self._running.items() if process.returncode is None}
