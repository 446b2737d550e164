"""What is known about a running cluster: one directory, readable by this user alone, gone with the cluster."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict
from tests.cluster.errors import CannotProvide
from tests.cluster.processes import Identity

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,28}[a-z0-9])?")
_TAIL_BYTES = 4096
_TAIL_LINES = 6


class Spec(BaseModel):
    """What was asked for; written once, before anything starts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    provider: Literal["local", "kind"]
    kept: bool
    """Runs until it is taken down; otherwise it ends with the last process that holds it."""
    stage: bool
    """Whether the stage loop plays the node."""
    nodes: int = 0
    """How many real nodes there are."""


@dataclass(frozen=True)
class State:
    """The directory of one cluster; its methods read and write it, and nothing else does."""

    directory: Path

    @classmethod
    def named(cls, root: Path, name: str) -> State:
        """The place of the cluster `name`, whether it is there or not.

        Raises:
            CannotProvide: No cluster may be called that.
        """
        if not _NAME.fullmatch(name):
            raise CannotProvide(f"a cluster's name has 1 to 30 letters a-z, digits and inner dashes, not {name!r}")
        return cls(root / name)

    @classmethod
    def all(cls, root: Path) -> Iterator[State]:
        """Every cluster under `root`, in the order of their names."""
        return (cls(entry) for entry in sorted(root.iterdir()) if entry.is_dir())

    @property
    def name(self) -> str:
        """The cluster's name."""
        return self.directory.name

    @property
    def kubeconfig(self) -> Path:
        """The administrator's access."""
        return self.directory / "kubeconfig"

    @property
    def control_socket(self) -> Path:
        """Where the supervisor listens."""
        return self.directory / "control.sock"

    @property
    def pki(self) -> Path:
        """Certificates and keys."""
        return self.directory / "pki"

    def create(self, spec: Spec) -> None:
        """Make the directory."""
        for part in (self.directory, self.pki, self._logs, self._holders):
            part.mkdir(mode=0o700)
        self._spec.write_text(spec.model_dump_json(), encoding="utf-8")

    def remove(self) -> None:
        """Remove the directory with all that is in it; nothing happens if it is gone."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def spec(self) -> Spec | None:
        """What was asked for; None if there is no such cluster, or only the remains of one."""
        try:
            return Spec.model_validate_json(self._spec.read_bytes())
        except (FileNotFoundError, ValueError):
            return None

    def log(self, component: str) -> Path:
        """Where a component writes what it has to say."""
        return self._logs / f"{component}.log"

    def log_tail(self, component: str) -> str:
        """The last lines of a component's log, for an error message."""
        try:
            with self.log(component).open("rb") as log:
                log.seek(max(0, log.seek(0, 2) - _TAIL_BYTES))
                lines = log.read().decode(errors="replace").splitlines()
        except FileNotFoundError:
            lines = []
        return "\n".join(lines[-_TAIL_LINES:]) or "(it wrote nothing)"

    def supervisor(self) -> Identity | None:
        """The process that owns everything the cluster runs; None if it has gone."""
        try:
            found = Identity.parse(self._supervisor.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return found if found is not None and found.alive() else None

    def claim(self, supervisor: Identity) -> None:
        """Record the owning process."""
        self._supervisor.write_text(str(supervisor), encoding="utf-8")

    def hold(self, holder: Identity) -> None:
        """Keep the cluster for as long as `holder` lives, or until it lets go."""
        (self._holders / str(holder)).touch()

    def let_go(self, holder: Identity) -> None:
        """Take back a hold."""
        (self._holders / str(holder)).unlink(missing_ok=True)

    def held(self) -> bool:
        """Whether any living process holds the cluster."""
        if not self._holders.is_dir():
            return False
        holders = (Identity.parse(entry.name) for entry in self._holders.iterdir())
        return any(holder is not None and holder.alive() for holder in holders)

    @property
    def _spec(self) -> Path:
        return self.directory / "spec.json"

    @property
    def _supervisor(self) -> Path:
        return self.directory / "supervisor"

    @property
    def _holders(self) -> Path:
        return self.directory / "holders"

    @property
    def _logs(self) -> Path:
        return self.directory / "log"
