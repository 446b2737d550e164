"""From a profile to a running router, and what becomes of it when somebody interferes."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, cast

import pytest
from tests.api.table import SMALLEST, edited
from tests.cluster.stage_pods import Outcome
from tests.operator.cluster.access import COLLECTION_SECONDS, at, eventually
from tests.operator.documents import EVERYTHING

from moa_operator.render.labels import CONFIG_CHECKSUM, PROFILE_UID
from moa_operator.resources import (
    AUTOSCALERS,
    BUILT_IN_CHILDREN,
    CONFIG_MAPS,
    DEPLOYMENTS,
    DISRUPTION_BUDGETS,
    EVENTS,
    NETWORK_POLICIES,
    PROFILES,
    SECRETS,
    SERVICE_ACCOUNTS,
    SERVICES,
    Resource,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from tests.cluster.fixtures import Play
    from tests.operator.cluster.access import Access
    from tests.operator.cluster.processes import Process

    from moa_api.fields import JSONObject

SMALLEST_CHILDREN = (SERVICE_ACCOUNTS, CONFIG_MAPS, SERVICES, DEPLOYMENTS, DISRUPTION_BUDGETS)
ROUTER = cast("Mapping[str, object]", EVERYTHING["spec.router"])
ALL_BUILT_IN = {
    "spec.router": {
        **{name: value for name, value in ROUTER.items() if name != "route"},
        # The stage has no node for picky pods.
        "podTemplate": {"metadata": {"labels": {"team": "a"}}, "spec": {"tolerations": [{"operator": "Exists"}]}},
    }
}


async def serving(access: Access, edits: Mapping[str, object] | None = None) -> dict[str, str]:
    """A profile whose router is ready and whose references exist; returns resource versions."""
    await access.service("vllm-qwen", 8000)
    await access.profile(edited(SMALLEST, edits or {}))
    await access.until("research", Ready="True", ResolvedRefs="True", Degraded="False")
    return await access.settled()


async def test_the_smallest_profile_becomes_a_router_with_an_endpoint(access: Access, operator: Process) -> None:
    await serving(access)
    for resource in SMALLEST_CHILDREN:
        child = await access.child(resource)
        assert at(child, "metadata", "ownerReferences", 0, "kind") == "MoAProfile"
    profile = await access.get(PROFILES, "research")
    assert at(profile, "status", "endpoint") == f"http://research-moa.{access.namespace}.svc/v1"
    assert (at(profile, "status", "panelSize"), at(profile, "status", "callsPerRequest")) == (3, 4)
    assert (at(profile, "status", "replicas"), at(profile, "status", "readyReplicas")) == (2, 2)
    assert at(profile, "status", "observedGeneration") == 1
    assert at(profile, "metadata", "finalizers") is None
    assert at(profile, "metadata", "annotations") is None
    applies = await operator.samples("moa_operator_applies_total")
    assert {kind: count for (kind, outcome), count in applies.items() if outcome == "created"} == {
        resource.kind: 1 for resource in SMALLEST_CHILDREN
    }
    assert not [outcome for _, outcome in applies if outcome not in {"created", "skipped"}]


@pytest.mark.parametrize("edits", [{}, ALL_BUILT_IN], ids=["smallest", "all children"])
async def test_another_look_writes_nothing(access: Access, operator: Process, edits: Mapping[str, object]) -> None:
    before = await serving(access, edits)
    reconciles = await operator.total("moa_operator_reconciles_total")
    writes = await operator.samples("moa_operator_api_requests_total")
    await access.edit(PROFILES, "research", {"metadata": {"annotations": {"look": "again"}}})
    await eventually(lambda: operator.total("moa_operator_reconciles_total"), lambda count: count > reconciles)
    after = await access.settled()
    assert {kind for kind in after if after[kind] != before.get(kind)} == {"MoAProfile"}
    assert written(await operator.samples("moa_operator_api_requests_total")) == written(writes)


def written(requests: Mapping[tuple[str, ...], float]) -> dict[tuple[str, ...], float]:
    """Calls that write, other than renewals of the Lease; labels are code, kind and verb."""
    reads = {"get", "list", "discover"}
    return {labels: count for labels, count in requests.items() if labels[2] not in reads and labels[1] != "Lease"}


DAMAGES: Mapping[Resource, object] = {
    SERVICE_ACCOUNTS: {"automountServiceAccountToken": True},
    CONFIG_MAPS: {"data": {"profile.yaml": "gone: wrong"}},
    SERVICES: [{"op": "replace", "path": "/spec/ports/0/port", "value": 81}],
    DEPLOYMENTS: [
        {"op": "replace", "path": "/spec/replicas", "value": 1},
        {"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": "evil:1"},
        {"op": "replace", "path": "/spec/template/spec/containers/0/name", "value": "evil"},
    ],
    DISRUPTION_BUDGETS: {"spec": {"maxUnavailable": 2}},
    AUTOSCALERS: {"spec": {"maxReplicas": 100}},
    NETWORK_POLICIES: {"spec": {"ingress": []}},
}
REPAIR_SECONDS = 15.0
"""On an idle machine it takes a tenth of a second; the promise is two."""


def desired(child: JSONObject) -> tuple[object, ...]:
    return child.get("spec"), child.get("data"), at(child, "metadata", "labels"), owner(child)


def owner(child: JSONObject) -> object:
    return at(child, "metadata", "ownerReferences", 0, "uid")


async def repaired(access: Access, resource: Resource, before: JSONObject) -> None:
    async def look() -> JSONObject | None:
        return await access.get(resource, "research-moa")

    await eventually(look, lambda found: found is not None and desired(found) == desired(before), REPAIR_SECONDS)


@pytest.mark.parametrize("resource", DAMAGES, ids=str)
async def test_a_child_is_repaired_whatever_was_done_to_it(
    access: Access, operator: Process, resource: Resource
) -> None:
    assert set(DAMAGES) == set(BUILT_IN_CHILDREN)
    await serving(access, ALL_BUILT_IN)
    before = await access.child(resource)
    deeds: list[Callable[[], Awaitable[object]]] = [
        lambda: access.edit(resource, "research-moa", DAMAGES[resource]),
        lambda: access.edit(resource, "research-moa", {"metadata": {"labels": {PROFILE_UID: None}}}),
        lambda: access.edit(resource, "research-moa", {"metadata": {"labels": None}}),
        lambda: access.edit(resource, "research-moa", {"metadata": {"ownerReferences": None}}),
    ]
    for deed in deeds:
        await deed()
        await repaired(access, resource, before)
    await access.delete(resource, "research-moa")

    async def again() -> JSONObject | None:
        return await access.get(resource, "research-moa")

    await eventually(again, lambda found: found is not None and owner(found) == owner(before), REPAIR_SECONDS)


async def test_what_others_add_is_theirs(access: Access, operator: Process) -> None:
    await serving(access)
    restart = {"spec": {"template": {"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": "now"}}}}}
    await access.edit(DEPLOYMENTS, "research-moa", restart)
    await access.edit(SERVICES, "research-moa", {"metadata": {"annotations": {"theirs": "stays"}}})
    await access.edit(PROFILES, "research", {"spec": {"panel": {"members": [{"upstream": "qwen", "samples": 4}]}}})
    checksum = at(await access.child(DEPLOYMENTS), "spec", "template", "metadata", "annotations", CONFIG_CHECKSUM)

    async def annotations() -> Mapping[str, object]:
        child = await access.child(DEPLOYMENTS)
        return cast("Mapping[str, object]", at(child, "spec", "template", "metadata", "annotations"))

    found = await eventually(annotations, lambda found: found[CONFIG_CHECKSUM] != checksum)
    assert found["kubectl.kubernetes.io/restartedAt"] == "now"
    assert at(await access.child(SERVICES), "metadata", "annotations", "theirs") == "stays"


async def test_children_that_are_no_longer_wanted_go(access: Access, operator: Process) -> None:
    await serving(access, ALL_BUILT_IN)
    await access.profile(edited(SMALLEST, {"spec.router": {"podDisruptionBudget": {"enabled": False}}}))
    for resource in (DISRUPTION_BUDGETS, AUTOSCALERS, NETWORK_POLICIES):
        await eventually(lambda each=resource: access.get(each, "research-moa"), lambda found: found is None)  # type: ignore[misc] # the kind is bound
    await access.until("research", Ready="True", Programmed="True")


async def test_what_is_not_ours_is_neither_adopted_nor_pruned(access: Access, operator: Process) -> None:
    theirs = {"metadata": {"name": "research-moa"}, "spec": {"ports": [{"port": 1234}]}}
    await access.create(SERVICES, theirs)
    budget = {"metadata": {"name": "research-moa"}, "spec": {"maxUnavailable": 7}}
    await access.create(DISRUPTION_BUDGETS, budget)
    await access.profile(edited(SMALLEST, {"spec.router": {"podDisruptionBudget": {"enabled": False}}}))
    conditions = await access.until("research", Programmed="False/Conflict", Ready="True")
    assert 'Service "research-moa"' in conditions["Programmed"].message
    assert at(await access.child(SERVICES), "spec", "ports", 0, "port") == 1234
    assert at(await access.child(SERVICES), "metadata", "labels") is None
    assert at(await access.child(DISRUPTION_BUDGETS), "spec", "maxUnavailable") == 7
    await access.delete(SERVICES, "research-moa")
    await access.edit(PROFILES, "research", {"metadata": {"annotations": {"look": "again"}}})
    await access.until("research", Programmed="True")


async def test_a_missing_service_is_reported_and_healed_without_an_edit(access: Access, operator: Process) -> None:
    await access.profile(SMALLEST)
    conditions = await access.until("research", ResolvedRefs="False/ServiceMissing", Programmed="True", Ready="True")
    assert 'no Service "vllm-qwen"' in conditions["ResolvedRefs"].message
    assert conditions["Degraded"].status == "True"
    assert at(await access.get(PROFILES, "research"), "status", "upstreams", 0, "resolved") is False
    await access.service("vllm-qwen", 8000)
    await access.until("research", ResolvedRefs="True", Degraded="False")
    assert at(await access.get(PROFILES, "research"), "status", "upstreams", 0, "resolved") is True


async def test_a_rotated_key_rolls_the_pods_and_nothing_else_of_its_secret_does(
    access: Access, operator: Process
) -> None:
    key = {"data": {"api-key": encoded("old"), "unused": encoded("x")}}
    await access.create(SECRETS, {"metadata": {"name": "keys"}, **key})
    edits = {"spec.upstreams[0].apiKeySecretRef": {"name": "keys", "key": "api-key"}}
    await serving(access, edits)

    async def checksum() -> object:
        child = await access.child(DEPLOYMENTS)
        return at(child, "spec", "template", "metadata", "annotations", CONFIG_CHECKSUM)

    before = await checksum()
    await access.edit(SECRETS, "keys", {"data": {"unused": encoded("y")}, "metadata": {"labels": {"a": "b"}}})
    await access.edit(PROFILES, "research", {"metadata": {"annotations": {"look": "again"}}})
    await access.settled()
    assert await checksum() == before
    await access.edit(SECRETS, "keys", {"data": {"api-key": encoded("new")}})
    await eventually(checksum, lambda found: found != before, within=90.0)


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


BROKEN = {"spec": {"upstreams": [{"name": "qwen", "url": "http://x", "model": "m", "parameters": {"a": [2**63]}}]}}
"""What the API server takes and the models refuse."""


async def test_a_broken_spec_is_reported_and_the_last_good_router_kept_and_repaired(
    access: Access, operator: Process
) -> None:
    await serving(access)
    before = await access.child(DEPLOYMENTS)
    await access.edit(PROFILES, "research", BROKEN)
    conditions = await access.until("research", Accepted="False/Invalid")
    assert conditions["Accepted"].message == (
        "spec.upstreams[0].parameters: holds a whole number beyond 64 bits; write it as text"
    )
    assert conditions["Accepted"].observed_generation == 2
    for kind in ("ResolvedRefs", "Programmed", "Ready"):
        assert (conditions[kind].status, conditions[kind].observed_generation) == ("True", 1)
    await access.edit(DEPLOYMENTS, "research-moa", {"spec": {"replicas": 7}})
    await repaired(access, DEPLOYMENTS, before)
    await access.delete(SERVICES, "research-moa")
    await eventually(lambda: access.get(SERVICES, "research-moa"), lambda found: found is not None)
    await access.edit(PROFILES, "research", {"spec": {"upstreams": at(SMALLEST, "spec", "upstreams")}})
    await access.until("research", Accepted="True", Ready="True")


async def test_a_profile_that_was_never_valid_has_no_children_and_says_why(access: Access, operator: Process) -> None:
    await access.profile(edited(SMALLEST, {"spec.upstreams[0].parameters": {"a": [2**63]}}))
    await access.until("research", Accepted="False/Invalid", Ready="False/NotAccepted")
    assert set(await access.versions()) == {"MoAProfile"}


async def test_a_paused_profile_is_left_alone_and_still_reported(access: Access, operator: Process) -> None:
    await serving(access)
    await access.edit(PROFILES, "research", {"spec": {"paused": True, "router": {"image": "new:1"}}})
    await access.until("research", Paused="True")
    await access.edit(DEPLOYMENTS, "research-moa", {"spec": {"replicas": 3}})
    await eventually(lambda: access.get(PROFILES, "research"), lambda found: at(found, "status", "readyReplicas") == 3)
    child = await access.child(DEPLOYMENTS)
    assert at(child, "spec", "replicas") == 3
    assert at(child, "spec", "template", "spec", "containers", 0, "image") == "moa-router:test"
    await access.edit(PROFILES, "research", {"spec": {"paused": False}})
    await eventually(
        lambda: access.get(DEPLOYMENTS, "research-moa"),
        lambda found: (
            at(found, "spec", "replicas") == 2
            and at(found, "spec", "template", "spec", "containers", 0, "image") == "new:1"
        ),
    )


async def test_pods_that_fail_are_reported_with_their_reason(access: Access, operator: Process, play: Play) -> None:
    await play(Outcome.IMAGE_PULL)
    await access.service("vllm-qwen", 8000)
    await access.profile(SMALLEST)
    conditions = await access.until("research", Ready="False/ImagePullBackOff", Degraded="True/PodsFailing")
    assert "moa-router:test" in conditions["Ready"].message
    await play(Outcome.READY)
    await access.until("research", Ready="True", Degraded="False")
    await play(Outcome.CRASH_LOOP)
    await access.edit(PROFILES, "research", {"spec": {"router": {"image": "new:1"}}})
    await access.until("research", Ready="False/CrashLoopBackOff")


async def test_what_the_server_refuses_is_reported_and_the_rest_applied(access: Access, operator: Process) -> None:
    template = {"spec": {"volumes": [{"name": "Not_A_Name", "emptyDir": {}}]}}
    await access.profile(edited(SMALLEST, {"spec.router": {"podTemplate": template}}))
    conditions = await access.until("research", Programmed="False/Refused", Ready="False/NotProgrammed")
    assert "Not_A_Name" in conditions["Programmed"].message
    assert await access.get(SERVICES, "research-moa") is not None
    assert await access.get(DISRUPTION_BUDGETS, "research-moa") is not None
    await access.profile(SMALLEST)
    await access.until("research", Programmed="True", Ready="True")


async def test_replicas_are_handed_to_an_autoscaler_and_back_without_a_dip(access: Access, operator: Process) -> None:
    await serving(access, {"spec.router": {"replicas": 5}})
    seen: set[object] = set()

    async def replicas() -> object:
        found = at(await access.child(DEPLOYMENTS), "spec", "replicas")
        seen.add(found)
        return found

    await access.profile(edited(SMALLEST, {"spec.router": {"autoscaling": {"minReplicas": 2, "maxReplicas": 9}}}))
    await eventually(lambda: access.get(AUTOSCALERS, "research-moa"), lambda found: found is not None)
    await access.settled()
    assert await replicas() == 5
    scale = DEPLOYMENTS.path(access.namespace, "research-moa", "scale")
    await access.call("PATCH", scale, {"spec": {"replicas": 7}}, content_type="application/merge-patch+json")
    await access.settled()
    assert await replicas() == 7
    await access.profile(edited(SMALLEST, {"spec.router": {"replicas": 4}}))
    await eventually(replicas, lambda found: found == 4)
    await eventually(lambda: access.get(AUTOSCALERS, "research-moa"), lambda found: found is None)
    assert seen == {5, 7, 4}


async def test_a_new_autoscaled_router_begins_with_its_least(access: Access, operator: Process) -> None:
    await access.profile(edited(SMALLEST, {"spec.router": {"autoscaling": {"minReplicas": 3, "maxReplicas": 9}}}))
    await access.until("research", Ready="True")
    await access.settled()
    assert at(await access.child(DEPLOYMENTS), "spec", "replicas") == 3


async def test_events_tell_of_turns_and_of_nothing_else(access: Access, operator: Process) -> None:
    await serving(access)
    await access.edit(PROFILES, "research", BROKEN)
    await access.until("research", Accepted="False")

    async def told() -> list[tuple[object, object]]:
        events = await access.call("GET", EVENTS.path(access.namespace))
        entries = [each for each in cast("list[object]", events["items"]) if about_us(each)]
        return sorted((str(at(each, "action")), str(at(each, "reason"))) for each in entries)

    def about_us(event: object) -> bool:
        return at(event, "regarding", "kind") == "MoAProfile" and at(event, "regarding", "name") == "research"

    expected = {("Accepted", "Valid"), ("Accepted", "Invalid"), ("Programmed", "Applied"), ("Ready", "Serving")}
    found = await eventually(told, lambda found: expected <= set(found))
    reconciles = await operator.total("moa_operator_reconciles_total")
    await access.edit(PROFILES, "research", {"metadata": {"annotations": {"look": "again"}}})
    await eventually(lambda: operator.total("moa_operator_reconciles_total"), lambda count: count > reconciles)
    assert await told() == found


@pytest.mark.timeout(300)
async def test_children_go_with_their_profile(access: Access, operator: Process) -> None:
    await serving(access)
    await access.delete(PROFILES, "research")
    await eventually(access.versions, lambda found: found == {}, COLLECTION_SECONDS)
    assert await operator.total("moa_operator_profiles") == 0
    await access.profile(SMALLEST)
    await access.until("research", Ready="True")
