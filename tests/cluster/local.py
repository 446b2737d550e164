"""A control plane on this machine, from our own binaries, under a supervisor of its own. Needs no root."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.cluster import binaries, nodes
from tests.cluster.control import Request, ask
from tests.cluster.errors import CannotProvide, ClusterError
from tests.cluster.node_pool import remove_leftovers
from tests.cluster.paths import REPOSITORY
from tests.cluster.supervisor import READY, START_DEADLINE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.cluster.state import State

_LAUNCH_DEADLINE = 30.0
_STOP_DEADLINE = 30.0
_LOAD_DEADLINE = 300.0
_KILL_DEADLINE = 5.0
_LONGEST_ANNOUNCEMENT = 64 * 1024


class LocalProvider:
    """Kubernetes compiled from its Go modules."""

    def unavailable(self) -> str | None:
        """Why this machine cannot; None if it can."""
        if sys.platform != "linux":
            return f"a cluster of our own needs Linux, and this is {sys.platform}"
        return binaries.unavailable()

    def prepare(self, node_count: int) -> None:
        """Compile what is missing.

        Raises:
            CannotProvide: It does not compile here, or nodes are asked for where none can run.
        """
        reason = nodes.unavailable() if node_count else None
        if reason is not None:
            raise CannotProvide(reason)
        binaries.ensure([*binaries.CONTROL_PLANE, *(binaries.NODES if node_count else ())])

    def start(self, state: State) -> None:
        """Start the supervisor and wait until the cluster works.

        Raises:
            ClusterError: It does not; says what the reason was. Nothing of it is left.
        """
        reader, writer = os.pipe()
        try:
            with state.log("supervisor").open("w+b") as log:
                command = [sys.executable, "-m", "tests.cluster", "supervise", str(state.directory), str(writer)]
                try:
                    subprocess.run(
                        command,
                        cwd=REPOSITORY,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        pass_fds=(writer,),
                        start_new_session=True,
                        timeout=_LAUNCH_DEADLINE,
                        check=False,
                    )
                finally:
                    os.close(writer)
                said = _read(reader, START_DEADLINE)
                if said != READY:
                    log.seek(0)
                    said = said or log.read().decode(errors="replace")
                    self.stop(state)
                    raise ClusterError(f"cluster {state.name} did not start: {said or 'no reason was given'}")
        finally:
            os.close(reader)

    def running(self, state: State) -> bool:
        """Whether its supervisor lives."""
        return state.supervisor() is not None

    def stop(self, state: State) -> None:
        """End the supervisor and with it everything else.

        Raises:
            ClusterError: It cannot be killed.
        """
        supervisor = state.supervisor()
        if supervisor is not None:
            gone = supervisor.end(signal.SIGTERM, _STOP_DEADLINE) or supervisor.end(signal.SIGKILL, _KILL_DEADLINE)
            if not gone:
                raise ClusterError(f"the supervisor of cluster {state.name} (pid {supervisor.pid}) does not die")
        remove_leftovers(state)
        state.remove()

    def load(self, state: State, archives: Sequence[Path]) -> None:
        """Import images on every node.

        Raises:
            ClusterError: There are no nodes, or containerd refused; says what it said.
        """
        processes = ask(state.control_socket, Request(verb="report")).processes
        inits = [_only_child(process.pid) for name, process in processes.items() if nodes.is_component(name)]
        if not inits:
            raise ClusterError(f"cluster {state.name} has no nodes to load images on")
        for init in inits:
            for archive in archives:
                # The node has its own mounts, and everything else of the machine's files.
                enter = ["nsenter", f"--target={init}", "--mount"]
                command = [*enter, "ctr", "--namespace=k8s.io", "images", "import", str(archive.resolve())]
                done = subprocess.run(command, capture_output=True, text=True, timeout=_LOAD_DEADLINE, check=False)
                if done.returncode:
                    raise ClusterError(f"{archive}: {done.stderr.strip()}")


def _only_child(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()[0])


def _read(descriptor: int, wait: float) -> str:
    deadline = time.monotonic() + wait
    said = b""
    while len(said) < _LONGEST_ANNOUNCEMENT:
        readable, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
        if not readable:
            return f"it took more than {wait:.0f} s"
        chunk = os.read(descriptor, _LONGEST_ANNOUNCEMENT)
        if not chunk:
            break
        said += chunk
    return said.decode(errors="replace")
