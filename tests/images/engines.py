"""What builds images here: docker where it answers, else buildah over a base from the distribution."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from tests.cluster.paths import REPOSITORY
from tests.images import pip_settings
from tests.images.commands import CONTAINED, run
from tests.images.errors import CannotBuild

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_PROBE_DEADLINE = 20.0
_BOOTSTRAP_DEADLINE = 600.0
_BUILD_DEADLINE = 900.0
_COPY_DEADLINE = 300.0

_PROGRAMS = ("buildah", "mmdebstrap", "unshare")
_PACKAGES = "buildah mmdebstrap util-linux"
_MOUNTED = "/mnt"
# A layer for each instruction of each version: wiped when they have become so many, rather than one by one.
_MOST_LAYERS = 300

# The release that the Dockerfiles' own base is made of.
_SUITE = "trixie"
_INCLUDED = "python3,python3-venv,ca-certificates"
_LEFT_OUT = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*")


class Engine(Protocol):
    """A way to build images on this machine."""

    def unavailable(self) -> str | None:
        """Why this machine cannot; None if it can."""
        ...

    def build(self, names: Sequence[str]) -> None:
        """Call `make images` for these images."""
        ...

    def digest(self, reference: str) -> str:
        """What tells the content of an image that was built from every other's."""
        ...

    def save(self, reference: str, archive: Path) -> None:
        """Write an image as `docker save` does."""
        ...


class Docker:
    """The docker on PATH, over the base that the Dockerfiles name."""

    def unavailable(self) -> str | None:
        """Why this machine cannot; None if it can."""
        if shutil.which("docker") is None:
            return "there is no docker on PATH"
        try:
            probe = subprocess.run(["docker", "info"], capture_output=True, timeout=_PROBE_DEADLINE, check=False)
        except subprocess.TimeoutExpired:
            return "docker does not answer"
        return "docker has no engine" if probe.returncode else None

    def build(self, names: Sequence[str]) -> None:
        """Call `make images` for these images.

        Raises:
            BuildError: A build failed.
        """
        run(["make", "images", "ENGINE=docker", f"IMAGES={' '.join(names)}"], _BUILD_DEADLINE)

    def digest(self, reference: str) -> str:
        """The digest of the image's configuration.

        Raises:
            BuildError: There is no such image.
        """
        return run(["docker", "image", "inspect", "--format={{.Id}}", reference], _PROBE_DEADLINE).strip()

    def save(self, reference: str, archive: Path) -> None:
        """Write an image as `docker save` does.

        Raises:
            BuildError: There is no such image, or no room.
        """
        run(["docker", "save", f"--output={archive}", reference], _COPY_DEADLINE)


class Buildah:
    """buildah without containers, over a base that mmdebstrap makes of the distribution's packages; as root.

    Args:
        directory: Where the base and buildah's images are kept; created if missing.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._storage = directory / "storage"

    def unavailable(self) -> str | None:
        """Why this machine cannot; None if it can."""
        if os.geteuid():
            return "buildah's chroot isolation and mmdebstrap need root"
        missing = [program for program in _PROGRAMS if shutil.which(program) is None]
        if missing:
            return f"there is no {', no '.join(missing)} on PATH; Debian has them in the packages {_PACKAGES}"
        return None

    def build(self, names: Sequence[str]) -> None:
        """Call `make images` for these images.

        Raises:
            BuildError: A build failed, or there is no base to be had.
        """
        self._forget_if_many()
        base = base_name()
        self._ensure_base(base)
        with tempfile.TemporaryDirectory() as settings, self._buildah() as buildah:
            pip_settings.write(Path(settings), _MOUNTED)
            options = ["--isolation=chroot", "--pull-never", "--layers", f"--volume={settings}:{_MOUNTED}:ro"]
            options += ["--build-arg", f"PIP_CONFIG_FILE={_MOUNTED}/pip.conf"]
            wanted = [f"ENGINE={' '.join(buildah)}", f"IMAGES={' '.join(names)}", f"BASE={base}"]
            run([*CONTAINED, "make", "images", *wanted, f"BUILD={' '.join(options)}"], _BUILD_DEADLINE)

    def digest(self, reference: str) -> str:
        """The digest of the image's configuration.

        Raises:
            BuildError: There is no such image.
        """
        with self._buildah() as buildah:
            inspect = [*buildah, "inspect", "--type=image", "--format={{.FromImageID}}", reference]
            return run([*CONTAINED, *inspect], _PROBE_DEADLINE).strip()

    def save(self, reference: str, archive: Path) -> None:
        """Write an image as `docker save` does.

        Raises:
            BuildError: There is no such image, or no room.
        """
        with self._buildah() as buildah:
            push = [*buildah, "push", "--quiet", reference, f"docker-archive:{archive}:{reference}"]
            run([*CONTAINED, *push], _COPY_DEADLINE)

    @contextmanager
    def _buildah(self) -> Iterator[list[str]]:
        # What is mounted is noted there, and nothing is by the time a command has ended.
        with tempfile.TemporaryDirectory() as runroot:
            yield ["buildah", f"--root={self._storage}", f"--runroot={runroot}", "--storage-driver=overlay"]

    def _forget_if_many(self) -> None:
        layers = self._storage / "overlay"
        if layers.is_dir() and len(list(layers.iterdir())) > _MOST_LAYERS:
            shutil.rmtree(self._storage)

    def _ensure_base(self, name: str) -> None:
        command = _bootstrap()
        key = hashlib.sha256(" ".join([platform.machine(), *command]).encode()).hexdigest()[:12]
        root = self._directory / f"base-{key}.tar"
        if not root.exists():
            _clear(self._directory.glob("base-*.tar"))
            partial = self._directory / ".base.tar"
            run([*CONTAINED, *command, str(partial)], _BOOTSTRAP_DEADLINE)
            partial.replace(root)
        keyed = f"localhost/base:{key}"
        with self._buildah() as buildah:
            listed = [*CONTAINED, *buildah, "images", "--format={{.Name}}:{{.Tag}}"]
            if keyed not in run(listed, _PROBE_DEADLINE).split():
                self._import(buildah, root, keyed)
            run([*CONTAINED, *buildah, "tag", keyed, name], _PROBE_DEADLINE)

    def _import(self, buildah: list[str], root: Path, name: str) -> None:
        contained = [*CONTAINED, *buildah]
        container = run([*contained, "from", "scratch"], _PROBE_DEADLINE).strip()
        try:
            run([*contained, "add", "--quiet", container, str(root), "/"], _COPY_DEADLINE)
            run([*contained, "commit", "--quiet", container, name], _COPY_DEADLINE)
        finally:
            run([*contained, "rm", container], _PROBE_DEADLINE)


def base_name() -> str:
    """The name of the base image that the Dockerfiles build on, without its digest."""
    found = re.search(
        r"^ARG BASE=(\S+)@sha256:", (REPOSITORY / "Dockerfile.router").read_text(encoding="utf-8"), re.MULTILINE
    )
    if found is None:
        raise CannotBuild("Dockerfile.router names no base image with a digest")
    return found[1]


def _bootstrap() -> list[str]:
    """Everything of mmdebstrap's command line but the file to write."""
    excluded = [f"--dpkgopt=path-exclude={pattern}" for pattern in _LEFT_OUT]
    return ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={_INCLUDED}", *excluded, _SUITE]


def _clear(files: Iterator[Path]) -> None:
    for file in files:
        file.unlink()
