"""What the stage makes of a pod: pure decisions and the statuses that a kubelet would have written."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, TypeAlias

from pydantic import Field, field_validator
from tests.cluster.kube import KubeModel

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tests.cluster.kube import JsonObject

NODE = "stage-0"
RULE_LABEL = "stage.moa-operator.io/rule"

_RESTARTS_OF_A_CRASH_LOOP = 3


class Outcome(StrEnum):
    """How a pod's life on the stage goes."""

    READY = "Ready"
    NOT_READY = "NotReady"
    """Runs, and its readiness probe fails."""
    IMAGE_PULL = "ImagePullBackOff"
    CRASH_LOOP = "CrashLoopBackOff"
    UNSCHEDULABLE = "Unschedulable"
    """Fits on no node; pods that are bound already play on as `Ready`."""


class Meta(KubeModel):
    """An object's metadata."""

    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    labels: dict[str, str] = Field(default_factory=dict)
    deletion_timestamp: str = ""


class Container(KubeModel):
    """A container as the pod asks for it; a restart policy makes an init container a sidecar."""

    name: str
    image: str = ""
    restart_policy: str = ""


class PodSpec(KubeModel):
    """What the stage reads of a pod's spec."""

    node_name: str = ""
    scheduler_name: str = "default-scheduler"
    scheduling_gates: tuple[dict[str, str], ...] = ()
    init_containers: tuple[Container, ...] = ()
    containers: tuple[Container, ...] = ()


class Condition(KubeModel):
    """A pod's condition."""

    type: str
    status: str
    reason: str | None = None
    last_transition_time: str | None = None


class Waiting(KubeModel):
    """Why a container waits."""

    reason: str = ""


class ContainerState(KubeModel):
    """What a container does."""

    waiting: Waiting | None = None


class ContainerStatus(KubeModel):
    """A container's status."""

    state: ContainerState = ContainerState()


class PodStatus(KubeModel):
    """A pod's status."""

    phase: str = "Pending"
    pod_ip: str = Field(default="", alias="podIP")
    start_time: str | None = None
    conditions: tuple[Condition, ...] = ()
    container_statuses: tuple[ContainerStatus, ...] = ()


class Pod(KubeModel):
    """A pod, as far as the stage cares."""

    metadata: Meta
    spec: PodSpec
    status: PodStatus = PodStatus()


class RuleData(KubeModel):
    """The content of a rule's ConfigMap."""

    outcome: Outcome
    selector: dict[str, str] = Field(default_factory=dict)
    ready_after: float = Field(default=0.0, ge=0)

    @field_validator("selector", mode="before")
    @classmethod
    def _parse_selector(cls, text: object) -> object:
        if not isinstance(text, str):
            return text
        pairs = [pair.partition("=") for pair in text.split(",") if pair]
        return {key.strip(): value.strip() for key, _, value in pairs}


class Rule(KubeModel):
    """A ConfigMap that tells the stage how the pods of its namespace fare."""

    metadata: Meta
    data: RuleData


DEFAULT = RuleData(outcome=Outcome.READY)


def rule_manifest(
    name: str, outcome: Outcome, selector: Mapping[str, str] | None = None, ready_after: float = 0.0
) -> JsonObject:
    """The ConfigMap that makes the pods of its namespace fare as said, until it is changed or deleted.

    Args:
        name: Of the ConfigMap; of several rules that match a pod the first by name counts.
        outcome: What becomes of the pods, those that run already included.
        selector: The labels that a pod must have; all pods by default.
        ready_after: Seconds from a pod's start until it is ready.
    """
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "labels": {RULE_LABEL: "true"}},
        "data": {
            "outcome": outcome.value,
            "selector": ",".join(f"{key}={value}" for key, value in (selector or {}).items()),
            "readyAfter": str(ready_after),
        },
    }


def rule_for(pod: Pod, rules: Iterable[Rule]) -> RuleData:
    """The rule that decides about a pod."""
    matching = (
        rule
        for rule in rules
        if rule.metadata.namespace == pod.metadata.namespace
        and rule.data.selector.items() <= pod.metadata.labels.items()
    )
    first = min(matching, key=lambda rule: rule.metadata.name, default=None)
    return DEFAULT if first is None else first.data


@dataclass(frozen=True)
class Bind:
    """Put the pod on the stage's node."""


@dataclass(frozen=True)
class Confirm:
    """Confirm that a pod which is to be deleted has stopped."""


@dataclass(frozen=True)
class Show:
    """Write a status."""

    status: JsonObject


Step: TypeAlias = Bind | Confirm | Show


@dataclass(frozen=True)
class _Appearance:
    phase: str
    waiting: str = ""
    ready: bool = False


