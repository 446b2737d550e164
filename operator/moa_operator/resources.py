"""The kinds of objects that the operator reads or writes, and where an API server keeps them."""

from dataclasses import dataclass
from typing import Final

from moa_api.models import API_VERSION, KIND


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind of namespaced objects.

    Attributes:
        api_version: Group and version, as manifests write them.
        kind: Name of the kind, as manifests write it.
        plural: Name of the collection in URLs.
    """

    api_version: str
    kind: str
    plural: str

    @property
    def group(self) -> str:
        """API group; empty for the core of Kubernetes."""
        return self.api_version.rpartition("/")[0]

    @property
    def version(self) -> str:
        """Version within the group."""
        return self.api_version.rpartition("/")[2]

    @property
    def root(self) -> str:
        """Path of the group's version, which lists what an API server serves of it."""
        return f"/apis/{self.api_version}" if self.group else f"/api/{self.version}"

    def path(self, namespace: str | None, name: str | None = None, subresource: str | None = None) -> str:
        """Returns the path of a collection or of one object.

        Args:
            namespace: Where to look; None for all namespaces.
            name: Which object; None for the collection.
            subresource: Part of the object, such as ``status``.
        """
        parts = [self.root, f"namespaces/{namespace}" if namespace else "", self.plural, name or "", subresource or ""]
        return "/".join(part for part in parts if part)

    def __str__(self) -> str:
        return self.kind


PROFILES: Final = Resource(API_VERSION, KIND, "moaprofiles")

SERVICE_ACCOUNTS: Final = Resource("v1", "ServiceAccount", "serviceaccounts")
CONFIG_MAPS: Final = Resource("v1", "ConfigMap", "configmaps")
SERVICES: Final = Resource("v1", "Service", "services")
DEPLOYMENTS: Final = Resource("apps/v1", "Deployment", "deployments")
DISRUPTION_BUDGETS: Final = Resource("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets")
AUTOSCALERS: Final = Resource("autoscaling/v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers")
NETWORK_POLICIES: Final = Resource("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies")
SERVICE_MONITORS: Final = Resource("monitoring.coreos.com/v1", "ServiceMonitor", "servicemonitors")
HTTP_ROUTES: Final = Resource("gateway.networking.k8s.io/v1", "HTTPRoute", "httproutes")

SECRETS: Final = Resource("v1", "Secret", "secrets")
PODS: Final = Resource("v1", "Pod", "pods")
LEASES: Final = Resource("coordination.k8s.io/v1", "Lease", "leases")
EVENTS: Final = Resource("events.k8s.io/v1", "Event", "events")

BUILT_IN_CHILDREN: Final = (
    SERVICE_ACCOUNTS,
    CONFIG_MAPS,
    SERVICES,
    DEPLOYMENTS,
    DISRUPTION_BUDGETS,
    AUTOSCALERS,
    NETWORK_POLICIES,
)
"""Kinds of children that every cluster has, in the order they are applied: what a pod needs goes before it."""

OPTIONAL_CHILDREN: Final = (SERVICE_MONITORS, HTTP_ROUTES)
"""Kinds of children that a cluster has if somebody installed their definition."""

CHILDREN: Final = BUILT_IN_CHILDREN + OPTIONAL_CHILDREN
