"""MoAProfile, version v1alpha1: what router and operator import."""

from collections.abc import Sequence

from moa_api import rules
from moa_api.fields import format_duration, parse_duration
from moa_api.models import (
    API_VERSION,
    KIND,
    MAX_CALLS,
    OTLP,
    TLS,
    Aggregator,
    Auth,
    AuthType,
    Capability,
    ConfigMapKeyRef,
    FanOut,
    Gate,
    GatePolicy,
    Hardening,
    Limits,
    Member,
    Metadata,
    MoAProfile,
    MoAProfileSpec,
    OnFailure,
    OnToolTurn,
    OnUnmet,
    Panel,
    Pricing,
    Response,
    Scheme,
    SecretKeyRef,
    SecretRef,
    ServiceRef,
    ShowCandidates,
    Strategy,
    Telemetry,
    Timeouts,
    Upstream,
    calls_per_request,
    member_names,
    panel_size,
    required_quorum,
    single_upstream,
)
from moa_api.reading import read
from moa_api.router import (
    DEFAULT_REPLICAS,
    Autoscaling,
    Drain,
    NetworkPolicy,
    ParentRef,
    PodDisruptionBudget,
    PodTemplate,
    Resources,
    Route,
    RouterService,
    RouterSpec,
    ServiceAccount,
    ServiceMonitor,
)

__all__ = [
    "API_VERSION",
    "DEFAULT_REPLICAS",
    "KIND",
    "MAX_CALLS",
    "OTLP",
    "TLS",
    "Aggregator",
    "Auth",
    "AuthType",
    "Autoscaling",
    "Capability",
    "ConfigMapKeyRef",
    "Drain",
    "FanOut",
    "Gate",
    "GatePolicy",
    "Hardening",
    "Limits",
    "Member",
    "Metadata",
    "MoAProfile",
    "MoAProfileSpec",
    "NetworkPolicy",
    "OnFailure",
    "OnToolTurn",
    "OnUnmet",
    "Panel",
    "ParentRef",
    "PodDisruptionBudget",
    "PodTemplate",
    "Pricing",
    "ProfileError",
    "Resources",
    "Response",
    "Route",
    "RouterService",
    "RouterSpec",
    "Scheme",
    "SecretKeyRef",
    "SecretRef",
    "ServiceAccount",
    "ServiceMonitor",
    "ServiceRef",
    "ShowCandidates",
    "Strategy",
    "Telemetry",
    "Timeouts",
    "Upstream",
    "calls_per_request",
    "dump_profile",
    "format_duration",
    "load_profile",
    "member_names",
    "panel_size",
    "parse_duration",
    "required_quorum",
    "single_upstream",
]


class ProfileError(ValueError):
    """A document is no valid MoAProfile.

    Attributes:
        problems: Everything that is wrong with it, each with its place and what to write instead.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)


def load_profile(document: object) -> MoAProfile:
    """Reads a MoAProfile.

    Args:
        document: What a JSON or YAML parser returned: the object one would ``kubectl apply``, or one read back from an
            API server.

    Returns:
        The profile, with defaults filled in and every rule kept.

    Raises:
        ProfileError: The document is no valid profile; it lists every problem, of shape and across fields.
    """
    profile, misshapen = read(MoAProfile, document)
    problems = dict.fromkeys(str(problem) for problem in [*misshapen, *rules.check(profile)])
    if problems:
        raise ProfileError(list(problems))
    return profile


def dump_profile(profile: MoAProfile) -> dict[str, object]:
    """Writes a profile as the JSON document that `load_profile` reads back as its equal, defaults included."""
    return profile.model_dump(by_alias=True, mode="json", exclude_none=True)
