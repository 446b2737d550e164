"""What is found out about a profile, as conditions. Pure.

Reasons are part of the API: `docs/operator.md` has a table of them, each with what to do.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from pydantic import ValidationError

from moa_api.fields import JSONObject
from moa_api.status import ConditionStatus
from moa_operator.kube.objects import KubeModel, Live
from moa_operator.reconcile.execute import Done
from moa_operator.reconcile.ownership import Ownership
from moa_operator.reconcile.readiness import Readiness
from moa_operator.reconcile.resolve import Resolution
from moa_operator.resources import Resource

ConditionType = Literal["Accepted", "ResolvedRefs", "Programmed", "Ready", "Degraded", "Paused"]

ORDER: Final[tuple[ConditionType, ...]] = (
    "Accepted",
    "ResolvedRefs",
    "Programmed",
    "Ready",
    "Degraded",
    "Paused",
)

_LONGEST: Final = 4_096


@dataclass(frozen=True)
class Finding:
    """What was found out about one aspect of a profile.

    Attributes:
        type: The aspect.
        status: Whether it holds.
        reason: Why, in one word.
        message: Why, for people.
        generation: Of the spec that was looked at.
    """

    type: ConditionType
    status: ConditionStatus
    reason: str
    message: str
    generation: int


class Condition(KubeModel):
    """A condition as it is reported."""

    type: str
    status: str
    reason: str = ""
    message: str = ""
    observed_generation: int = 0
    last_transition_time: str = ""


class _Status(KubeModel):
    conditions: tuple[Condition, ...] = ()


class _Reported(KubeModel):
    status: _Status = _Status()


def reported(profile: Live) -> dict[str, Condition]:
    """Returns the conditions that a profile has, by type."""
    try:
        status = _Reported.model_validate(profile.raw).status
    except ValidationError:  # written by somebody who does not know what belongs there
        return {}
    return {condition.type: condition for condition in status.conditions}


def merged(former: Mapping[str, Condition], findings: Iterable[Finding], now: str) -> tuple[Condition, ...]:
    """Returns the conditions to report.

    What nothing was found out about stays as it was. The transition time moves when the status does.

    Args:
        former: What was reported so far.
        findings: What was found out.
        now: The time, as RFC 3339 has it.
    """
    conditions = dict(former)
    for finding in findings:
        known = former.get(finding.type)
        moved = known is None or known.status != finding.status
        conditions[finding.type] = Condition(
            type=finding.type,
            status=finding.status,
            reason=finding.reason,
            message=finding.message[:_LONGEST],
            observed_generation=finding.generation,
            last_transition_time=now if moved or known is None else known.last_transition_time,
        )
    return tuple(conditions[kind] for kind in ORDER if kind in conditions)


def written(conditions: Iterable[Condition]) -> list[JSONObject]:
    """Returns conditions as the status has them."""
    return [condition.model_dump(by_alias=True, mode="json") for condition in conditions]


def accepted(problems: Sequence[str], generation: int) -> Finding:
    """Whether the spec is valid."""
    if problems:
        return Finding("Accepted", "False", "Invalid", "\n".join(problems), generation)
    return Finding("Accepted", "True", "Valid", "The spec is valid.", generation)


def never_accepted(generation: int) -> Finding:
    """A profile that has had no valid spec yet serves nobody."""
    return Finding("Ready", "False", "NotAccepted", "No valid spec has been written yet.", generation)


def resolved(resolution: Resolution, generation: int) -> Finding:
    """Whether everything the profile refers to exists."""
    if resolution.lacks:
        reason = f"{resolution.lacks[0].need.reference.kind}Missing"
        message = "\n".join(map(str, resolution.lacks))
        return Finding("ResolvedRefs", "False", reason, message, generation)
    if resolution.unchecked:
        unseen = ", ".join(sorted({str(need.reference) for need in resolution.unchecked}))
        message = f"The operator may not look at {unseen}; everything else exists."
        return Finding("ResolvedRefs", "True", "NotAllChecked", message, generation)
    return Finding("ResolvedRefs", "True", "Resolved", "Everything it refers to exists.", generation)


def programmed(done: Sequence[Done], left_out: Sequence[Resource], generation: int) -> Finding:
    """Whether the children are as the spec wants them.

    Args:
        done: What became of each.
        left_out: Kinds that are wanted and that the cluster does not have.
        generation: Of the spec.
    """
    for judge in (_conflicts, _refusals):
        if (problem := judge(done)) is not None:
            reason, message = problem
            return Finding("Programmed", "False", reason, message, generation)
    message = "All objects are as the spec wants them."
    if left_out:
        kinds = ", ".join(f"{each.kind} ({each.api_version})" for each in left_out)
        message = f"All objects are as the spec wants them, but for kinds that this cluster does not have: {kinds}."
    return Finding("Programmed", "True", "Applied", message, generation)


def _conflicts(done: Sequence[Done]) -> tuple[str, str] | None:
    blocked = [each.blocked for each in done if each.blocked is not None]
    foreign = [each for each in blocked if each.ownership is Ownership.FOREIGN]
    if foreign:
        names = ", ".join(f'{each.resource.kind} "{each.live.meta.name}"' for each in foreign)
        return "Conflict", f"{names}: exists and is not ours; delete or rename it, or rename the profile."
    if blocked:
        names = ", ".join(f'{each.resource.kind} "{each.live.meta.name}"' for each in blocked)
        return "Waiting", f"{names}: belongs to an earlier profile of this name, or is being deleted."
    return None


def _refusals(done: Sequence[Done]) -> tuple[str, str] | None:
    refused = [(each.resource.kind, each.refusal) for each in done if each.refusal is not None]
    if not refused:
        return None
    message = "\n".join(f"{kind}: {refusal.message}" for kind, refusal in refused)
    return ("Forbidden" if any(refusal.forbidden for _, refusal in refused) else "Refused"), message


def not_programmed_yet(generation: int) -> Finding:
    """A profile that was paused from the beginning."""
    return Finding("Programmed", "Unknown", "Paused", "Paused before anything was applied.", generation)


def ready(state: Readiness, generation: int) -> Finding:
    """Whether requests are answered."""
    pods = f"{state.ready} of {state.desired} pods are ready."
    if state.desired is None:
        return Finding("Ready", "False", "NotProgrammed", "There is no Deployment.", generation)
    if state.ready:
        return Finding("Ready", "True", "Serving", pods, generation)
    if state.desired == 0:
        return Finding("Ready", "False", "ScaledToZero", "No pods are wanted.", generation)
    if state.trouble is not None:
        return Finding("Ready", "False", state.trouble.reason, f"{pods} {state.trouble.message}", generation)
    return Finding("Ready", "False", "Starting", pods, generation)


def degraded(state: Readiness, resolution: Resolution, generation: int) -> Finding:
    """Whether something is missing that should be there, also where requests are answered without it."""
    if resolution.lacks:
        message = "Something it refers to is missing; see ResolvedRefs."
        return Finding("Degraded", "True", "ReferencesMissing", message, generation)
    if state.stalled:
        return Finding("Degraded", "True", "RolloutStalled", state.stalled, generation)
    if state.trouble is not None:
        return Finding("Degraded", "True", "PodsFailing", state.trouble.message, generation)
    return Finding("Degraded", "False", "Healthy", "Nothing is missing.", generation)


def paused(is_paused: bool, generation: int) -> Finding:
    """Whether the children are left alone."""
    if is_paused:
        return Finding("Paused", "True", "PausedBySpec", "spec.paused is true: objects are left alone.", generation)
    return Finding("Paused", "False", "NotPaused", "Changes are applied.", generation)
