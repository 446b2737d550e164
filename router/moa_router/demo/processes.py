"""Servers of the demo as processes: started, waited for, stopped."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import tempfile
from time import monotonic
from typing import TYPE_CHECKING

from moa_router.demo.errors import DemoError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: Every server of this project says where it listens, once it does.
_ADDRESS = re.compile(rb"listening on (http://[^\s]+)")
_LOG_TAIL_BYTES = 2048
_HEAD_BYTES = 65536
_LOOK_SECONDS = 0.05
_STOP_SECONDS = 10.0


class Child:
    """A server that runs in a process of its own.

    Args:
        name: what it is called in messages.
        process: the process.
        log: file descriptor of the file that takes all it writes.

    Attributes:
        url: where it listens, as it says itself.
    """

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: int) -> None:
        self._name = name
        self._process = process
        self._log = log
        self.url = ""

    def wait_until_it_listens(self, seconds: float) -> None:
        """Wait for it to say where it listens.

        Raises:
            DemoError: it ended first, or did not say so in time.
        """
        deadline = monotonic() + seconds
        while not self.url:
            self.wait(_LOOK_SECONDS)
            # not `read`: the offset of the file is the child's
            address = _ADDRESS.search(os.pread(self._log, _HEAD_BYTES, 0))
            if address is not None:
                self.url = address[1].decode()
            elif monotonic() > deadline:
                raise DemoError(f"{self._name} did not listen within {seconds:.0f} s; {self._last_words()}")

    def wait(self, seconds: float) -> None:
        """Let time pass while it runs.

        Raises:
            DemoError: it ended by itself.
        """
        try:
            status = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return
        raise DemoError(f"{self._name} ended with status {status}; {self._last_words()}")

    def stop(self) -> None:
        """End it: politely, and if that does not help in time, not."""
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _last_words(self) -> str:
        size = os.fstat(self._log).st_size
        tail = os.pread(self._log, _LOG_TAIL_BYTES, max(0, size - _LOG_TAIL_BYTES)).decode("utf-8", "replace").strip()
        return f"the end of its log:\n{tail}" if tail else "it logged nothing"


@contextlib.contextmanager
def running(name: str, command: Sequence[str], *, seconds: float) -> Iterator[Child]:
    """Run a server for as long as the block lasts.

    Args:
        name: what it is called in messages.
        command: program and arguments; it must print `listening on http://…` when it does.
        seconds: how long it may take until then.

    Raises:
        DemoError: it did not start.
    """
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(  # noqa: S603 - our own programs
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            # Ctrl-C is for the demo, which then stops its servers in order
            start_new_session=True,
        )
        child = Child(name, process, log.fileno())
        try:
            child.wait_until_it_listens(seconds)
            yield child
        finally:
            child.stop()
