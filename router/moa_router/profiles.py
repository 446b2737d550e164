"""Profiles from files: load, look up by model name, and reload without dropping a request.

A profile that changes is compiled beside the one that serves and swapped in whole. Requests under way finish on the
plan they began with; its connections close behind the last of them. A file that does not compile is refused with its
reasons, and the last good one serves on.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import yaml

from moa_api.v1alpha1 import ProfileError, load_profile
from moa_router.fusion.plan import compile_profile
from moa_router.telemetry.tracing import Tracing

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping, Sequence
    from pathlib import Path

    from moa_api.v1alpha1 import MoAProfile
    from moa_router.fusion.plan import Mode, Plan
    from moa_router.telemetry.metrics import Metrics
    from moa_router.upstream.client import Site

logger = logging.getLogger(__name__)

MAX_FILE_BYTES = 4 * 1024 * 1024
TRACE_FLUSH_SECONDS = 3.0

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class MountedFiles:
    """Secrets and ConfigMaps as Kubernetes mounts them: `DIR/<name>/<key>`. Remembers what it was asked for.

    Args:
        secrets_dir: where Secrets are mounted.
        config_maps_dir: where ConfigMaps are mounted.
    """

    def __init__(self, secrets_dir: Path | None, config_maps_dir: Path | None) -> None:
        self._secrets_dir = secrets_dir
        self._config_maps_dir = config_maps_dir
        self._reads: dict[Path, str] = {}
        self._listings: dict[Path, list[str]] = {}

    def changed(self) -> bool:
        """Whether anything that was read would read differently now."""
        return any(_entry(path) != text for path, text in self._reads.items()) or any(
            _listing(folder) != names for folder, names in self._listings.items()
        )

    def secret(self, name: str, key: str) -> str:
        """One entry of a Secret, without a trailing newline.

        Raises:
            LookupError: there is none; the message says where it was looked for.
        """
        return self._read("Secret", self._secrets_dir, "--secrets-dir", name, key)

    def config_map(self, name: str, key: str) -> str:
        """One entry of a ConfigMap.

        Raises:
            LookupError: there is none; the message says where it was looked for.
        """
        return self._read("ConfigMap", self._config_maps_dir, "--config-maps-dir", name, key)

    def entries(self, name: str) -> Mapping[str, str]:
        """All entries of a Secret.

        Raises:
            LookupError: there is no such Secret.
        """
        if self._secrets_dir is None:
            raise LookupError(f'Secret "{name}" is needed; say where Secrets are with --secrets-dir')
        folder = self._secrets_dir / name
        names = self._listings[folder] = _listing(folder)
        if not folder.is_dir():
            raise LookupError(f'no Secret "{name}" in {self._secrets_dir}')
        return {key: self.secret(name, key) for key in names}

    def _read(self, kind: str, folder: Path | None, flag: str, name: str, key: str) -> str:
        if folder is None:
            raise LookupError(f'{kind} "{name}" is needed; say where {kind}s are with {flag}')
        text = self._reads[folder / name / key] = _entry(folder / name / key)
        if not text:
            raise LookupError(f'no entry "{key}" of {kind} "{name}" in {folder}, or it is empty')
        return text


def _entry(path: Path) -> str:
    try:
        return path.read_text().rstrip("\r\n")
    except (OSError, UnicodeDecodeError):
        return ""


def _listing(folder: Path) -> list[str]:
    try:
        # kubelet's own bookkeeping (..data and the like) is no entry
        return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    except OSError:
        return []


class KeyRing:
    """API keys of a profile, by digest: a look-up tells nothing about how close a wrong key came.

    Args:
        entries: key by tenant.
    """

    def __init__(self, entries: Mapping[str, str]) -> None:
        self._tenants = {hashlib.sha256(key.encode()).digest(): tenant for tenant, key in entries.items()}

    @property
    def empty(self) -> bool:
        """Whether nobody can have a valid key."""
        return not self._tenants

    def tenant_of(self, key: str) -> str | None:
        """Whose key it is; None for a key that is not on the ring."""
        return self._tenants.get(hashlib.sha256(key.encode()).digest())


@dataclass(slots=True)
class Served:
    """A profile that is being served."""

    plan: Plan
    keys: KeyRing | None


@dataclass(slots=True, frozen=True)
class Target:
    """What a model name means: a profile in a mode (None: by header, query or default), or an upstream as it is."""

    served: Served
    mode: Mode | None = None
    upstream: Site | None = None


@dataclass(slots=True)
class _Source:
    """A profile file, what was last read of it, and what became of that."""

    path: Path
    content: bytes | None = None
    files: MountedFiles | None = None
    served: Served | None = None
    tracing: tuple[object, Tracing] | None = None
    problems: list[str] = field(default_factory=list)


class Registry:
    """All profiles of this process.

    Args:
        paths: the profile files.
        secrets_dir: where Secrets are mounted.
        config_maps_dir: where ConfigMaps are mounted.
        metrics: where everything is counted.
        version: the router's version.

    Attributes:
        max_body_bytes: the largest body that any profile takes.
        max_json_depth: the deepest body that any profile takes.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        secrets_dir: Path | None,
        config_maps_dir: Path | None,
        metrics: Metrics,
        version: str,
    ) -> None:
        self._sources = [_Source(path) for path in paths]
        self._secrets_dir = secrets_dir
        self._config_maps_dir = config_maps_dir
        self._metrics = metrics
        self._version = version
        self._targets: dict[str, Target] = {}
        self.max_body_bytes = 0
        self.max_json_depth = 0
        self._closing: set[asyncio.Task[object]] = set()

    @property
    def served(self) -> list[Served]:
        """Profiles being served, in the order of their files."""
        return [source.served for source in self._sources if source.served is not None]

    @property
    def problems(self) -> dict[str, list[str]]:
        """What is wrong with files that were refused, by file name."""
        return {source.path.name: source.problems for source in self._sources if source.problems}

    def find(self, model: str) -> Target | None:
        """What a model name means, or None.

        A profile's name goes before an upstream's name, that before the model an upstream serves; among equals the
        first listed wins.
        """
        return self._targets.get(model)

    def load(self) -> None:
        """Load every file for the first time.

        Raises:
            ProfileError: with the problems of all files.
        """
        problems = []
        for source in self._sources:
            self._refresh(source)
            problems += [f"{source.path}: {problem}" for problem in source.problems]
        if problems:
            raise ProfileError(problems)
        self._index()
        self._metrics.last_reload_successful.labels().set(1)

    async def reload(self) -> None:
        """Look at every file again and take over what has changed; a defect of ours leaves everything as it is."""
        try:
            self._take_over_changes()
        except Exception:
            logger.exception("reloading failed")

    def _take_over_changes(self) -> None:
        changed = [source for source in self._sources if self._refresh(source)]
        if not changed:
            return
        for source in changed:
            outcome = "refused" if source.problems else "ok"
            self._metrics.profile_reloads.labels(outcome).inc()
            extra = {"file": source.path.name, "problems": source.problems}
            if source.problems:
                logger.error("profile refused; the last good one serves on", extra=extra)
            else:
                logger.info("profile reloaded", extra=extra)
        self._metrics.last_reload_successful.labels().set(0 if self.problems else 1)
        self._index()

    async def watch(self, interval: float) -> None:
        """Reload whatever changes, for ever.

        Args:
            interval: seconds between two looks. Polling sees through every kind of mount, Kubernetes' swapped symlinks
                included, where file events do not.
        """
        while True:
            await asyncio.sleep(interval)
            await self.reload()

    async def aclose(self) -> None:
        """Close everything that was opened for any profile."""
        for served in self.served:
            await served.plan.aclose()
        for task in tuple(self._closing):
            task.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)
        await asyncio.gather(
            *(
                asyncio.to_thread(source.tracing[1].shutdown, TRACE_FLUSH_SECONDS)
                for source in self._sources
                if source.tracing is not None
            )
        )

    # -- inside -----------------------------------------------------------------------------------------------------

    def _refresh(self, source: _Source) -> bool:
        """Look at a file; True if it is not what it was."""
        content = _read_file(source.path)
        if source.files is not None and content == source.content and not source.files.changed():
            return False
        source.content = content
        source.files = MountedFiles(self._secrets_dir, self._config_maps_dir)
        try:
            served = self._compile(source, content)
        except ProfileError as error:
            source.problems = list(error.problems)
            return True
        old, source.served, source.problems = source.served, served, []
        if old is not None:
            self._own(self._retire(old.plan, served.plan))
        return True

    def _compile(self, source: _Source, content: bytes | None) -> Served:
        if content is None:
            raise ProfileError(["the file cannot be read, or is larger than 4 MiB"])
        assert source.files is not None  # noqa: S101 - set by the only caller
        profile = load_profile(_parse_yaml(content))
        clashes = self._clashes(source, profile)
        if clashes:
            raise ProfileError(clashes)
        plan = compile_profile(profile, source.files, self._metrics, self._tracing(source, profile), self._version)
        return Served(plan, None if plan.auth_entries is None else KeyRing(plan.auth_entries))

    def _clashes(self, source: _Source, profile: MoAProfile) -> list[str]:
        """Names of this profile that another one already has."""
        name = profile.metadata.name
        wanted = {name: "metadata.name", f"fusion/{name}": "metadata.name"}
        wanted |= dict.fromkeys(profile.spec.response.model_names, "spec.response.modelNames")
        return [
            f'{where}: profile "{other.served.plan.name}" already answers to "{alias}"; choose another name'
            for other in self._sources
            if other is not source and other.served is not None
            for alias, where in wanted.items()
            if alias in other.served.plan.names
        ]

    def _tracing(self, source: _Source, profile: MoAProfile) -> Tracing:
        """The tracing of a profile; kept while its settings are, for it has a thread and a queue of its own."""
        settings = profile.spec.telemetry
        if source.tracing is None or source.tracing[0] != settings:
            otlp = settings.otlp
            tracing = Tracing(
                otlp.endpoint if otlp else None,
                sampling_percent=otlp.sampling_percent if otlp else 100.0,
                version=self._version,
            )
            if source.tracing is not None:
                self._own(asyncio.to_thread(source.tracing[1].shutdown, TRACE_FLUSH_SECONDS))
            source.tracing = (settings, tracing)
        return source.tracing[1]

    async def _retire(self, plan: Plan, successor: Plan) -> None:
        """Close an old plan's connections when its last request is over."""
        await plan.in_use.idle()
        await plan.aclose()
        if plan.name != successor.name:
            self._metrics.forget(plan.name)

    def _index(self) -> None:
        """Write down what every model name means; the first to claim a name keeps it."""
        targets: dict[str, Target] = {}
        for served in self.served:
            for name in served.plan.names:
                targets.setdefault(name, Target(served))
                for mode in served.plan.modes:
                    targets.setdefault(f"{name}:{mode}", Target(served, mode=mode))
        for served in self.served:
            for name, site in served.plan.by_name.items():
                targets.setdefault(name, Target(served, upstream=site))
        for served in self.served:
            for model, site in served.plan.by_model.items():
                targets.setdefault(model, Target(served, upstream=site))
        self._targets = targets
        limits = [served.plan.limits for served in self.served]
        self.max_body_bytes = max((limit.max_body_bytes for limit in limits), default=0)
        self.max_json_depth = max((limit.max_json_depth for limit in limits), default=0)

    def _own(self, work: Coroutine[None, None, object]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


def _read_file(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError:
        return None
    return content if len(content) <= MAX_FILE_BYTES else None


def _parse_yaml(content: bytes) -> object:
    try:
        return yaml.load(content, Loader=_Loader)  # noqa: S506 - a safe loader
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark is not None else ""
        raise ProfileError(
            [f"not valid YAML{where}: {getattr(error, 'problem', None) or 'it cannot be parsed'}"]
        ) from None