def next_step(pod: Pod, outcome: Outcome, address: str, now: str) -> Step | None:
    """What to do about a pod now; None when it is as it should be, or not the stage's.

    Args:
        pod: As it is.
        outcome: What should become of it; `NOT_READY` while it is still starting.
        address: The pod's IP address.
        now: The time, as RFC 3339 has it.
    """
    if pod.metadata.deletion_timestamp:
        return Confirm() if pod.spec.node_name == NODE else None
    if not pod.spec.node_name:
        return _schedule(pod, outcome, now)
    if pod.spec.node_name != NODE or pod.status.phase in {"Succeeded", "Failed"}:
        return None
    wanted = _wanted(outcome)
    return None if _appearance(pod) == wanted else Show(_status(pod, wanted, address, now))


def _schedule(pod: Pod, outcome: Outcome, now: str) -> Step | None:
    if pod.spec.scheduling_gates or pod.spec.scheduler_name != "default-scheduler":
        return None
    if outcome is not Outcome.UNSCHEDULABLE:
        return Bind()
    if any(condition.type == "PodScheduled" for condition in pod.status.conditions):
        return None
    refused: JsonObject = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "0/1 nodes are available: 1 Insufficient cpu.",
        "lastTransitionTime": now,
    }
    return Show({"conditions": [refused]})


def _wanted(outcome: Outcome) -> _Appearance:
    match outcome:
        case Outcome.READY | Outcome.UNSCHEDULABLE:
            return _Appearance("Running", ready=True)
        case Outcome.NOT_READY:
            return _Appearance("Running")
        case Outcome.CRASH_LOOP:
            return _Appearance("Running", waiting=outcome.value)
        case Outcome.IMAGE_PULL:
            return _Appearance("Pending", waiting=outcome.value)


def _appearance(pod: Pod) -> _Appearance:
    reasons = [container.state.waiting.reason for container in pod.status.container_statuses if container.state.waiting]
    ready = any(condition.type == "Ready" and condition.status == "True" for condition in pod.status.conditions)
    # A pod that nobody has looked at yet is pending too; an unlike waiting reason tells it from one that cannot pull.
    return _Appearance(pod.status.phase, reasons[0] if reasons else "", ready)


def _status(pod: Pod, wanted: _Appearance, address: str, now: str) -> JsonObject:
    status: JsonObject = {
        "phase": wanted.phase,
        "startTime": pod.status.start_time or now,
        "conditions": [*_conditions(pod, wanted, now)],
        "initContainerStatuses": [_init_status(container, now) for container in pod.spec.init_containers],
        "containerStatuses": [_container_status(container, wanted, now) for container in pod.spec.containers],
    }
    if wanted.phase == "Running":
        status |= {"podIP": address, "podIPs": [{"ip": address}]}
    return status


def _conditions(pod: Pod, wanted: _Appearance, now: str) -> Iterable[JsonObject]:
    before = {condition.type: condition for condition in pod.status.conditions}
    truths = {
        "PodReadyToStartContainers": True,
        "Initialized": True,
        "ContainersReady": wanted.ready,
        "Ready": wanted.ready,
    }
    for kind, truth in truths.items():
        known = before.get(kind)
        moved = known is None or known.status != str(truth)
        condition: JsonObject = {
            "type": kind,
            "status": str(truth),
            "lastTransitionTime": now if known is None or moved else known.last_transition_time,
            "reason": None if truth else "ContainersNotReady",
        }
        yield condition


def _init_status(container: Container, now: str) -> JsonObject:
    done: JsonObject = {"terminated": {"exitCode": 0, "reason": "Completed", "startedAt": now, "finishedAt": now}}
    sidecar = container.restart_policy == "Always"
    return _named(container) | {
        "ready": True,
        "started": sidecar,
        "restartCount": 0,
        "state": {"running": {"startedAt": now}} if sidecar else done,
    }


def _container_status(container: Container, wanted: _Appearance, now: str) -> JsonObject:
    status = _named(container) | {"ready": wanted.ready, "started": not wanted.waiting, "restartCount": 0}
    match wanted.waiting:
        case Outcome.IMAGE_PULL:
            message = f'Back-off pulling image "{container.image}"'
            return status | {"state": {"waiting": {"reason": wanted.waiting, "message": message}}}
        case Outcome.CRASH_LOOP:
            message = f"back-off 40s restarting failed container={container.name}"
            failed: JsonObject = {"exitCode": 1, "reason": "Error", "startedAt": now, "finishedAt": now}
            return status | {
                "restartCount": _RESTARTS_OF_A_CRASH_LOOP,
                "state": {"waiting": {"reason": wanted.waiting, "message": message}},
                "lastState": {"terminated": failed},
            }
        case _:
            return status | {"state": {"running": {"startedAt": now}}}


def _named(container: Container) -> JsonObject:
    return {"name": container.name, "image": container.image, "imageID": ""}
