"""How this machine's pip reaches an index, handed to the pip inside a build."""

from __future__ import annotations

import ast
import configparser
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_KEYS = ("index-url", "extra-index-url", "trusted-host", "proxy", "cert")
_DEADLINE = 60.0


def write(directory: Path, seen_as: str) -> None:
    """Write `pip.conf`, and the certificates that it names, into a directory that a build mounts.

    Args:
        directory: An empty directory; for nobody else to read, because an index's address may hold a password.
        seen_as: Where the build mounts it.
    """
    found = read(_listing())
    if "cert" in found:
        shutil.copyfile(found["cert"], directory / "ca.crt")
        found["cert"] = f"{seen_as}/ca.crt"
    config = configparser.RawConfigParser()
    config["global"] = found
    with (directory / "pip.conf").open("w", encoding="utf-8") as file:
        config.write(file)


def read(listing: str) -> dict[str, str]:
    """What counts in the output of `pip config list`; the environment goes before files, wherever it stands there."""
    found: dict[str, str] = {}
    for line in sorted(listing.splitlines(), key=lambda line: line.startswith(":env:")):
        name, _, value = line.partition("=")
        key = name.rpartition(".")[2]
        if key in _KEYS:
            found[key] = str(ast.literal_eval(value))
    return found


def _listing() -> str:
    command = [sys.executable, "-m", "pip", "config", "list"]
    return subprocess.run(command, capture_output=True, text=True, timeout=_DEADLINE, check=True).stdout
