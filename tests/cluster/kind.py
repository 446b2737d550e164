"""Kubernetes in containers, by kind, where a container engine runs."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import TYPE_CHECKING

from tests.cluster.errors import CannotProvide, ClusterError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.cluster.state import State

_PROBE_DEADLINE = 20.0
_START_DEADLINE = 600.0
_STOP_DEADLINE = 120.0
_LOAD_DEADLINE = 600.0
_ENGINES = ("docker", "podman", "nerdctl")


class KindProvider:
    """The `kind` on PATH with whichever engine answers."""

    def unavailable(self) -> str | None:
        """Why this machine cannot; None if it can."""
        if shutil.which("kind") is None:
            return "there is no kind on PATH"
        if not any(_answers(engine) for engine in _ENGINES):
            return f"kind is here, and no container engine answers ({', '.join(_ENGINES)})"
        return None

    def prepare(self, node_count: int) -> None:
        """Refuse what kind cannot be asked for.

        Raises:
            CannotProvide: Always says `unavailable`'s reason.
        """
        reason = self.unavailable()
        if reason is not None:
            raise CannotProvide(reason)

    def start(self, state: State) -> None:
        """Create the cluster and wait until its node is ready.

        Raises:
            ClusterError: kind refused; says what it said.
        """
        try:
            spec = state.spec()
            config = _config(spec.nodes if spec else 0)
            _kind(_START_DEADLINE, "create", "cluster", *_named(state), "--wait=300s", "--config=-", given=config)
        except ClusterError:
            self.stop(state)
            raise

    def running(self, state: State) -> bool:
        """Whether kind knows the cluster."""
        return f"moa-{state.name}" in _kind(_PROBE_DEADLINE, "get", "clusters").split()

    def stop(self, state: State) -> None:
        """Delete the cluster.

        Raises:
            ClusterError: kind refused; says what it said.
        """
        _kind(_STOP_DEADLINE, "delete", "cluster", *_named(state))
        state.remove()

    def load(self, state: State, archives: Sequence[Path]) -> None:
        """Import images on every node.

        Raises:
            ClusterError: kind refused; says what it said.
        """
        for archive in archives:
            _kind(_LOAD_DEADLINE, "load", "image-archive", str(archive), f"--name=moa-{state.name}")


def _named(state: State) -> tuple[str, str]:
    return (f"--name=moa-{state.name}", f"--kubeconfig={state.kubeconfig}")


def _answers(engine: str) -> bool:
    program = shutil.which(engine)
    if program is None:
        return False
    try:
        done = subprocess.run([program, "info"], capture_output=True, timeout=_PROBE_DEADLINE, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _config(nodes: int) -> str:
    workers = [{"role": "worker"}] * nodes if nodes > 1 else []
    return json.dumps(
        {"kind": "Cluster", "apiVersion": "kind.x-k8s.io/v1alpha4", "nodes": [{"role": "control-plane"}, *workers]}
    )


def _kind(wait: float, *arguments: str, given: str = "") -> str:
    command = ["kind", *arguments]
    try:
        done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=wait, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ClusterError(f"kind {' '.join(arguments[:2])}: {error}") from error
    if done.returncode:
        raise ClusterError(f"kind {' '.join(arguments[:2])} failed: {done.stderr.strip()}")
    return done.stdout
