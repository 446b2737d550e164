"""Which cluster a machine can give, and how it says that it cannot. The programs here are stand-ins of a few lines."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest
from tests.cluster import binaries, clusters
from tests.cluster.errors import CannotProvide, ClusterError
from tests.cluster.paths import REPOSITORY
from tests.cluster.processes import Identity

if TYPE_CHECKING:
    from pathlib import Path

WORKING_GO = """
echo build >> "$GO_CALLS"
while [ "$1" != -o ]; do shift; done
echo '#!/bin/sh' > "$2"; chmod +x "$2"
"""
BROKEN_GO = "echo first; echo 'missing go.sum entry'; exit 1"
KIND = """
echo "$@" >> "$KIND_CALLS"
case "$1" in
  get) cat "$KIND_CLUSTERS" 2>/dev/null ;;
  create) echo "${3#--name=}" > "$KIND_CLUSTERS"; touch "${4#--kubeconfig=}"; exit "$KIND_STATUS" ;;
  delete) rm -f "$KIND_CLUSTERS" ;;
esac
"""


class Machine:
    """A machine with nothing but what a test installs."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.programs = directory / "bin"
        self.programs.mkdir()
        self.calls = {name: directory / f"{name}-calls" for name in ("go", "kind")}
        self.root = directory / "clusters"
        self.root.mkdir()
        monkeypatch.delenv("KUBECONFIG", raising=False)
        monkeypatch.delenv("MOA_REQUIRE_CLUSTER", raising=False)
        monkeypatch.delenv("MOA_REQUIRE_NODES", raising=False)
        monkeypatch.setenv("XDG_CACHE_HOME", str(directory / "cache"))
        monkeypatch.setenv("GO_CALLS", str(self.calls["go"]))
        monkeypatch.setenv("KIND_CALLS", str(self.calls["kind"]))
        monkeypatch.setenv("KIND_CLUSTERS", str(directory / "kind-clusters"))
        monkeypatch.setenv("KIND_STATUS", "0")
        monkeypatch.setenv("PATH", f"{self.programs}:/usr/bin:/bin")

    def install(self, name: str, script: str) -> None:
        program = self.programs / name
        program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        program.chmod(0o755)

    def said_to(self, name: str) -> list[str]:
        return self.calls[name].read_text(encoding="utf-8").splitlines()


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def quiet(_: str) -> None:
    """Nobody listens."""


def test_a_machine_with_nothing_says_what_is_missing(machine: Machine) -> None:
    with pytest.raises(CannotProvide, match=r"kind: there is no kind on PATH; local: .* no Go on PATH"):
        clusters.select()
    with pytest.raises(CannotProvide, match=r"^local: "):
        clusters.select("local")


def test_kind_needs_an_engine_that_answers(machine: Machine) -> None:
    machine.install("kind", KIND)
    machine.install("docker", "exit 1")
    machine.install("podman", "exit 1")
    machine.install("nerdctl", "exit 1")
    with pytest.raises(CannotProvide, match="no container engine answers"):
        clusters.select("kind")
    machine.install("podman", "exit 0")
    assert clusters.select() == "kind"


