"""Control groups of nodes: the one thing of a node that outlives its processes."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROOT = Path("/sys/fs/cgroup")
_POLL = 0.05


def create(name: str, root: Path = _ROOT) -> None:
    """Make the group `name` in every hierarchy that has controllers.

    In version 1 a cpuset starts empty, and no process may enter it until it is filled; nor does the kubelet fill it.
    """
    for hierarchy in _hierarchies(root):
        if hierarchy.name == "unified":
            continue
        group = hierarchy / name
        group.mkdir(exist_ok=True)
        for setting in ("cpuset.cpus", "cpuset.mems"):
            parent = hierarchy / setting
            if parent.exists():
                (group / setting).write_text(parent.read_text(encoding="utf-8"), encoding="utf-8")


def remove(prefix: str, wait: float, root: Path = _ROOT) -> bool:
    """Remove the groups whose names start with `prefix`, once their last process has gone.

    Args:
        prefix: Of the groups right below each hierarchy.
        wait: Seconds to wait for processes that are ending.
        root: Where control groups are mounted.

    Returns:
        Whether all are gone.
    """
    deadline = time.monotonic() + wait
    while left := [group for hierarchy in _hierarchies(root) for group in hierarchy.glob(f"{prefix}*/")]:
        for group in left:
            _remove_tree(group)
        if any(group.exists() for group in left):
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL)
    return True


def _hierarchies(root: Path) -> Iterator[Path]:
    if (root / "cgroup.controllers").exists():
        yield root
        return
    if root.is_dir():
        yield from (entry for entry in root.iterdir() if entry.is_dir())


def _remove_tree(group: Path) -> None:
    # The files in there are the kernel's and go with their directory; a group with processes refuses.
    children = [group, *(entry for entry in group.rglob("*") if entry.is_dir())]
    for directory in sorted(children, key=lambda entry: len(entry.parts), reverse=True):
        with contextlib.suppress(OSError):
            directory.rmdir()
