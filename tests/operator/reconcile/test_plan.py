"""What is decided about each child."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.operator.documents import UID, profile
from tests.operator.reconcile.test_compare import at, edited, live, wanted

from moa_operator.kube.objects import Live
from moa_operator.reconcile.ownership import Ownership, may_prune, ownership
from moa_operator.reconcile.plan import Apply, Blocked, Keep, Prune, plan
from moa_operator.render.children import children
from moa_operator.resources import (
    AUTOSCALERS,
    CHILDREN,
    DEPLOYMENTS,
    DISRUPTION_BUDGETS,
    HTTP_ROUTES,
    SERVICES,
    Resource,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from moa_api.fields import JSONObject
    from moa_operator.reconcile.plan import Step

META = profile().metadata


def thing(**metadata: object) -> Live:
    return Live({"metadata": {"name": "research-moa", "namespace": "team-a", **metadata}})  # type: ignore[dict-item] # as tests need it


LABELLED = {"labels": {"moa-operator.io/profile-uid": UID}}
OWNED = {"ownerReferences": [{"uid": UID}]}
OTHERS = {"labels": {"moa-operator.io/profile-uid": "another"}}


@pytest.mark.parametrize(
    ("metadata", "whose"),
    [
        ({**LABELLED, **OWNED}, Ownership.OURS),
        (LABELLED, Ownership.OURS),
        (OWNED, Ownership.OURS),
        ({}, Ownership.FOREIGN),
        ({"ownerReferences": [{"uid": "another"}]}, Ownership.FOREIGN),
        (OTHERS, Ownership.PREDECESSOR),
        ({**LABELLED, **OWNED, "deletionTimestamp": "2026-11-21T10:00:00Z"}, Ownership.LEAVING),
    ],
)
def test_an_object_is_ours_that_says_so_by_label_or_owner(metadata: Mapping[str, object], whose: Ownership) -> None:
    assert ownership(thing(**metadata), META) is whose


@pytest.mark.parametrize("metadata", [LABELLED, OWNED, {}, {**OTHERS, **OWNED}, {**LABELLED, "ownerReferences": []}])
def test_nothing_is_pruned_that_does_not_say_twice_that_it_is_ours(metadata: Mapping[str, object]) -> None:
    assert not may_prune(thing(**metadata), META)
    assert may_prune(thing(**LABELLED, **OWNED), META)


def planned(manifests: Mapping[Resource, JSONObject], world: Mapping[Resource, Live | None]) -> tuple[Step, ...]:
    return plan(META, manifests, world)


def test_what_is_not_there_is_applied_and_what_is_in_step_is_kept() -> None:
    manifests = {DEPLOYMENTS: wanted(DEPLOYMENTS), SERVICES: wanted(SERVICES)}
    steps = planned(manifests, {DEPLOYMENTS: live(DEPLOYMENTS), SERVICES: None})
    assert steps == (Keep(DEPLOYMENTS, live(DEPLOYMENTS)), Apply(SERVICES, manifests[SERVICES], None))


def test_what_stands_in_the_way_is_left_alone() -> None:
    assert planned({SERVICES: wanted(SERVICES)}, {SERVICES: thing()}) == (
        Blocked(SERVICES, thing(), Ownership.FOREIGN),
    )


def test_what_is_no_longer_wanted_is_pruned_if_it_is_ours() -> None:
    ours, theirs = thing(**LABELLED, **OWNED), thing()
    steps = planned({}, {DISRUPTION_BUDGETS: ours, AUTOSCALERS: theirs, SERVICES: None})
    assert steps == (Prune(DISRUPTION_BUDGETS, ours),)


def test_kinds_that_the_cluster_does_not_have_are_passed_over() -> None:
    assert planned({HTTP_ROUTES: wanted(SERVICES)}, {}) == ()


def test_a_service_port_that_was_changed_is_put_back_before_applying() -> None:
    """Applying alone would put ours beside theirs, of the same name, which an API server refuses."""
    moved = edited(SERVICES, lambda raw: at(raw, "spec", "ports", 0).update(port=81))
    [step] = planned({SERVICES: wanted(SERVICES)}, {SERVICES: moved})
    assert isinstance(step, Apply)
    assert step.restore == {"spec": {"ports": at(wanted(SERVICES), "spec")["ports"]}}


@pytest.mark.parametrize(
    "edit",
    [
        lambda raw: at(raw, "spec", "template", "spec", "containers", 0).update(name="other"),
        lambda raw: at(raw, "spec", "template", "spec", "containers", 0, "ports", 0).update(containerPort=81),
        lambda raw: at(raw, "spec", "template", "spec")["containers"].append({"name": "miner", "image": "m"}),  # type: ignore[union-attr] # it is a list
    ],
    ids=["renamed", "another port", "one more"],
)
def test_containers_are_put_back_too(edit: object) -> None:
    assert callable(edit)
    [step] = planned({DEPLOYMENTS: wanted(DEPLOYMENTS)}, {DEPLOYMENTS: edited(DEPLOYMENTS, edit)})
    assert isinstance(step, Apply)
    containers = at(wanted(DEPLOYMENTS), "spec", "template", "spec")["containers"]
    assert step.restore == {"spec": {"template": {"spec": {"containers": containers}}}}


def test_a_value_that_was_changed_is_applied_and_nothing_else() -> None:
    changed = edited(DEPLOYMENTS, lambda raw: at(raw, "spec").update(replicas=5))
    assert planned({DEPLOYMENTS: wanted(DEPLOYMENTS)}, {DEPLOYMENTS: changed}) == (
        Apply(DEPLOYMENTS, wanted(DEPLOYMENTS), changed),
    )


SCALED = {"spec.router": {"autoscaling": {"minReplicas": 3, "maxReplicas": 9}}}


def scaled(world: Mapping[Resource, Live | None]) -> Apply:
    rendered = children(profile(SCALED), "", "moa-router:test")
    steps = planned({each: rendered[each] for each in (DEPLOYMENTS, AUTOSCALERS)}, {**world, AUTOSCALERS: None})
    assert isinstance(steps[0], Apply)
    return steps[0]


def test_replicas_that_the_operator_had_set_are_handed_over_as_they_are() -> None:
    assert scaled({DEPLOYMENTS: live(DEPLOYMENTS)}).hand_over == 2


def test_a_new_deployment_begins_with_the_least_its_autoscaler_allows() -> None:
    assert scaled({DEPLOYMENTS: None}).hand_over == 3


def test_replicas_that_are_not_the_operators_are_not_touched() -> None:
    theirs = edited(DEPLOYMENTS, lambda raw: at(raw, "metadata").update(managedFields=[]))
    assert scaled({DEPLOYMENTS: theirs}).hand_over is None


def test_every_kind_of_child_has_a_place_of_its_own() -> None:
    assert len({each.path("ns", "name") for each in CHILDREN}) == len(CHILDREN)
    assert SERVICES.path(None) == "/api/v1/services"
    assert DEPLOYMENTS.path("ns", "name", "scale") == "/apis/apps/v1/namespaces/ns/deployments/name/scale"
