"""Locks between processes that the kernel releases when their holder dies."""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_POLL = 0.05


@contextmanager
def exclusive(path: Path, wait: float) -> Iterator[None]:
    """Hold the lock file `path` (created if missing, never removed: removing it would split the lock in two).

    Args:
        path: The lock file; its directory exists.
        wait: Seconds to wait for whoever holds it.

    Raises:
        TimeoutError: It was still held after `wait` seconds.
    """
    deadline = time.monotonic() + wait
    while (lock := try_lock(path)) is None:
        if time.monotonic() >= deadline:
            raise TimeoutError(f"{path} is still locked by another process after {wait:.0f} s")
        time.sleep(_POLL)
    try:
        yield
    finally:
        os.close(lock)


def try_lock(path: Path) -> int | None:
    """The descriptor that holds the lock until it is closed or this process ends; None if another one holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
