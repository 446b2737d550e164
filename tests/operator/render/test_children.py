"""Which children there are, and what holds for all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest
from tests.operator.documents import EVERYTHING, UID, profile

from moa_operator.render.children import children
from moa_operator.render.labels import CONFIG_CHECKSUM, PROFILE_UID, selector
from moa_operator.resources import CHILDREN, DEPLOYMENTS, DISRUPTION_BUDGETS, SERVICES, Resource

if TYPE_CHECKING:
    from collections.abc import Mapping

    from moa_api.fields import JSONObject


def rendered(edits: Mapping[str, object] | None = None) -> dict[Resource, JSONObject]:
    return children(profile(edits), "references", "moa-router:default")


def at(value: object, *path: str | int) -> object:
    for step in path:
        value = cast("Mapping[str | int, object]", value)[step]
    return value


def pod(edits: Mapping[str, object] | None = None) -> object:
    return at(rendered(edits)[DEPLOYMENTS], "spec", "template", "spec")


def test_they_come_in_the_order_to_apply_them() -> None:
    assert tuple(rendered(EVERYTHING)) == CHILDREN


@pytest.mark.parametrize("edits", [{}, EVERYTHING], ids=["smallest", "everything"])
def test_each_says_whose_it_is(edits: Mapping[str, object]) -> None:
    for resource, manifest in rendered(edits).items():
        assert (manifest["apiVersion"], manifest["kind"]) == (resource.api_version, resource.kind)
        assert (at(manifest, "metadata", "name"), at(manifest, "metadata", "namespace")) == ("research-moa", "team-a")
        assert at(manifest, "metadata", "labels", PROFILE_UID) == UID
        assert at(manifest, "metadata", "ownerReferences", 0, "uid") == UID


def test_a_name_of_59_characters_leaves_room_for_its_childrens() -> None:
    for manifest in children(profile({**EVERYTHING, "metadata.name": "a" * 59}), "", "i").values():
        assert len(str(at(manifest, "metadata", "name"))) == 63
        labels = cast("Mapping[str, str]", at(manifest, "metadata", "labels"))
        assert max(map(len, labels.values())) <= 63


def test_what_selects_pods_cannot_be_overridden() -> None:
    labels = at(rendered(EVERYTHING)[DEPLOYMENTS], "spec", "template", "metadata", "labels")
    assert cast("Mapping[str, str]", labels).items() >= selector("research").items()
    assert at(labels, "team") == "a"
    assert at(rendered()[SERVICES], "spec", "selector") == selector("research")


def test_replicas_are_said_unless_an_autoscaler_says_them() -> None:
    assert at(rendered()[DEPLOYMENTS], "spec", "replicas") == 2
    assert at(rendered({"spec.router": {"replicas": 0}})[DEPLOYMENTS], "spec", "replicas") == 0
    scaled = rendered({"spec.router": {"autoscaling": {"maxReplicas": 3}}})[DEPLOYMENTS]
    assert "replicas" not in cast("Mapping[str, object]", scaled["spec"])


def test_the_image_is_the_profiles_or_the_operators() -> None:
    assert at(pod(), "containers", 0, "image") == "moa-router:default"
    assert at(pod({"spec.router": {"image": "mine:1"}}), "containers", 0, "image") == "mine:1"


def test_pods_may_take_as_long_to_leave_as_the_router_does() -> None:
    assert at(pod(), "terminationGracePeriodSeconds") == 75
    slow = {"spec.router": {"drain": {"delay": "1.2s", "timeout": "10m"}}}
    assert at(pod(slow), "terminationGracePeriodSeconds") == 612


def test_a_secret_that_is_wanted_whole_is_mounted_whole() -> None:
    edits = {
        "spec.upstreams[0].apiKeySecretRef": {"name": "shared", "key": "one"},
        "spec.auth": {"type": "APIKey", "secretRef": {"name": "shared"}},
    }
    [volume] = cast("list[Mapping[str, object]]", at(pod(edits), "volumes"))[1:]
    assert volume["secret"] == {"secretName": "shared", "defaultMode": 0o440}


def test_a_budget_is_left_out_when_it_is_not_wanted() -> None:
    assert DISRUPTION_BUDGETS not in rendered({"spec.router": {"podDisruptionBudget": {"enabled": False}}})


def test_the_checksum_is_on_the_pods_whatever_their_template_says() -> None:
    edits = {"spec.router": {"podTemplate": {"metadata": {"annotations": {CONFIG_CHECKSUM: "mine"}}}}}
    assert at(rendered(edits)[DEPLOYMENTS], "spec", "template", "metadata", "annotations", CONFIG_CHECKSUM) != "mine"
