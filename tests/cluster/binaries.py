"""Kubernetes and its tools, compiled from Go modules once per version and kept in the user's cache."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.cluster.errors import CannotProvide
from tests.cluster.locking import exclusive
from tests.cluster.paths import TOOLS, cache_root
from tests.cluster.processes import die_with_parent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_BUILD_DEADLINE = 3600.0
_KEPT_LINES = 12


@dataclass(frozen=True)
class Target:
    """One `go build`."""

    package: str
    """What to build, seen from the tools module."""
    programs: tuple[str, ...]
    """The names that the binary goes by; it acts by the name it is called."""


PKI = Target("./pki", ("pki",))
ETCD = Target("go.etcd.io/etcd/server/v3", ("etcd",))
KUBERNETES = Target("./controlplane", ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl"))
NODE = Target("./node", ("kubelet", "kube-proxy"))
DNS = Target("./dns", ("coredns",))
PAUSE = Target("./pause", ("pause",))
HELM = Target("helm.sh/helm/v4/cmd/helm", ("helm",))
KUBECONFORM = Target("github.com/yannh/kubeconform/cmd/kubeconform", ("kubeconform",))

CONTROL_PLANE = (PKI, ETCD, KUBERNETES)
NODES = (NODE, DNS, PAUSE)
TARGETS = {
    "control-plane": CONTROL_PLANE,
    "nodes": NODES,
    "helm": (HELM,),
    "kubeconform": (KUBECONFORM,),
}


class Binaries:
    """The programs of one version of the tools module."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def path(self, program: str) -> Path:
        """Where `program` is, built or not."""
        return self.directory / program

    def has(self, target: Target) -> bool:
        """Whether every program of `target` is there."""
        return all(self.path(program).exists() for program in target.programs)


def cached() -> Binaries:
    """The binaries that belong to the checkout's tools module, as far as they are built."""
    return Binaries(cache_root() / _fingerprint())


def ensure(targets: Iterable[Target], progress: Callable[[str], None] | None = None) -> Binaries:
    """Build what is missing of `targets`; of two processes that need the same, one builds and the other waits.

    Args:
        targets: What is needed.
        progress: Told, in words, what takes long; standard error by default.

    Raises:
        CannotProvide: No Go, or the build failed; says how.
        TimeoutError: Another process has been building for an hour.
    """
    binaries = cached()
    missing = [target for target in targets if not binaries.has(target)]
    if not missing:
        return binaries
    go = _go()
    binaries.directory.mkdir(parents=True, exist_ok=True)
    with exclusive(binaries.directory / ".lock", _BUILD_DEADLINE):
        for target in missing:
            if not binaries.has(target):
                _build(go, target, binaries, progress or _to_stderr)
    return binaries


def version() -> str:
    """The Kubernetes version that the tools module pins, such as `v1.36.4`."""
    pinned = re.search(r"^\s*k8s\.io/kubernetes (v\S+)$", (TOOLS / "go.mod").read_text(encoding="utf-8"), re.MULTILINE)
    if pinned is None:
        raise RuntimeError(f"{TOOLS / 'go.mod'} requires no k8s.io/kubernetes")
    return pinned[1]


def unavailable() -> str | None:
    """Why the control plane can neither be found in the cache nor compiled here; None if it can."""
    binaries = cached()
    if all(binaries.has(target) for target in CONTROL_PLANE):
        return None
    try:
        _go()
    except CannotProvide as reason:
        return str(reason)
    return None


def _go() -> str:
    found = shutil.which("go")
    if found is None:
        raise CannotProvide("Kubernetes would have to be compiled, and there is no Go on PATH (go.dev/doc/install)")
    return found


def _linker_flags() -> str:
    # Clients and servers compare versions; an unstamped build calls itself v0.0.0-master and is refused.
    release = version()
    major, minor = release.removeprefix("v").split(".")[:2]
    stamps = {"gitVersion": release, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    return " ".join(
        ["-s", "-w", *(f"-X {package}.{name}={value}" for package in packages for name, value in stamps.items())]
    )


def _fingerprint() -> str:
    digest = hashlib.sha256(f"{platform.machine()} {_linker_flags()}".encode())
    for source in sorted(TOOLS.rglob("*")):
        if source.suffix in {".go", ".mod", ".sum"}:
            digest.update(f"\n{source.relative_to(TOOLS)}\n".encode())
            digest.update(source.read_bytes())
    return f"{version()}-{digest.hexdigest()[:16]}"


def _build(go: str, target: Target, binaries: Binaries, progress: Callable[[str], None]) -> None:
    progress(f"compiling {', '.join(target.programs)} (the first time on a machine takes minutes)")
    began = time.monotonic()
    flags = os.environ.get("GOFLAGS", "")
    environment = os.environ | {"CGO_ENABLED": "0", "GOFLAGS": f"{flags} -mod=readonly -buildvcs=false".strip()}
    with tempfile.TemporaryDirectory(dir=binaries.directory, prefix=".build-") as scratch:
        output = Path(scratch) / target.programs[0]
        command = [go, "build", "-trimpath", "-ldflags", _linker_flags(), "-o", str(output), target.package]
        try:
            done = subprocess.run(
                command,
                cwd=TOOLS,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=_BUILD_DEADLINE,
                preexec_fn=die_with_parent,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise CannotProvide(f"compiling {target.package} took more than {_BUILD_DEADLINE:.0f} s") from None
        if done.returncode:
            said = "\n".join(done.stdout.splitlines()[-_KEPT_LINES:])
            raise CannotProvide(f"compiling {target.package} failed:\n{said}")
        _install(output, target, binaries)
    progress(f"compiled {', '.join(target.programs)} in {time.monotonic() - began:.0f} s")


def _install(output: Path, target: Target, binaries: Binaries) -> None:
    # Aliases first: `has` follows them, so that a target is there only once its binary is.
    for alias in target.programs[1:]:
        link = output.with_name(alias)
        link.symlink_to(output.name)
        link.replace(binaries.path(alias))
    output.replace(binaries.path(output.name))


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
