"""Whether the router answers requests, and why it does not: read off its Deployment and its pods. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from pydantic import Field

from moa_operator.kube.objects import KubeModel, Live


class _Condition(KubeModel):
    type: str
    status: str = ""
    reason: str = ""
    message: str = ""


class _DeploymentSpec(KubeModel):
    replicas: int = 1


class _DeploymentStatus(KubeModel):
    observed_generation: int = 0
    replicas: int = 0
    ready_replicas: int = 0
    updated_replicas: int = 0
    conditions: tuple[_Condition, ...] = ()


class _Deployment(KubeModel):
    spec: _DeploymentSpec = _DeploymentSpec()
    status: _DeploymentStatus = _DeploymentStatus()


class _Waiting(KubeModel):
    reason: str = ""
    message: str = ""


class _State(KubeModel):
    waiting: _Waiting | None = None


class _ContainerStatus(KubeModel):
    name: str
    state: _State = _State()


class _PodStatus(KubeModel):
    phase: str = ""
    conditions: tuple[_Condition, ...] = ()
    container_statuses: tuple[_ContainerStatus, ...] = ()
    init_container_statuses: tuple[_ContainerStatus, ...] = Field(default=())


class _Pod(KubeModel):
    status: _PodStatus = _PodStatus()


_IN_GOOD_TIME: Final = frozenset({"", "ContainerCreating", "PodInitializing"})


@dataclass(frozen=True)
class Trouble:
    """What keeps a pod from becoming ready.

    Attributes:
        reason: Kubernetes' word for it, such as ``ImagePullBackOff``.
        message: Why, for people.
    """

    reason: str
    message: str


@dataclass(frozen=True)
class Readiness:
    """How the router is.

    Attributes:
        desired: Pods there should be; None where there is no Deployment.
        pods: Pods there are.
        ready: Pods that answer requests.
        stalled: What the Deployment says where its rollout makes no progress; empty where it does.
        trouble: What keeps pods from becoming ready; None where nothing is known to.
    """

    desired: int | None
    pods: int = 0
    ready: int = 0
    stalled: str = ""
    trouble: Trouble | None = None

    @property
    def complete(self) -> bool:
        """Whether all pods there should be are ready, and no others are left."""
        return self.desired is not None and self.ready == self.pods == self.desired


def readiness(deployment: Live | None) -> Readiness:
    """Reads the state of the router off its Deployment alone."""
    if deployment is None:
        return Readiness(None)
    read = _Deployment.model_validate(deployment.raw)
    stalled = [
        condition.message
        for condition in read.status.conditions
        if condition.type == "Progressing" and condition.status == "False"
    ]
    return Readiness(
        desired=read.spec.replicas,
        pods=read.status.replicas,
        ready=read.status.ready_replicas,
        stalled=" ".join(stalled),
    )


def trouble(pods: Iterable[Live]) -> Trouble | None:
    """Returns what keeps pods from becoming ready: of several the first by name, that reports do not flutter."""
    troubles: Mapping[str, Trouble] = {
        pod.meta.name: found
        for pod in pods
        if pod.meta.deletion_timestamp is None and (found := _trouble_of(_Pod.model_validate(pod.raw).status))
    }
    return troubles[min(troubles)] if troubles else None


def _trouble_of(status: _PodStatus) -> Trouble | None:
    for condition in status.conditions:
        if condition.type == "PodScheduled" and condition.status == "False":
            return Trouble(condition.reason or "Unschedulable", condition.message)
    for container in (*status.init_container_statuses, *status.container_statuses):
        waiting = container.state.waiting
        if waiting is not None and waiting.reason not in _IN_GOOD_TIME:
            return Trouble(waiting.reason, f"container {container.name}: {waiting.message or waiting.reason}")
    return None
