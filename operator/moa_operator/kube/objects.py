"""Objects as an API server gives them, and the part of them that every kind has."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from moa_api.fields import JSONObject

FIELD_MANAGER = "moa-operator"
"""Under this name the operator owns the fields it applies."""


class KubeModel(BaseModel):
    """The part of a Kubernetes object that we read; everything else in it is ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_camel, validate_by_name=True)


class OwnerReference(KubeModel):
    """Whose object an object is."""

    uid: str
    kind: str = ""
    name: str = ""


class ManagedFields(KubeModel):
    """Which fields of an object a manager owns."""

    manager: str = ""
    operation: str = ""
    subresource: str = ""
    fields_v1: dict[str, object] = Field(default_factory=dict, alias="fieldsV1")


class Meta(KubeModel):
    """Metadata of an object."""

    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    deletion_timestamp: str | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    owner_references: tuple[OwnerReference, ...] = ()
    managed_fields: tuple[ManagedFields, ...] = ()


class _Object(KubeModel):
    metadata: Meta


@dataclass(frozen=True)
class Live:
    """An object as it was read."""

    raw: JSONObject

    @cached_property
    def meta(self) -> Meta:
        """Its metadata."""
        return _Object.model_validate(self.raw).metadata

    @cached_property
    def applied_fields(self) -> Mapping[str, object]:
        """The fields the operator owns by server-side apply, as Kubernetes' ``fieldsV1`` writes them."""
        for entry in self.meta.managed_fields:
            if entry.manager == FIELD_MANAGER and entry.operation == "Apply" and not entry.subresource:
                return entry.fields_v1
        return {}
