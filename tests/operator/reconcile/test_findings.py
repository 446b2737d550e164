"""From what there is to what is reported."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import pytest
from tests.operator.documents import EVERYTHING, document, profile

from moa_api.status import MoAProfileStatus
from moa_operator.kube.errors import Refused
from moa_operator.kube.objects import Live
from moa_operator.reconcile import conditions
from moa_operator.reconcile.accept import accept
from moa_operator.reconcile.execute import Done
from moa_operator.reconcile.ownership import Ownership
from moa_operator.reconcile.plan import Blocked
from moa_operator.reconcile.readiness import Readiness, Trouble, readiness, trouble
from moa_operator.reconcile.resolve import Forbidden, resolve
from moa_operator.reconcile.status import figures
from moa_operator.references import Reference, mounted, needs
from moa_operator.render.children import children
from moa_operator.resources import CONFIG_MAPS, DEPLOYMENTS, HTTP_ROUTES, SERVICES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from moa_operator.reconcile.conditions import Condition, Finding
    from moa_operator.reconcile.resolve import Found, Resolution

THERE = Readiness(2, 2, 2)


def service(*ports: int, version: str = "1", **spec: object) -> Live:
    entries = [{"port": port} for port in ports]
    return Live({"metadata": {"name": "s", "resourceVersion": version}, "spec": {"ports": entries, **spec}})  # type: ignore[dict-item] # as tests need it


def secret(version: str = "1", **entries: str) -> Live:
    data = {name: base64.b64encode(value.encode()).decode() for name, value in entries.items()}
    return Live({"metadata": {"name": "s", "resourceVersion": version}, "data": {**data}})


QWEN = Reference("Service", "team-a", "vllm-qwen")
KEYS = Reference("Secret", "team-a", "vllm.keys")
TENANTS = Reference("Secret", "team-a", "tenants")
AUTHORITIES = Reference("ConfigMap", "team-a", "authorities")

COMPLETE: Mapping[Reference, Found] = {
    QWEN: service(8000),
    KEYS: secret(**{"api-key": "a", "other-key": "b"}),
    TENANTS: secret(acme="k"),
    AUTHORITIES: Live({"metadata": {"name": "c", "resourceVersion": "4"}, "data": {"ca.crt": "pem"}}),
}


def resolution(changes: Mapping[Reference, Found] | None = None) -> Resolution:
    return resolve(needs(profile(EVERYTHING)), {**COMPLETE, **(changes or {})})


def test_a_profile_refers_to_what_it_names_and_mounts_no_more_than_it_asks_for() -> None:
    assert {need.reference for need in needs(profile(EVERYTHING))} == set(COMPLETE)
    assert mounted(profile(EVERYTHING)) == {
        ("ConfigMap", "authorities"): frozenset({"ca.crt"}),
        ("Secret", "tenants"): None,
        ("Secret", "vllm.keys"): frozenset({"api-key", "other-key"}),
    }


def test_a_service_may_be_in_another_namespace() -> None:
    [need] = needs(profile({"spec.upstreams[0].service.namespace": "models"}))
    assert need.reference == Reference("Service", "models", "vllm-qwen")


def test_everything_that_is_there_is_resolved() -> None:
    found = resolution()
    assert (found.lacks, found.unchecked) == ((), ())
    assert found.versions == {QWEN: "1", KEYS: "1", TENANTS: "1", AUTHORITIES: "4"}


@pytest.mark.parametrize(
    ("changes", "problems"),
    [
        (
            {QWEN: None},
            ['spec.upstreams[0].service: no Service "vllm-qwen" in namespace "team-a"; create it, or correct the name'],
        ),
        (
            {QWEN: service(80, 443)},
            ['spec.upstreams[0].service: Service "vllm-qwen" in namespace "team-a" has no port 8000; it has 80, 443'],
        ),
        (
            {KEYS: secret(**{"api-key": "a"})},
            [f'spec.upstreams[1].apiKeySecretRef: {KEYS} has no entry "other-key"; it has "api-key"'],
        ),
        (
            {TENANTS: secret()},
            [f"spec.auth.secretRef: {TENANTS} is empty; add an entry per tenant, with its key as the value"],
        ),
    ],
    ids=["no Service", "no port", "no entry", "no tenants"],
)
def test_what_is_missing_is_named_with_its_place_and_what_to_do(
    changes: Mapping[Reference, Found], problems: list[str]
) -> None:
    assert [str(lack) for lack in resolution(changes).lacks] == problems


def test_an_alias_in_the_dns_has_every_port() -> None:
    assert resolution({QWEN: service(type="ExternalName")}).lacks == ()


def test_what_may_not_be_looked_at_is_not_missing_and_not_watched() -> None:
    found = resolution({QWEN: Forbidden()})
    assert found.lacks == ()
    assert [need.reference for need in found.unchecked] == [QWEN]
    assert QWEN not in found.versions
    finding = conditions.resolved(found, 3)
    assert (finding.status, finding.reason) == ("True", "NotAllChecked")


def test_pods_roll_when_an_entry_they_mount_changes_and_for_nothing_else() -> None:
    before = resolution().digest
    assert resolution({KEYS: secret("2", **{"api-key": "new", "other-key": "b"})}).digest != before
    assert resolution({TENANTS: secret(acme="k", globex="l")}).digest != before
    assert resolution({TENANTS: None}).digest != before
    assert resolution({KEYS: secret("2", **{"api-key": "a", "other-key": "b", "unused": "c"})}).digest == before
    assert resolution({QWEN: service(8000, 9000, version="7")}).digest == before


# Accepting.


INVALID = {"spec.upstreams[0].parameters": {"a": [2**63]}}
"""What only the models refuse."""


def config_map(edits: Mapping[str, object] | None = None) -> Live:
    return Live(children(profile(edits), "", "i")[CONFIG_MAPS])


def written(edits: Mapping[str, object] | None = None) -> Live:
    return Live(document(edits))  # type: ignore[arg-type] # a document is JSON


def test_a_valid_spec_is_gone_by() -> None:
    judged = accept(written({"spec.panel.quorum": 1}), config_map())
    assert judged.problems == ()
    assert judged.profile == profile({"spec.panel.quorum": 1})


def test_an_invalid_spec_is_reported_and_the_last_valid_one_gone_by() -> None:
    judged = accept(written({**INVALID, "metadata.generation": 9}), config_map({"metadata.generation": 3}))
    assert judged.problems == ("spec.upstreams[0].parameters: holds a whole number beyond 64 bits; write it as text",)
    assert judged.profile == profile({"metadata.generation": 3, "metadata.resourceVersion": "41"})


@pytest.mark.parametrize("data", [None, {}, {"accepted.json": "{"}, {"accepted.json": "[]"}, {"accepted.json": "{}"}])
def test_without_a_last_valid_spec_there_is_nothing_to_go_by(data: object) -> None:
    damaged = Live({"metadata": {"name": "c"}, "data": data})  # type: ignore[dict-item] # as tests need it
    for found in (None, damaged):
        judged = accept(written(INVALID), found)
        assert judged.profile is None
        assert judged.problems


# Readiness.


def deployment(replicas: int, status: Mapping[str, object]) -> Live:
    return Live({"metadata": {"name": "d"}, "spec": {"replicas": replicas}, "status": status})  # type: ignore[dict-item] # as tests need it


def pod(name: str, **status: object) -> Live:
    return Live({"metadata": {"name": name}, "status": status})  # type: ignore[dict-item] # as tests need it


def waiting(reason: str, message: str = "") -> Mapping[str, object]:
    state = {"waiting": {"reason": reason, "message": message}}
    return {"containerStatuses": [{"name": "router", "state": state}]}


def test_readiness_is_read_off_the_deployment() -> None:
    assert readiness(None) == Readiness(None)
    found = readiness(deployment(3, {"replicas": 4, "readyReplicas": 2}))
    assert found == Readiness(3, 4, 2)
    assert not found.complete
    assert readiness(deployment(2, {"replicas": 2, "readyReplicas": 2})).complete
    stalled = {"conditions": [{"type": "Progressing", "status": "False", "message": "took too long"}]}
    assert readiness(deployment(2, stalled)).stalled == "took too long"


@pytest.mark.parametrize(
    ("pods", "found"),
    [
        ([], None),
        ([pod("a", **waiting("ContainerCreating"))], None),
        (
            [pod("b", **waiting("CrashLoopBackOff")), pod("a", **waiting("ImagePullBackOff", "no such image"))],
            Trouble("ImagePullBackOff", "container router: no such image"),
        ),
        (
            [
                pod(
                    "a",
                    conditions=[
                        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no room"}
                    ],
                )
            ],
            Trouble("Unschedulable", "no room"),
        ),
        (
            [Live({"metadata": {"name": "a", "deletionTimestamp": "2026-11-21T10:00:00Z"}})],
            None,
        ),
    ],
    ids=["no pods", "starting", "first by name", "no room", "leaving"],
)
def test_pods_say_why_they_are_not_ready(pods: list[Live], found: Trouble | None) -> None:
    assert trouble(pods) == found


@pytest.mark.parametrize(
    ("state", "status", "reason"),
    [
        (Readiness(None), "False", "NotProgrammed"),
        (Readiness(2, 2, 2), "True", "Serving"),
        (Readiness(2, 3, 1, trouble=Trouble("CrashLoopBackOff", "x")), "True", "Serving"),
        (Readiness(0, 0, 0), "False", "ScaledToZero"),
        (Readiness(2, 2, 0), "False", "Starting"),
        (Readiness(2, 2, 0, trouble=Trouble("CrashLoopBackOff", "x")), "False", "CrashLoopBackOff"),
    ],
)
def test_ready_means_that_requests_are_answered(state: Readiness, status: str, reason: str) -> None:
    finding = conditions.ready(state, 1)
    assert (finding.status, finding.reason) == (status, reason)


@pytest.mark.parametrize(
    ("state", "changes", "reason"),
    [
        (THERE, {}, "Healthy"),
        (Readiness(2, 2, 1), {}, "Healthy"),
        (THERE, {QWEN: None}, "ReferencesMissing"),
        (Readiness(2, 3, 2, stalled="took too long"), {}, "RolloutStalled"),
        (Readiness(2, 3, 2, trouble=Trouble("ImagePullBackOff", "x")), {}, "PodsFailing"),
    ],
)
def test_degraded_means_that_something_is_missing(
    state: Readiness, changes: Mapping[Reference, Found], reason: str
) -> None:
    finding = conditions.degraded(state, resolution(changes), 1)
    assert finding.reason == reason
    assert finding.status == ("False" if reason == "Healthy" else "True")


def blocked(ownership: Ownership) -> Done:
    there = Live({"metadata": {"name": "research-moa"}})
    return Done(SERVICES, "blocked", blocked=Blocked(SERVICES, there, ownership))


@pytest.mark.parametrize(
    ("done", "status", "reason"),
    [
        ([Done(SERVICES, "skipped")], "True", "Applied"),
        ([blocked(Ownership.FOREIGN), blocked(Ownership.LEAVING)], "False", "Conflict"),
        ([blocked(Ownership.PREDECESSOR)], "False", "Waiting"),
        ([Done(DEPLOYMENTS, "refused", refusal=Refused(422, "Invalid", "bad volume"))], "False", "Refused"),
        ([Done(DEPLOYMENTS, "refused", refusal=Refused(403, "Forbidden", "quota"))], "False", "Forbidden"),
    ],
)
def test_programmed_means_that_children_are_as_wanted(done: list[Done], status: str, reason: str) -> None:
    finding = conditions.programmed(done, (), 1)
    assert (finding.status, finding.reason) == (status, reason)


def test_kinds_that_the_cluster_lacks_are_mentioned() -> None:
    finding = conditions.programmed([], (HTTP_ROUTES,), 1)
    assert finding.status == "True"
    assert "HTTPRoute (gateway.networking.k8s.io/v1)" in finding.message


# Reporting.


def reported(*findings: Finding, now: str, former: tuple[Condition, ...] = ()) -> tuple[Condition, ...]:
    return conditions.merged({condition.type: condition for condition in former}, findings, now)


def test_the_transition_time_moves_when_the_status_does_and_only_then() -> None:
    first = reported(conditions.ready(Readiness(2, 2, 0), 1), now="t1")
    other_reason = reported(
        conditions.ready(Readiness(2, 2, 0, trouble=Trouble("CrashLoopBackOff", "x")), 2), now="t2", former=first
    )
    turned = reported(conditions.ready(THERE, 2), now="t3", former=other_reason)
    assert [each.last_transition_time for (each,) in (first, other_reason, turned)] == ["t1", "t1", "t3"]
    assert (other_reason[0].reason, other_reason[0].observed_generation) == ("CrashLoopBackOff", 2)


def test_what_nothing_was_found_out_about_stays_as_it_was() -> None:
    before = reported(conditions.accepted((), 1), conditions.ready(THERE, 1), now="t1")
    after = reported(conditions.accepted(["wrong"], 2), now="t2", former=before)
    assert [(each.type, each.status, each.observed_generation) for each in after] == [
        ("Accepted", "False", 2),
        ("Ready", "True", 1),
    ]


def test_the_status_is_one_the_schema_knows() -> None:
    found = resolution({QWEN: None})
    status = {
        **figures(profile(EVERYTHING), THERE, found),
        "observedGeneration": 3,
        "conditions": conditions.written(
            reported(
                conditions.accepted((), 3),
                conditions.resolved(found, 3),
                conditions.programmed((), (), 3),
                conditions.ready(THERE, 3),
                conditions.degraded(THERE, found, 3),
                conditions.paused(is_paused=False, generation=3),
                now="2026-11-21T10:00:00Z",
            )
        ),
    }
    read = MoAProfileStatus.model_validate(status, strict=False, by_alias=True)
    assert read.endpoint == "http://research-moa.team-a.svc/v1"
    assert [(each.name, each.resolved) for each in read.upstreams] == [("qwen", False), ("gpt", True)]
    assert [each.type for each in read.conditions] == list(conditions.ORDER)