def test_a_given_cluster_comes_first(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.install("kind", KIND)
    machine.install("docker", "exit 0")
    monkeypatch.setenv("KUBECONFIG", "/somewhere")
    assert clusters.select() == "kubeconfig"
    assert clusters.select("kind") == "kind"
    with pytest.raises(CannotProvide, match="has to name one file that exists, and it is '/somewhere'"):
        clusters.acquire("c", stage=True)


def test_a_kind_cluster_is_made_shared_and_deleted(machine: Machine) -> None:
    machine.install("kind", KIND)
    machine.install("docker", "exit 0")
    with subprocess.Popen(["sleep", "600"]) as process:
        try:
            another = Identity.of(process.pid)
            assert another is not None
            first = clusters.acquire("c", stage=True, holder=Identity.of_self(), root=machine.root)
            again = clusters.acquire("c", stage=True, holder=another, root=machine.root)
            assert (first.provider, first.has_stage, first) == ("kind", False, again)
            clusters.release(again, another)
            assert first.kubeconfig.exists()
            clusters.release(first, Identity.of_self())
        finally:
            process.kill()
    named = f"--name=moa-c --kubeconfig={first.kubeconfig}"
    assert machine.said_to("kind") == [
        f"create cluster {named} --wait=300s --config=-",
        "get clusters",
        f"delete cluster {named}",
    ]
    assert not first.kubeconfig.parent.exists()


def test_a_kind_cluster_that_does_not_start_is_deleted(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.install("kind", KIND)
    machine.install("docker", "exit 0")
    monkeypatch.setenv("KIND_STATUS", "1")
    with pytest.raises(ClusterError, match="kind create cluster failed"):
        clusters.acquire("c", stage=True, root=machine.root)
    assert machine.said_to("kind")[-1].startswith("delete cluster --name=moa-c")
    assert [entry.name for entry in machine.root.iterdir()] == [".lock"]


def test_a_kind_cluster_that_a_killed_run_has_left_goes_with_the_next_start(machine: Machine) -> None:
    machine.install("kind", KIND)
    machine.install("docker", "exit 0")
    with subprocess.Popen(["sleep", "600"]) as process:
        gone = Identity.of(process.pid)
        assert gone is not None
        left = clusters.acquire("left", stage=True, holder=gone, root=machine.root)
        process.kill()
    kept = clusters.acquire("kept", stage=True, root=machine.root)
    assert not left.kubeconfig.parent.exists()
    assert [cluster.name for cluster in clusters.running(machine.root)] == ["kept"]
    assert clusters.take_down("kept", machine.root)
    assert not clusters.take_down("kept", machine.root)
    assert not kept.kubeconfig.parent.exists()


def test_programs_are_built_once_whoever_asks(machine: Machine) -> None:
    machine.install("go", WORKING_GO)
    target = binaries.KUBERNETES
    builders = [threading.Thread(target=binaries.ensure, args=([target], quiet)) for _ in range(3)]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join(60)
    assert machine.said_to("go") == ["build"]
    built = binaries.cached()
    assert {program.name for program in built.directory.iterdir()} == {".lock", *target.programs}
    assert all(os.access(built.path(program), os.X_OK) for program in target.programs)
    assert not built.has(binaries.ETCD)


def test_a_build_that_fails_leaves_nothing_and_says_why(machine: Machine) -> None:
    machine.install("go", BROKEN_GO)
    with pytest.raises(CannotProvide, match=r"(?s)compiling ./pki failed:.*missing go\.sum entry"):
        binaries.ensure([binaries.PKI], quiet)
    assert [entry.name for entry in binaries.cached().directory.iterdir()] == [".lock"]


def test_the_pinned_version_names_the_cache(machine: Machine) -> None:
    assert binaries.version().startswith("v1.")
    assert binaries.cached().directory.name.startswith(f"{binaries.version()}-")


@pytest.mark.parametrize(
    ("required", "outcome"),
    [("", "2 skipped"), ("MOA_REQUIRE_CLUSTER", "1 skipped, 1 error"), ("MOA_REQUIRE_NODES", "1 skipped, 1 error")],
)
def test_without_a_cluster_tests_are_skipped_with_the_reason_unless_one_is_required(
    machine: Machine, required: str, outcome: str
) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-rsE", "-p", "no:cacheprovider"),
            "tests/cluster/test_control_plane.py::test_objects_can_be_applied",
            "tests/cluster/test_nodes.py::test_logs_and_exec_work_on_every_node",
        ],
        cwd=REPOSITORY,
        env={**os.environ, "COLUMNS": "300", **({required: "1"} if required else {})},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert outcome in done.stdout, done.stdout + done.stderr
    assert "there is no kind on PATH" in done.stdout
    assert "no Go on PATH" in done.stdout
