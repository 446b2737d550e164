"""Clusters by name: whichever this machine can give, shared by those who hold it, gone with the last of them."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

from tests.cluster import binaries
from tests.cluster.control import Process, Request, ask
from tests.cluster.errors import CannotProvide
from tests.cluster.kind import KindProvider
from tests.cluster.local import LocalProvider
from tests.cluster.locking import exclusive
from tests.cluster.network import MAX_NODES
from tests.cluster.paths import runtime_root
from tests.cluster.state import Spec, State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.cluster.processes import Identity

Choice: TypeAlias = Literal["auto", "kubeconfig", "kind", "local"]

_LOCK_DEADLINE = 900.0


class Provider(Protocol):
    """A way to run a cluster on this machine."""

    def unavailable(self) -> str | None:
        """Why this machine cannot; None if it can."""
        ...

    def prepare(self, node_count: int) -> None:
        """Refuse what cannot be, and do what takes long once per machine."""
        ...

    def start(self, state: State) -> None:
        """Bring the cluster up, or leave nothing of it."""
        ...

    def running(self, state: State) -> bool:
        """Whether it is there."""
        ...

    def stop(self, state: State) -> None:
        """Take the cluster and its state away."""
        ...

    def load(self, state: State, archives: Sequence[Path]) -> None:
        """Import images on every node."""
        ...


PROVIDERS: dict[Literal["kind", "local"], Provider] = {"kind": KindProvider(), "local": LocalProvider()}


@dataclass(frozen=True)
class Cluster:
    """A cluster to work with."""

    name: str
    provider: Literal["kubeconfig", "kind", "local"]
    kubeconfig: Path
    has_stage: bool
    """Whether the stage loop plays its node (`stage`)."""
    state: State | None
    """Ours to stop and start; None for a cluster that somebody else runs."""

    def kubectl(self) -> Path:
        """A kubectl that fits.

        Raises:
            CannotProvide: There is none.
        """
        own = binaries.cached().path("kubectl")
        if own.exists():
            return own
        found = shutil.which("kubectl")
        if found is None:
            raise CannotProvide("there is no kubectl on PATH; `build control-plane` makes one")
        return Path(found)

    def stop(self, component: str) -> None:
        """Kill a component of the control plane (`controlplane.API_SERVER` and its like); its data stays.

        Raises:
            CannotProvide: The control plane is not ours.
            ClusterError: There is no such component, or it did not die.
        """
        ask(self._control(), Request(verb="stop", component=component))

    def start(self, component: str) -> None:
        """Start a stopped component again, on the same port and data, and wait until it works.

        Raises:
            CannotProvide: The control plane is not ours.
            ClusterError: There is no such component, it runs already, or it did not come up.
        """
        ask(self._control(), Request(verb="start", component=component))

    def load(self, *archives: Path) -> None:
        """Import images on every node, from files as `docker save` writes them.

        Raises:
            CannotProvide: The cluster is somebody else's; its nodes pull from a registry.
            ClusterError: There are no nodes, or they refused.
        """
        if self.state is None or self.provider == "kubeconfig":
            raise CannotProvide(f"cluster {self.name} is not ours to load images into")
        PROVIDERS[self.provider].load(self.state, archives)

    def processes(self) -> dict[str, Process]:
        """What runs, by component; the supervisor included.

        Raises:
            CannotProvide: The control plane is not ours.
        """
        return ask(self._control(), Request(verb="report")).processes

    def _control(self) -> Path:
        if self.state is None or self.provider != "local":
            raise CannotProvide(f"cluster {self.name} is not ours to stop and start parts of")
        return self.state.control_socket


def select(choice: Choice = "auto") -> Literal["kubeconfig", "kind", "local"]:
    """The provider that this machine has for `choice`.

    Raises:
        CannotProvide: None; says why, for each.
    """
    if choice == "kubeconfig" or (choice == "auto" and os.environ.get("KUBECONFIG")):
        return "kubeconfig"
    candidates = [name for name in PROVIDERS if choice in {"auto", name}]
    reasons = {name: PROVIDERS[name].unavailable() for name in candidates}
    for name, reason in reasons.items():
        if reason is None:
            return name
    raise CannotProvide("; ".join(f"{name}: {reason}" for name, reason in reasons.items()))


def acquire(
    name: str,
    *,
    choice: Choice = "auto",
    stage: bool = False,
    nodes: int = 0,
    holder: Identity | None = None,
    root: Path | None = None,
) -> Cluster:
    """The cluster `name`, started if it does not run yet.

    Args:
        name: Of the cluster; those who say the same name share it. Ignored where `KUBECONFIG` says which to use.
        choice: The provider. `auto` takes `KUBECONFIG` if set, then kind, then one of our own.
        stage: Whether a cluster of our own gets the stage loop.
        nodes: How many nodes a cluster of our own gets, 8 at most; with one the stage has no place.
        holder: Keep it while this process lives, or until `release`; None keeps it until `take_down`.
        root: Where clusters live; this user's own place by default.

    Raises:
        CannotProvide: This machine cannot; says why.
        ClusterError: It can, and it went wrong.
        TimeoutError: Another process has been starting or stopping a cluster for a quarter of an hour.
    """
    if nodes > MAX_NODES or (nodes and stage):
        raise CannotProvide(f"a cluster has the stage, or 1 to {MAX_NODES} nodes")
    chosen = select(choice)
    if chosen == "kubeconfig":
        return _given()
    provider = PROVIDERS[chosen]
    provider.prepare(nodes)
    root = root or runtime_root()
    with exclusive(_lock(root), _LOCK_DEADLINE):
        _sweep(root)
        state = State.named(root, name)
        spec = state.spec()
        if spec is None or not PROVIDERS[spec.provider].running(state):
            spec = Spec(name=name, provider=chosen, kept=holder is None, stage=stage, nodes=nodes)
            _start(state, spec, holder)
        elif holder is not None:
            state.hold(holder)
    return _cluster(state, spec)


def release(cluster: Cluster, holder: Identity) -> None:
    """Let go of a cluster; it ends if nobody else holds it and it was not started to be kept."""
    state = cluster.state
    if state is None:
        return
    with exclusive(_lock(state.directory.parent), _LOCK_DEADLINE):
        state.let_go(holder)
        spec = state.spec()
        if spec is not None and not spec.kept and not state.held():
            PROVIDERS[spec.provider].stop(state)


def take_down(name: str, root: Path | None = None) -> bool:
    """End the cluster `name`, whoever holds it; returns whether there was one."""
    root = root or runtime_root()
    with exclusive(_lock(root), _LOCK_DEADLINE):
        state = State.named(root, name)
        spec = state.spec()
        if spec is None:
            return False
        PROVIDERS[spec.provider].stop(state)
        return True


def sweep(root: Path | None = None) -> None:
    """Remove what killed supervisors and killed test runs have left behind; every start does it too."""
    root = root or runtime_root()
    with exclusive(_lock(root), _LOCK_DEADLINE):
        _sweep(root)


def running(root: Path | None = None) -> list[Cluster]:
    """The clusters that this user runs."""
    found = [(state, state.spec()) for state in State.all(root or runtime_root())]
    return [_cluster(state, spec) for state, spec in found if spec and PROVIDERS[spec.provider].running(state)]


def _start(state: State, spec: Spec, holder: Identity | None) -> None:
    state.remove()
    state.create(spec)
    if holder is not None:
        state.hold(holder)
    PROVIDERS[spec.provider].start(state)


def _sweep(root: Path) -> None:
    # What `kill -9` has left behind; the kernel has taken a local cluster's processes with its supervisor.
    for state in State.all(root):
        spec = state.spec()
        if spec is None:
            state.remove()
        elif spec.provider == "local" and not PROVIDERS["local"].running(state):
            PROVIDERS["local"].stop(state)
        elif spec.provider == "kind" and not spec.kept and not state.held():
            PROVIDERS["kind"].stop(state)


def _given() -> Cluster:
    setting = os.environ.get("KUBECONFIG", "")
    path = Path(setting).absolute()
    if not setting or not path.is_file():
        raise CannotProvide(f"KUBECONFIG has to name one file that exists, and it is {setting!r}")
    state = State(path.parent)
    spec = state.spec() if path.parent.parent == runtime_root() else None
    return (
        Cluster("kubeconfig", "kubeconfig", path, has_stage=False, state=None)
        if spec is None
        else _cluster(state, spec)
    )


def _cluster(state: State, spec: Spec) -> Cluster:
    return Cluster(spec.name, spec.provider, state.kubeconfig, spec.stage and spec.provider == "local", state)


def _lock(root: Path) -> Path:
    return root / ".lock"
