"""What a profile refers to: Services, Secrets and ConfigMaps, each with the place that names it. Pure."""

from collections.abc import Iterator
from typing import Literal, NamedTuple

from moa_api.models import MoAProfile, Upstream

ReferenceKind = Literal["Service", "Secret", "ConfigMap"]


class Reference(NamedTuple):
    """An object that a profile names."""

    kind: ReferenceKind
    namespace: str
    name: str

    def __str__(self) -> str:
        return f'{self.kind} "{self.name}" in namespace "{self.namespace}"'


class Need(NamedTuple):
    """What a profile wants of an object it names.

    Attributes:
        path: Where the profile names it, such as ``spec.upstreams[0].service``.
        reference: The object.
        part: The port of a Service, the entry of a Secret or ConfigMap; None for a Secret as a whole.
        upstream: The upstream that needs it, by name; None for the profile as a whole.
    """

    path: str
    reference: Reference
    part: int | str | None
    upstream: str | None


def needs(profile: MoAProfile) -> tuple[Need, ...]:
    """Returns everything a profile refers to, in the order it is written."""
    return tuple(_needs(profile))


def _needs(profile: MoAProfile) -> Iterator[Need]:
    namespace = profile.metadata.namespace
    for index, upstream in enumerate(profile.spec.upstreams):
        yield from _needs_of_upstream(f"spec.upstreams[{index}]", upstream, namespace)
    tenants = profile.spec.auth.secret_ref
    if tenants is not None:
        yield Need("spec.auth.secretRef", Reference("Secret", namespace, tenants.name), None, None)


def _needs_of_upstream(path: str, upstream: Upstream, namespace: str) -> Iterator[Need]:
    service, key, tls = upstream.service, upstream.api_key_secret_ref, upstream.tls
    if service is not None:
        reference = Reference("Service", service.namespace or namespace, service.name)
        yield Need(f"{path}.service", reference, service.port, upstream.name)
    if key is not None:
        yield Need(f"{path}.apiKeySecretRef", Reference("Secret", namespace, key.name), key.key, upstream.name)
    if tls is not None and tls.ca_secret_ref is not None:
        authority = Reference("Secret", namespace, tls.ca_secret_ref.name)
        yield Need(f"{path}.tls.caSecretRef", authority, tls.ca_secret_ref.key, upstream.name)
    if tls is not None and tls.ca_config_map_ref is not None:
        authority = Reference("ConfigMap", namespace, tls.ca_config_map_ref.name)
        yield Need(f"{path}.tls.caConfigMapRef", authority, tls.ca_config_map_ref.key, upstream.name)


def mounted(profile: MoAProfile) -> dict[tuple[ReferenceKind, str], frozenset[str] | None]:
    """Returns what router pods mount: entries by kind and name, sorted; None for every entry there is."""
    found: dict[tuple[ReferenceKind, str], frozenset[str] | None] = {}
    for need in needs(profile):
        place = (need.reference.kind, need.reference.name)
        if need.reference.kind == "Service":
            continue
        known = found.get(place, frozenset())
        found[place] = None if known is None or need.part is None else known | {str(need.part)}
    return dict(sorted(found.items()))
