"""What the operator reports about a profile; `moa_api.schema` turns it into the status part of the resource."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from moa_api.fields import Between, Label
from moa_api.section import Section, keyed_by

ConditionStatus = Literal["True", "False", "Unknown"]

Text = Annotated[str, Field(max_length=32_768)]


class Condition(Section):
    """One aspect of the profile's state, in the form all Kubernetes tools know (``metav1.Condition``)."""

    type: Annotated[str, Field(pattern=r"^[A-Za-z]+$", max_length=316)]
    """Accepted (the spec is valid), ResolvedRefs (what it refers to exists), Programmed (the children are applied),
    Ready (requests are answered), Degraded (something is missing), Paused (the children are left alone)."""

    status: ConditionStatus
    """Whether the condition holds."""

    observed_generation: Annotated[int, Between(0)] | None = None
    """Generation of the spec that the condition speaks of."""

    last_transition_time: datetime
    """When the status last changed."""

    reason: Annotated[str, Field(pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$", max_length=1_024)]
    """Why, in one word, for programs."""

    message: Text
    """Why, for people."""


class UpstreamStatus(Section):
    """What became of an upstream."""

    name: Label
    """Name of the upstream within the profile."""

    url: Text | None = None
    """URL the router calls."""

    resolved: bool
    """Whether everything the upstream refers to exists."""

    message: Text | None = None
    """What is missing, for people."""


class MoAProfileStatus(Section):
    """What the operator has made of the profile."""

    observed_generation: Annotated[int, Between(0)] | None = None
    """Generation of the spec that the status speaks of."""

    conditions: tuple[Condition, ...] = Field(
        default=(), strict=False, max_length=16, json_schema_extra=keyed_by("type")
    )
    """State of the profile, one aspect each."""

    endpoint: Text | None = None
    """Base URL for clients within the cluster."""

    replicas: Annotated[int, Between(0)] | None = None
    """Router pods there are."""

    ready_replicas: Annotated[int, Between(0)] | None = None
    """Router pods that answer requests."""

    selector: Text | None = None
    """Label selector of the router pods, for autoscalers."""

    panel_size: Annotated[int, Between(0)] | None = None
    """Candidates of a full panel."""

    calls_per_request: Annotated[int, Between(0)] | None = None
    """Upstream calls one fused request makes when nothing fails."""

    upstreams: tuple[UpstreamStatus, ...] = Field(
        default=(), strict=False, max_length=24, json_schema_extra=keyed_by("name")
    )
    """What became of each upstream."""
