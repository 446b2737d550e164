"""Identities, holds and locks: what keeps one process from ending or disturbing another by mistake."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from tests.cluster.errors import CannotProvide
from tests.cluster.locking import exclusive, try_lock
from tests.cluster.paths import REPOSITORY
from tests.cluster.processes import Identity, resident_bytes
from tests.cluster.state import Spec, State

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DEADLINE = 30.0

PARENT = """
import subprocess, sys, time
from tests.cluster.processes import die_with_parent
child = subprocess.Popen(["sleep", "600"], preexec_fn=die_with_parent)
print(child.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def sleeper() -> Iterator[Identity]:
    with subprocess.Popen(["sleep", "600"]) as process:
        try:
            found = Identity.of(process.pid)
            assert found is not None
            yield found
        finally:
            process.kill()


def test_an_identity_survives_its_text(sleeper: Identity) -> None:
    assert Identity.parse(str(sleeper)) == sleeper
    assert [Identity.parse(text) for text in ("", "12", "12-", "-3", "a-b")] == [None] * 5


def test_a_process_ends_once(sleeper: Identity) -> None:
    assert sleeper.alive()
    assert resident_bytes(sleeper.pid) > 0
    assert sleeper.end(signal.SIGKILL, DEADLINE)
    assert not sleeper.alive(), "a zombie counts as gone"
    assert sleeper.end(signal.SIGKILL, DEADLINE)


def test_a_stranger_with_the_same_pid_is_not_touched(sleeper: Identity) -> None:
    predecessor = replace(sleeper, started=sleeper.started - 1)
    assert not predecessor.alive()
    assert predecessor.end(signal.SIGKILL, DEADLINE)
    assert sleeper.alive()


def test_a_process_that_ignores_the_signal_is_reported(sleeper: Identity) -> None:
    assert not sleeper.end(signal.SIGCONT, wait=0.05)


def test_children_die_with_their_parent() -> None:
    command = [sys.executable, "-c", PARENT]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) as parent:
        assert parent.stdout is not None
        child = Identity.of(int(parent.stdout.readline()))
        assert child is not None
        parent.kill()
        parent.wait(DEADLINE)
        assert child.end(signal.SIGCONT, DEADLINE), "a harmless signal, and the wait for the kernel's own"


def test_a_lock_has_one_holder_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with exclusive(path, DEADLINE):
        assert try_lock(path) is None
        with pytest.raises(TimeoutError, match="still locked by another process"), exclusive(path, wait=0.1):
            pytest.fail("held twice")
    with exclusive(path, DEADLINE):
        pass


def test_a_hold_counts_while_its_process_lives(tmp_path: Path, sleeper: Identity) -> None:
    state = State.named(tmp_path, "c")
    state.create(Spec(name="c", provider="local", kept=False, stage=False))
    assert not state.held()
    state.hold(sleeper)
    state.hold(Identity.of_self())
    assert state.held()
    state.let_go(Identity.of_self())
    assert state.held()
    sleeper.end(signal.SIGKILL, DEADLINE)
    assert not state.held()


def test_a_state_is_read_as_it_was_written_and_remains_are_none(tmp_path: Path) -> None:
    state = State.named(tmp_path, "c")
    assert (state.spec(), state.supervisor(), state.held()) == (None, None, False)
    spec = Spec(name="c", provider="kind", kept=True, stage=True)
    state.create(spec)
    assert state.spec() == spec
    assert state.directory.stat().st_mode & 0o077 == 0
    assert [found.name for found in State.all(tmp_path)] == ["c"]
    (state.directory / "spec.json").write_text("{", encoding="utf-8")
    assert state.spec() is None


def test_a_log_s_tail_is_short(tmp_path: Path) -> None:
    state = State.named(tmp_path, "c")
    state.create(Spec(name="c", provider="local", kept=False, stage=False))
    assert state.log_tail("etcd") == "(it wrote nothing)"
    state.log("etcd").write_text("\n".join(str(line) for line in range(10_000)), encoding="utf-8")
    assert state.log_tail("etcd").splitlines()[-1] == "9999"
    assert len(state.log_tail("etcd").splitlines()) < 10


@pytest.mark.parametrize("name", ["", "A", "a_b", "-a", "a-", "a/b", "..", "a" * 31])
def test_names_that_are_no_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(CannotProvide, match="1 to 30 letters"):
        State.named(tmp_path, name)
