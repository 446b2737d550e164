"""The project's images as archives, built once for whoever asks and kept in the user's cache."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.cluster.locking import exclusive
from tests.cluster.paths import REPOSITORY, cache_root
from tests.images.engines import Buildah, Docker, Engine
from tests.images.errors import CannotBuild

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

NAMES = ("router", "operator", "simulator")

_LOCK_DEADLINE = 1800.0
# One more than needed: another checkout's run may be about to load its own.
_KEPT_ARCHIVES = 2


@dataclass(frozen=True)
class Built:
    """An image that was built."""

    reference: str
    """Its name, as pods ask for it."""
    archive: Path
    """The image, as `docker save` writes it."""


def build(names: Sequence[str] = NAMES) -> dict[str, Built]:
    """Build images from the working tree; by name. What has not changed is not built again.

    Raises:
        CannotBuild: This machine cannot; says why.
        BuildError: A build failed.
        TimeoutError: Another process has been building for half an hour.
    """
    directory = cache_root().parent / "images"
    directory.mkdir(parents=True, exist_ok=True)
    engine = select(Docker(), Buildah(directory))
    with exclusive(directory / ".lock", _LOCK_DEADLINE):
        engine.build(names)
        return {name: _saved(engine, directory, name) for name in names}


def select(*engines: Engine) -> Engine:
    """The first engine that works here.

    Raises:
        CannotBuild: None does; says why, for each.
    """
    reasons: list[str] = []
    for engine in engines:
        reason = engine.unavailable()
        if reason is None:
            return engine
        reasons.append(reason)
    raise CannotBuild("; ".join(reasons))


def reference(name: str) -> str:
    """An image's name, as `make images` gives it."""
    found = re.search(r'^version = "(.+)"', (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise CannotBuild("pyproject.toml names no version")
    return f"docker.io/moa-operator/{name}:{found[1]}"


def _saved(engine: Engine, directory: Path, name: str) -> Built:
    tagged = reference(name)
    digest = engine.digest(tagged).removeprefix("sha256:")
    archive = directory / f"{name}-{digest[:16]}.tar"
    if not archive.exists():
        partial = directory / f".{name}.tar"
        partial.unlink(missing_ok=True)
        engine.save(tagged, partial)
        partial.replace(archive)
    archive.touch()
    others = sorted(directory.glob(f"{name}-*.tar"), key=lambda file: file.stat().st_mtime, reverse=True)
    for old in others[_KEPT_ARCHIVES:]:
        old.unlink()
    return Built(tagged, archive)
