"""Commands that end with whoever waits for them, and with them everything they have started and mounted."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from tests.cluster.paths import REPOSITORY
from tests.images.errors import BuildError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_KEPT_LINES = 25

CONTAINED = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
"""Root's way to give a command namespaces of its own: what it mounts and starts is gone when it ends or is ended."""


def run(command: Sequence[str], wait: float, environment: Mapping[str, str] | None = None) -> str:
    """Run a command in the checkout; returns its output.

    Args:
        command: The command.
        wait: Seconds that it may take.
        environment: Its whole environment; by default this process's.

    Raises:
        BuildError: It failed or took too long; says what it said last.
    """
    shown = " ".join(command[len(CONTAINED) :] if tuple(command[: len(CONTAINED)]) == CONTAINED else command)
    try:
        done = subprocess.run(
            command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=wait, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise BuildError(f"{shown} was not done after {wait:.0f} s") from error
    if done.returncode:
        said = (done.stdout + done.stderr).splitlines()[-_KEPT_LINES:]
        raise BuildError("\n  ".join([f"{shown} failed (exit status {done.returncode}):", *said]))
    return done.stdout
