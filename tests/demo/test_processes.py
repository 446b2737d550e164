"""Servers of the demo: waited for, watched, stopped in every case."""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator

import pytest

from moa_router.demo import processes
from moa_router.demo.errors import DemoError
from moa_router.demo.processes import Child, running

SECONDS = 30.0
#: From here on it waits for SIGUSR1.
HELD = "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])"
ON_SIGNAL = "signal.sigwait([signal.SIGUSR1])"
READY = "print('thing listening on http://127.0.0.1:1234 (more)', flush=True)"


def python(*lines: str) -> list[str]:
    return [sys.executable, "-c", "\n".join(("import signal, sys, time", *lines))]


@contextlib.contextmanager
def started(*lines: str) -> Iterator[tuple[Child, int]]:
    """A server, and its process id."""
    with running("the thing", python(*lines), seconds=SECONDS) as child:
        yield child, child._process.pid


def assert_gone(pid: int) -> None:
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_server_runs_for_as_long_as_it_is_needed() -> None:
    with started(READY, "time.sleep(600)") as (child, pid):
        assert child.url == "http://127.0.0.1:1234"
        child.wait(0.01)
    assert_gone(pid)


def test_a_server_that_ends_before_it_listens_tells_why() -> None:
    with (
        pytest.raises(DemoError, match=r"the thing ended with status 3; the end of its log:\nno memory"),
        started("sys.exit(print('no memory', file=sys.stderr) or 3)"),
    ):
        pass


def test_a_server_that_says_nothing_is_not_waited_for_without_end() -> None:
    command = python("time.sleep(600)")
    begun = time.monotonic()
    with (
        pytest.raises(DemoError, match=r"did not listen within 0 s; it logged nothing"),
        running("the thing", command, seconds=0.2),
    ):
        pass
    assert time.monotonic() - begun < SECONDS


def test_a_server_that_ends_later_is_noticed() -> None:
    with started(HELD, READY, ON_SIGNAL, "sys.exit(4)") as (child, pid):
        os.kill(pid, signal.SIGUSR1)
        with pytest.raises(DemoError, match="the thing ended with status 4"):
            child.wait(SECONDS)


def test_a_long_log_is_cut_to_its_end() -> None:
    words = "print('x' * 100_000, 'the last words')"
    with started(HELD, READY, ON_SIGNAL, words, "sys.exit(5)") as (child, pid):
        os.kill(pid, signal.SIGUSR1)
        with pytest.raises(DemoError, match="the last words") as ended:
            child.wait(SECONDS)
        assert len(str(ended.value)) < 3000


def test_a_server_that_does_not_want_to_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_STOP_SECONDS", 0.2)
    with started("signal.signal(signal.SIGTERM, signal.SIG_IGN)", READY, "time.sleep(600)") as (_, pid):
        pass
    assert_gone(pid)


def test_a_failure_of_ours_stops_it_too() -> None:
    pids = []

    def fail() -> None:
        with started(READY, "time.sleep(600)") as (_, pid):
            pids.append(pid)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert_gone(pids[0])
