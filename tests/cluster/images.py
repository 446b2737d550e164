"""Container images of a single program, written without a container engine (the archive format of `docker save`)."""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.cluster.locking import exclusive

if TYPE_CHECKING:
    from tests.cluster.binaries import Binaries

_WRITE_DEADLINE = 300.0
_EPOCH = "1970-01-01T00:00:00Z"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True)
class Image:
    """An image with one static program in it."""

    name: str
    """As pods ask for it. The domain does not exist, so that nobody can pull something else by that name."""
    program: str


PAUSE = Image("moa-operator.invalid/pause:1", "pause")
DNS = Image("moa-operator.invalid/coredns:1", "coredns")
ALL = (PAUSE, DNS)


def ensure(binaries: Binaries, image: Image) -> Path:
    """The archive of an image, written beside its program if it is not there yet."""
    archive = binaries.path(f"{image.program}.tar")
    with exclusive(binaries.directory / ".images.lock", _WRITE_DEADLINE):
        if not archive.exists():
            with tempfile.TemporaryDirectory(dir=binaries.directory, prefix=".image-") as scratch:
                written = Path(scratch) / archive.name
                write(written, image, binaries.path(image.program))
                written.replace(archive)
    return archive


def write(archive: Path, image: Image, program: Path) -> None:
    """Write an archive that `docker load`, `kind load` and `ctr images import` read.

    Args:
        archive: The file to write; a file beside it is written and left as well, its layer.
        image: What is in it.
        program: The program, statically linked.
    """
    layer = archive.with_name("layer.tar")
    with tarfile.open(layer, "w") as entries, program.open("rb") as content:
        entry = tarfile.TarInfo(image.program)
        entry.size, entry.mode = os.fstat(content.fileno()).st_size, 0o755
        entries.addfile(entry, content)
    with layer.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    machine = platform.machine()
    config = json.dumps(
        {
            "architecture": _ARCHITECTURES.get(machine, machine),
            "os": "linux",
            "created": _EPOCH,
            "config": {"Entrypoint": [f"/{image.program}"], "WorkingDir": "/"},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
            "history": [{"created": _EPOCH}],
        }
    ).encode()
    name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = [{"Config": name, "RepoTags": [image.name], "Layers": [f"{digest}.tar"]}]
    with tarfile.open(archive, "w") as parts:
        _add(parts, name, config)
        _add(parts, "manifest.json", json.dumps(manifest).encode())
        parts.add(layer, f"{digest}.tar")


def _add(parts: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    parts.addfile(entry, io.BytesIO(content))
