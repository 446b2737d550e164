"""Children of the supervisor: started in process groups of their own, dead when it is."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.cluster.errors import ClusterError
from tests.cluster.processes import die_with_parent

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

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

    async def until(self, name: str, ready: Coroutine[None, None, None]) -> None:
        """Wait for `ready`, as long as the program lives.

        Raises:
            ClusterError: The program ended, or `ready` raised `TimeoutError`; with the end of its log.
        """
        waiting = asyncio.create_task(ready, name=f"{name} ready")
        ending = asyncio.create_task(self._running[name].wait(), name=f"{name} ends")
        try:
            await asyncio.wait({waiting, ending}, return_when=asyncio.FIRST_COMPLETED)
            if ending.done():
                raise ClusterError(f"{name} ended with status {ending.result()}:\n{self._state.log_tail(name)}")
            await waiting
        except TimeoutError as error:
            reason = str(error) or "it was not ready in time"
            raise ClusterError(f"{name}: {reason}\n{self._state.log_tail(name)}") from error
        finally:
            waiting.cancel()
            ending.cancel()
            await asyncio.gather(waiting, ending, return_exceptions=True)

    def log_tail(self, name: str) -> str:
        """The last that a program has said."""
        return self._state.log_tail(name)

    def alive(self, name: str) -> bool:
        """Whether a program runs."""
        process = self._running.get(name)
        return process is not None and process.returncode is None

    def pids(self) -> dict[str, int]:
        """The programs that run, and their processes."""
        return {name: process.pid for name, process in self._running.items() if process.returncode is None}
