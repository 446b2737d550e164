"""The definition and its rules, judged by a real API server: it has the last word over the table."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

import pytest
from tests.api.apiserver import judge
from tests.api.table import BAD, GOOD, SMALLEST, edited
from tests.api.test_schema import crd
from tests.operator.cluster.access import Refusal, at

from moa_api.v1alpha1 import dump_profile, load_profile
from moa_operator.resources import DEPLOYMENTS, PROFILES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.operator.cluster.access import Access

    from moa_api.fields import JSONObject

DRY_RUN = {"dryRun": "All", "fieldValidation": "Strict"}


async def submit(access: Access, document: Mapping[str, object]) -> JSONObject:
    return await access.call("POST", PROFILES.path(access.namespace), placed(access, document), DRY_RUN)


def placed(access: Access, document: Mapping[str, object]) -> Mapping[str, object]:
    """A document as one would create it: in the test's namespace, and without what only an API server writes."""
    metadata = document.get("metadata")
    assert isinstance(metadata, dict)
    kept = {name: metadata[name] for name in ("name", "labels", "annotations") if name in metadata}
    return {**document, "metadata": {**kept, "namespace": access.namespace}}


async def test_good_profiles_are_accepted_with_the_models_defaults(access: Access) -> None:
    for row in GOOD:
        stored = await submit(access, row.document)
        want = dump_profile(load_profile(placed(access, row.document)))["spec"]
        assert dump_profile(load_profile(stored))["spec"] == want, row.name


async def test_the_server_fills_in_the_same_defaults_as_our_judge(access: Access) -> None:
    stored = await submit(access, SMALLEST)
    ours = judge(crd(), deepcopy(SMALLEST)).stored
    assert at(stored, "spec") == at(ours, "spec")


async def test_bad_profiles_are_refused_where_the_table_says_so(access: Access) -> None:
    refused = {row.name for row in BAD if await refusal(access, row.document, DRY_RUN) is not None}
    assert {row.name for row in BAD if row.refused_by != "nobody"} - refused == set()
    # What is wrong with the envelope never gets as far as the schema; the rows say so.
    in_the_spec = {
        row.name for row in BAD if row.refused_by == "nobody" and all(path[:5] == "spec." for path in row.edits)
    }
    assert len(in_the_spec) > 2
    assert in_the_spec & refused == set()


async def refusal(access: Access, document: Mapping[str, object], query: Mapping[str, str]) -> str | None:
    if not isinstance(document.get("metadata"), dict):
        return "without metadata there is nothing to send it under"
    try:
        await access.call("POST", PROFILES.path(access.namespace), placed(access, document), query)
    except Refusal as refused:
        return refused.message
    return None


async def test_every_rule_refuses_with_its_message(access: Access) -> None:
    for row in BAD:
        if row.refused_by != "rules":
            continue
        expected = [text.partition(": ")[2] for text in judge(crd(), deepcopy(row.document)).rules]
        # A field that is unknown would be refused before any rule is asked.
        refused = await refusal(access, row.document, {"dryRun": "All", "fieldValidation": "Ignore"})
        assert refused is not None, row.name
        assert [text for text in expected if text not in refused] == [], row.name


async def test_it_can_be_scaled_by_whoever_knows_nothing_of_it(access: Access) -> None:
    await access.profile(edited(SMALLEST, {"spec.router": {"replicas": 3}}))
    path = PROFILES.path(access.namespace, "research", "scale")
    assert at(await access.call("GET", path), "spec", "replicas") == 3
    await access.call("PATCH", path, {"spec": {"replicas": 5}}, content_type="application/merge-patch+json")
    assert at(await access.get(PROFILES, "research"), "spec", "router", "replicas") == 5


async def test_people_see_columns(access: Access) -> None:
    await access.profile(SMALLEST)
    accept = "application/json;as=Table;g=meta.k8s.io;v=v1"
    method, url, headers, _, _ = await access.api.param_serialize(
        "GET", PROFILES.path(access.namespace), header_params={"Accept": accept}, auth_settings=["BearerToken"]
    )
    response = await access.api.call_api(method, url, headers)
    text = (await response.read()).decode()  # type: ignore[no-untyped-call] # theirs
    for column in ("Ready", "Endpoint", "Panel", "Replicas", "Age"):
        assert f'"name":"{column}"' in text
    assert DEPLOYMENTS.kind not in text


@pytest.mark.parametrize("name", ["a" * 60, "research.v2"])
async def test_a_name_that_leaves_no_room_for_its_childrens_is_refused(access: Access, name: str) -> None:
    refused = await refusal(access, edited(SMALLEST, {"metadata.name": name}), DRY_RUN)
    assert refused is not None
    assert "59 characters" in refused
