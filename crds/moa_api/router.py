"""How the router runs in the cluster: what becomes of a profile beyond the fusion itself.

The operator honours these; the router reads `Drain` alone.
"""

from typing import Annotated, Final, Literal

from pydantic import ConfigDict, Field

from moa_api.fields import (
    Between,
    Duration,
    DurationOrNone,
    FreeForm,
    HostName,
    Image,
    IntOrPercent,
    Label,
    ObjectName,
    Quantity,
    StringMap,
)
from moa_api.section import Section, cel

RouterMode = Literal["Deployment"]
ImagePullPolicy = Literal["Always", "IfNotPresent", "Never"]
ServiceType = Literal["ClusterIP", "NodePort", "LoadBalancer"]

DEFAULT_REPLICAS: Final = 2
"""Router pods where the profile says neither `replicas` nor `autoscaling`."""


class Drain(Section):
    """How the router leaves."""

    delay: DurationOrNone = 5.0
    """Time it keeps accepting requests after it has been told to stop and reports unready."""

    timeout: DurationOrNone = 60.0
    """Time that requests in flight then have to finish."""


class Requests(Section):
    """What a router pod is sure to get."""

    cpu: Quantity | None = "250m"
    """Processor time, in cores."""

    memory: Quantity | None = "256Mi"
    """Memory, in bytes."""

    ephemeral_storage: Quantity | None = Field(default=None, alias="ephemeral-storage")
    """Disk, in bytes."""


class ResourceLimits(Section):
    """What a router pod may use at most."""

    cpu: Quantity | None = None
    """Processor time, in cores; unlimited where left out."""

    memory: Quantity | None = "1Gi"
    """Memory, in bytes; the pod is killed beyond."""

    ephemeral_storage: Quantity | None = Field(default=None, alias="ephemeral-storage")
    """Disk, in bytes; unlimited where left out."""


class Resources(Section):
    """Processor time and memory of a router pod."""

    requests: Requests = Field(default_factory=Requests)
    """What it is sure to get."""

    limits: ResourceLimits = Field(default_factory=ResourceLimits)
    """What it may use at most."""


class Autoscaling(Section):
    """How many router pods there are, by their load."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            (
                "self.minReplicas <= self.maxReplicas",
                "minReplicas is more than maxReplicas; write a lower minReplicas or a higher maxReplicas",
            )
        )
    )

    min_replicas: Annotated[int, Between(1, 1_000)] = 2
    """Pods there are at least."""

    max_replicas: Annotated[int, Between(1, 1_000)]
    """Pods there are at most."""

    target_cpu_utilization: Annotated[int, Between(1, 1_000)] = Field(default=80, alias="targetCPUUtilization")
    """Processor time used, in percent of what is requested, beyond which pods are added."""


class PodDisruptionBudget(Section):
    """How many router pods may leave at a time when nodes are drained."""

    enabled: bool = True
    """Whether there is a budget."""

    max_unavailable: IntOrPercent = 1
    """Pods that may be missing: a number, or a percentage such as "25%"."""


class NetworkPolicy(Section):
    """Who may connect to the router."""

    enabled: bool = False
    """Whether anybody is kept out. Everyone in the cluster may connect where not."""

    from_: tuple[FreeForm, ...] = Field(default=(), alias="from", strict=False, max_length=32)
    """Who may connect to the client port, as the peers of a Kubernetes NetworkPolicy; the pods of the profile's
    namespace where empty. The admin port stays open to metrics collectors."""


class RouterService(Section):
    """The Service in front of the router."""

    type: ServiceType = "ClusterIP"
    """Who reaches it: ClusterIP the cluster, NodePort the nodes' network, LoadBalancer whom the cloud lets in."""

    annotations: StringMap = Field(default_factory=dict)
    """Annotations of the Service, for load balancers and the like."""


class ServiceAccount(Section):
    """The identity of the router's pods. It has no rights in the cluster and no token in the pods."""

    annotations: StringMap = Field(default_factory=dict)
    """Annotations of the ServiceAccount, for cloud identities and the like."""


class ServiceMonitor(Section):
    """A ServiceMonitor of the Prometheus operator; made only where that is installed."""

    enabled: bool = False
    """Whether there is one."""

    interval: Duration = 30.0
    """Time between two collections."""

    labels: StringMap = Field(default_factory=dict)
    """Labels by which a Prometheus selects it."""


class ParentRef(Section):
    """A Gateway that the route attaches to."""

    name: ObjectName
    """Name of the Gateway."""

    namespace: Label | None = None
    """Namespace of the Gateway; the profile's own where left out."""

    section_name: ObjectName | None = None
    """Listener of the Gateway; all that allow it where left out."""

    port: Annotated[int, Between(1, 65_535)] | None = None
    """Port of the Gateway; all where left out."""


class Route(Section):
    """An HTTPRoute of the Gateway API to the router; made only where that is installed."""

    parent_refs: tuple[ParentRef, ...] = Field(strict=False, min_length=1, max_length=16)
    """The Gateways it attaches to."""

    hostnames: tuple[HostName, ...] = Field(default=(), strict=False, max_length=16)
    """Names under which clients reach the router; all of the Gateway's where empty."""


class PodMetadata(Section):
    """Labels and annotations of the router's pods."""

    labels: StringMap = Field(default_factory=dict)
    """Further labels. Those that the operator selects pods by stay as they are."""

    annotations: StringMap = Field(default_factory=dict)
    """Further annotations."""


class PodTemplate(Section):
    """What the router's pods have besides, or instead of, what the operator gives them."""

    metadata: PodMetadata = Field(default_factory=PodMetadata)
    """Labels and annotations."""

    spec: FreeForm = Field(default_factory=dict)
    """Part of a Kubernetes PodSpec: tolerations, nodeSelector, affinity, priorityClassName, imagePullSecrets, volumes
    and the like. Objects are merged, lists by the name of their entries; the router's own container is "router"."""


class RouterSpec(Section):
    """How the router runs."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            (
                "!(has(self.replicas) && has(self.autoscaling))",
                "write one of replicas and autoscaling, not both",
            )
        )
    )

    mode: RouterMode = "Deployment"
    """Where it runs: Deployment has pods of its own behind a Service."""

    replicas: Annotated[int, Between(0, 1_000)] | None = None
    """Router pods; 2 where left out. Write it to use `kubectl scale`. Not together with `autoscaling`."""

    autoscaling: Autoscaling | None = None
    """Have a HorizontalPodAutoscaler decide how many pods there are. Not together with `replicas`."""

    image: Image | None = None
    """Container image; the one that belongs to the operator where left out."""

    image_pull_policy: ImagePullPolicy = "IfNotPresent"
    """When the image is pulled."""

    resources: Resources = Field(default_factory=Resources)
    """Processor time and memory of a pod."""

    drain: Drain = Field(default_factory=Drain)
    """How the router leaves."""

    service: RouterService = Field(default_factory=RouterService)
    """The Service in front of the router."""

    service_account: ServiceAccount = Field(default_factory=ServiceAccount)
    """The identity of the router's pods."""

    pod_disruption_budget: PodDisruptionBudget = Field(default_factory=PodDisruptionBudget)
    """How many pods may leave at a time."""

    network_policy: NetworkPolicy = Field(default_factory=NetworkPolicy)
    """Who may connect."""

    route: Route | None = None
    """How clients outside the cluster reach the router through a Gateway; they do not where left out."""

    pod_template: PodTemplate = Field(default_factory=PodTemplate)
    """What pods have besides, for whatever the fields above do not say."""
