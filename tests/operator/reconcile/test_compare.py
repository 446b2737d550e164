"""Whether an object is in step, on objects as a real API server gave them back (`live/`)."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest
from tests.operator.documents import UID, profile

from moa_operator.kube.objects import Live
from moa_operator.reconcile.compare import covers, fingerprint, in_step
from moa_operator.render.children import children
from moa_operator.resources import DEPLOYMENTS, SERVICES, Resource

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pydantic import JsonValue

    from moa_api.fields import JSONObject

LIVE = Path(__file__).parent / "live"


def live(resource: Resource) -> Live:
    return Live(json.loads((LIVE / f"{resource.kind.lower()}.json").read_text(encoding="utf-8")))


def wanted(resource: Resource, edits: Mapping[str, object] | None = None) -> JSONObject:
    """What the operator applied when the file was recorded, but for the pods' checksum."""
    manifest = children(profile(edits), "references", "moa-router:test")[resource]
    if resource is DEPLOYMENTS:
        annotations = at(live(resource).raw, "spec", "template", "metadata", "annotations")
        at(manifest, "spec", "template", "metadata")["annotations"] = dict(annotations)
    return manifest


def at(value: object, *path: str | int) -> dict[str, JsonValue]:
    for step in path:
        value = cast("Mapping[str | int, object]", value)[step]
    assert isinstance(value, dict)
    return value


def edited(resource: Resource, edit: Callable[[JSONObject], object]) -> Live:
    raw = deepcopy(live(resource).raw)
    edit(raw)
    return Live(raw)


@pytest.mark.parametrize("resource", [DEPLOYMENTS, SERVICES], ids=str)
def test_what_was_applied_is_in_step_with_what_the_server_made_of_it(resource: Resource) -> None:
    assert live(resource).meta.owner_references[0].uid == UID
    assert in_step(live(resource), wanted(resource))


@pytest.mark.parametrize(
    "edits",
    [
        {"spec.router": {"replicas": 3}},
        {"spec.router": {"image": "other:1"}},
        {"spec.router": {"autoscaling": {"maxReplicas": 3}}},
        {"spec.router": {"podTemplate": {"spec": {"nodeSelector": {"disk": "ssd"}}}}},
        {"spec.router": {"podTemplate": {"spec": {"topologySpreadConstraints": None}}}},
        {"spec.router": {"resources": {"limits": {"cpu": 2}}}},
        {"spec.upstreams[0].apiKeySecretRef": {"name": "keys", "key": "key"}},
    ],
    ids=["value", "entry", "field gone", "field more", "list gone", "deep field more", "entries more"],
)
def test_a_changed_wish_is_out_of_step(edits: Mapping[str, object]) -> None:
    assert not in_step(live(DEPLOYMENTS), wanted(DEPLOYMENTS, edits))


@pytest.mark.parametrize(
    "edit",
    [
        lambda raw: at(raw, "spec").update(replicas=5),
        lambda raw: at(raw, "spec", "template", "spec", "containers", 0).update(image="evil:1"),
        lambda raw: at(raw, "spec", "template", "spec", "containers", 0).update(name="other"),
        lambda raw: at(raw, "spec", "template", "spec").update(volumes=[]),
        lambda raw: at(raw, "metadata", "labels").pop("moa-operator.io/profile-uid"),
        lambda raw: at(raw, "metadata").pop("ownerReferences"),
        lambda raw: at(raw, "spec", "template", "spec", "containers", 0).update(args=["serve"]),
        lambda raw: at(raw, "metadata").update(managedFields=[]),
    ],
    ids=["value", "image", "key of an entry", "entries", "label", "owner", "whole list", "no claim"],
)
def test_a_changed_object_is_out_of_step(edit: Callable[[JSONObject], object]) -> None:
    assert not in_step(edited(DEPLOYMENTS, edit), wanted(DEPLOYMENTS))


@pytest.mark.parametrize(
    "edit",
    [
        lambda raw: at(raw, "status").update(readyReplicas=0),
        lambda raw: at(raw, "metadata").update(resourceVersion="1", annotations={"theirs": "stays"}),
        lambda raw: at(raw, "metadata", "labels").update(theirs="stays"),
        lambda raw: at(raw, "spec").update(minReadySeconds=5),
        lambda raw: at(raw, "spec", "template", "metadata", "annotations").update(restartedAt="now"),
    ],
    ids=["status", "metadata", "label", "spec", "restart"],
)
def test_what_others_own_is_theirs(edit: Callable[[JSONObject], object]) -> None:
    assert in_step(edited(DEPLOYMENTS, edit), wanted(DEPLOYMENTS))


def test_a_fingerprint_sees_what_an_apply_may_have_to_do_with_and_nothing_else() -> None:
    same = edited(DEPLOYMENTS, lambda raw: raw.pop("status"))
    at(same.raw, "metadata").update(resourceVersion="1")
    other = edited(DEPLOYMENTS, lambda raw: at(raw, "spec").update(replicas=5))
    assert fingerprint(same) == fingerprint(live(DEPLOYMENTS))
    assert fingerprint(other) != fingerprint(live(DEPLOYMENTS))


@pytest.mark.parametrize(
    ("found", "sought", "verdict"),
    [
        ({"a": 1, "b": 2}, {"a": 1}, True),
        ({"a": 1}, {"a": 1, "b": None}, False),
        ([{"a": 1, "filled": "in"}], [{"a": 1}], True),
        ([{"a": 1}, {"a": 2}], [{"a": 1}], False),
        (1, True, False),
        (1, 1.0, True),
        ("1", 1, False),
        (None, {}, False),
    ],
)
def test_a_value_covers_what_is_wanted_and_may_have_more(found: JsonValue, sought: JsonValue, verdict: bool) -> None:
    assert covers(found, sought) is verdict
