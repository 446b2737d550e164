"""Whether what a profile refers to is there, and what changes when it changes."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from pydantic import Field

from moa_operator.kube.client import Kube, together
from moa_operator.kube.errors import Refused
from moa_operator.kube.objects import KubeModel, Live
from moa_operator.references import Need, Reference, ReferenceKind
from moa_operator.resources import CONFIG_MAPS, SECRETS, SERVICES, Resource

KINDS: Final[Mapping[ReferenceKind, Resource]] = {
    "Service": SERVICES,
    "Secret": SECRETS,
    "ConfigMap": CONFIG_MAPS,
}


class _Port(KubeModel):
    port: int


class _ServiceSpec(KubeModel):
    type: str = ""
    ports: tuple[_Port, ...] = ()


class _Content(KubeModel):
    """What matters of a Service, Secret or ConfigMap."""

    spec: _ServiceSpec = _ServiceSpec()
    data: dict[str, str] = Field(default_factory=dict)
    binary_data: dict[str, str] = Field(default_factory=dict)


@dataclass(frozen=True)
class Forbidden:
    """It could not be read for want of a right; whether it is there remains open."""


Found: TypeAlias = Live | Forbidden | None
"""What was found under a reference; None where there is nothing."""


@dataclass(frozen=True)
class Lack:
    """Something a profile refers to that is not there.

    Attributes:
        need: What was wanted.
        text: What is missing and what to do.
    """

    need: Need
    text: str

    def __str__(self) -> str:
        return f"{self.need.path}: {self.text}"


@dataclass(frozen=True)
class Resolution:
    """What became of everything a profile refers to.

    Attributes:
        lacks: What is missing, in the order the profile is written.
        unchecked: What could not be looked at.
        digest: Changes with the content of Secrets and ConfigMaps, and with nothing else.
        versions: Resource version of each object, to see later whether it has changed; empty for a missing one.
    """

    lacks: tuple[Lack, ...]
    unchecked: tuple[Need, ...]
    digest: str
    versions: Mapping[Reference, str]


async def read_references(kube: Kube, needs: tuple[Need, ...]) -> dict[Reference, Found]:
    """Reads every object that is referred to, once.

    Raises:
        KubeError: Something could not be read for another reason than a missing right.
    """
    references = list(dict.fromkeys(need.reference for need in needs))
    reads = await together(_read(kube, reference) for reference in references)
    return dict(zip(references, reads, strict=True))


async def _read(kube: Kube, reference: Reference) -> Found:
    try:
        return await kube.get(KINDS[reference.kind], reference.namespace, reference.name)
    except Refused as refusal:
        if refusal.forbidden:
            return Forbidden()
        raise


def resolve(needs: tuple[Need, ...], found: Mapping[Reference, Found]) -> Resolution:
    """Judges what was found.

    Args:
        needs: What is wanted.
        found: What there is, by reference.
    """
    contents = {
        reference: _Content.model_validate(live.raw) for reference, live in found.items() if isinstance(live, Live)
    }
    versions = {
        reference: live.meta.resource_version if isinstance(live, Live) else ""
        for reference, live in found.items()
        if not isinstance(live, Forbidden)
    }
    checked = [need for need in needs if need.reference in versions]
    judged = [(need, _lack(need, contents.get(need.reference))) for need in checked]
    return Resolution(
        lacks=tuple(Lack(need, text) for need, text in judged if text is not None),
        unchecked=tuple(need for need in needs if need.reference not in versions),
        digest=_digest(needs, contents),
        versions=versions,
    )


def _lack(need: Need, content: _Content | None) -> str | None:
    if content is None:
        return f"no {need.reference}; create it, or correct the name"
    if need.reference.kind == "Service":
        return _missing_port(need, content.spec)
    return _missing_entry(need, content)


def _missing_port(need: Need, spec: _ServiceSpec) -> str | None:
    ports = [each.port for each in spec.ports]
    # An ExternalName is an alias in the DNS: whatever ports it lists, it has them all.
    if spec.type == "ExternalName" or need.part in ports:
        return None
    known = ", ".join(map(str, sorted(ports))) or "none"
    return f"{need.reference} has no port {need.part}; it has {known}"


def _missing_entry(need: Need, content: _Content) -> str | None:
    entries = content.data.keys() | content.binary_data.keys()
    if need.part is None:
        return None if entries else f"{need.reference} is empty; add an entry per tenant, with its key as the value"
    if need.part in entries:
        return None
    known = ", ".join(f'"{name}"' for name in sorted(entries)) or "none"
    return f'{need.reference} has no entry "{need.part}"; it has {known}'


def _digest(needs: tuple[Need, ...], contents: Mapping[Reference, _Content]) -> str:
    """Hashes the entries that pods mount. Their names alone would not do: a rotated key keeps its name."""
    lines = set()
    for need in needs:
        content = contents.get(need.reference)
        if content is None or need.reference.kind == "Service":
            continue
        for name, value in {**content.data, **content.binary_data}.items():
            if need.part in {None, name}:
                lines.add((need.reference.kind, need.reference.name, name, value))
    return hashlib.sha256(repr(sorted(lines)).encode()).hexdigest() if lines else ""
