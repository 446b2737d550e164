"""Image archives, read without a container engine: what a container of the image would see."""

from __future__ import annotations

import tarfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"


class RunConfig(BaseModel):
    """What a container of the image starts with (`config` of the OCI image configuration)."""

    model_config = ConfigDict(extra="ignore")

    user: str = Field(default="", alias="User")
    environment: tuple[str, ...] = Field(default=(), alias="Env")
    entrypoint: tuple[str, ...] = Field(default=(), alias="Entrypoint")
    command: tuple[str, ...] = Field(default=(), alias="Cmd")
    ports: dict[str, object] = Field(default_factory=dict, alias="ExposedPorts")
    labels: dict[str, str] = Field(default_factory=dict, alias="Labels")


class _Config(BaseModel):
    config: RunConfig


class _Manifest(BaseModel):
    config: str = Field(alias="Config")
    tags: tuple[str, ...] = Field(alias="RepoTags")
    layers: tuple[str, ...] = Field(alias="Layers")


_manifests = TypeAdapter(tuple[_Manifest])


@dataclass(frozen=True)
class Entry:
    """A file, directory or link of an image, and the layer that it came with."""

    member: tarfile.TarInfo
    layer: int


class Archive:
    """An image as `docker save` writes it; see `opened`.

    Args:
        parts: The archive.
        layers: Those of its parts that are layers, the lowest first.
        manifest: What it says of itself.
        config: What it starts with.
    """

    def __init__(
        self, parts: tarfile.TarFile, layers: Sequence[tarfile.TarFile], manifest: _Manifest, config: RunConfig
    ) -> None:
        self.tags = manifest.tags
        self.config = config
        self.layer_bytes = [parts.getmember(name).size for name in manifest.layers]
        self._layers = layers
        self.entries = _merged(layers)

    def read(self, path: str) -> bytes:
        """The content of a regular file."""
        entry = self.entries[path]
        content = self._layers[entry.layer].extractfile(entry.member)
        if content is None:
            raise IsADirectoryError(path)
        return content.read()

    def files(self) -> Iterator[str]:
        """The absolute paths of all that is not a directory."""
        return (path for path, entry in self.entries.items() if not entry.member.isdir())


@contextmanager
def opened(path: Path) -> Iterator[Archive]:
    """Read an archive with one image."""
    with ExitStack() as stack:
        parts = stack.enter_context(tarfile.open(path))
        (manifest,) = _manifests.validate_json(_part(parts, "manifest.json").read())
        config = _Config.model_validate_json(_part(parts, manifest.config).read()).config
        layers = [stack.enter_context(tarfile.open(fileobj=_part(parts, name))) for name in manifest.layers]
        yield Archive(parts, layers, manifest, config)


def _part(parts: tarfile.TarFile, name: str) -> IO[bytes]:
    content = parts.extractfile(name)
    if content is None:
        raise IsADirectoryError(name)
    return content


def _merged(layers: Sequence[tarfile.TarFile]) -> dict[str, Entry]:
    merged: dict[str, Entry] = {}
    for number, layer in enumerate(layers):
        members = [(PurePosixPath("/") / member.name, member) for member in layer]
        gone = [place for path, _ in members for place in _hidden_by(path)]
        merged = {path: entry for path, entry in merged.items() if not _under(path, gone)}
        added = [(str(path), member) for path, member in members if not path.name.startswith(_WHITEOUT)]
        merged |= {path: Entry(member, number) for path, member in added}
    return merged


def _hidden_by(path: PurePosixPath) -> list[str]:
    """What a layer's entry removes of the layers below (OCI image layer specification, "Whiteouts")."""
    if path.name == _OPAQUE:
        return [f"{path.parent}/"]
    if path.name.startswith(_WHITEOUT):
        removed = str(path.parent / path.name.removeprefix(_WHITEOUT))
        return [removed, f"{removed}/"]
    return []


def _under(path: str, gone: list[str]) -> bool:
    return any(path == place or (place.endswith("/") and path.startswith(place)) for place in gone)
