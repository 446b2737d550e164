"""Where things live: sources in the checkout, binaries in the user's cache, state in memory if possible."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from tests.cluster.errors import CannotProvide

REPOSITORY = Path(__file__).resolve().parents[2]
TOOLS = Path(__file__).resolve().parent / "tools"

_TMPFS = Path("/dev/shm")
# Containers often have 64 MiB there; a cluster's data, and its nodes' images, want more.
_TMPFS_BYTES = 2 * 1024**3


def cache_root() -> Path:
    """The user's cache for compiled binaries (XDG base directory specification); not created here."""
    configured = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(configured) if Path(configured).is_absolute() else Path.home() / ".cache"
    return base / "moa-operator" / "cluster"


def runtime_root() -> Path:
    """The directory of this user's running clusters, created for nobody else to read.

    Raises:
        CannotProvide: The name is taken by something that is not ours; private keys are not written there.
    """
    root = (_TMPFS if _roomy(_TMPFS) else Path(tempfile.gettempdir())) / f"moa-clusters-{os.getuid()}"
    root.mkdir(mode=0o700, exist_ok=True)
    found = root.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise CannotProvide(f"{root} is not a directory of this user alone; remove it")
    return root


def _roomy(directory: Path) -> bool:
    if not os.access(directory, os.W_OK | os.X_OK):
        return False
    filesystem = os.statvfs(directory)
    # Its size and not what is free of it: every command has to come to the same answer.
    return filesystem.f_blocks * filesystem.f_frsize >= _TMPFS_BYTES
