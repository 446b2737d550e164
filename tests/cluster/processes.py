"""Processes by identity: a pid alone may name a stranger by the time somebody signals it."""

from __future__ import annotations

import ctypes
import os
import select
import signal
from dataclasses import dataclass
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Identity:
    """One process, told apart from every later one with its pid by the moment it started."""

    pid: int
    started: int
    """Clock ticks since boot (proc(5), /proc/PID/stat, field 22)."""

    @classmethod
    def of(cls, pid: int) -> Identity | None:
        """The process that has `pid` now; None if there is none, or only a zombie of it."""
        try:
            stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            return None
        # The name in field 2 may hold spaces and brackets of its own, so the fields are counted from its last bracket.
        fields = stat.rpartition(")")[2].split()
        return None if fields[0] in "ZX" else cls(pid, int(fields[19]))

    @classmethod
    def of_self(cls) -> Identity:
        """This very process."""
        found = cls.of(os.getpid())
        if found is None:
            raise RuntimeError("/proc does not show this process; is it mounted?")
        return found

    @classmethod
    def parse(cls, text: str) -> Identity | None:
        """The inverse of `str()`; None for anything else."""
        pid, dash, started = text.partition("-")
        if not (dash and pid.isdigit() and started.isdigit()):
            return None
        return cls(int(pid), int(started))

    def __str__(self) -> str:
        return f"{self.pid}-{self.started}"

    def alive(self) -> bool:
        """Whether it still runs."""
        return Identity.of(self.pid) == self

    def end(self, number: signal.Signals, wait: float) -> bool:
        """Send it a signal and wait for its end.

        Args:
            number: The signal.
            wait: Seconds to wait.

        Returns:
            Whether it has gone; at once if it had before.
        """
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return True
        try:
            if not self.alive():
                return True
            signal.pidfd_send_signal(handle, number)
            poll = select.poll()
            poll.register(handle, select.POLLIN)
            return bool(poll.poll(wait * 1000))
        finally:
            os.close(handle)


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends (prctl(2)); runs between fork and exec."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def resident_bytes(pid: int) -> int:
    """The memory that a process holds now (VmRSS); 0 if it has gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return 0
    sizes = [line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:")]
    return int(sizes[0]) * 1024 if sizes else 0
