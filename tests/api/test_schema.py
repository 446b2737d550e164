"""The generated CustomResourceDefinition: the same table, no drift, and the forms an API server insists on."""

import re
from functools import cache
from pathlib import Path
from typing import cast

import pytest
import yaml
from jsonschema import Draft4Validator
from tests.api.apiserver import JSONSchema, judge, open_api_schema, walk
from tests.api.table import BAD, GOOD, SMALLEST, Bad, Good

from moa_api import schema
from moa_api.v1alpha1 import dump_profile, load_profile

CRD_FILE = Path(__file__).parents[2] / "crds" / "moaprofiles.yaml"


@cache
def crd() -> dict[str, object]:
    loaded = yaml.safe_load(CRD_FILE.read_text(encoding="utf-8"))
    assert isinstance(loaded, dict)
    return loaded


def places() -> list[tuple[str, JSONSchema]]:
    return list(walk(open_api_schema(crd())))


@pytest.mark.parametrize("row", GOOD, ids=lambda row: row.name)
def test_a_good_profile_is_accepted_and_gets_the_models_defaults(row: Good) -> None:
    verdict = judge(crd(), row.document)
    assert (verdict.unknown, verdict.schema, verdict.rules) == ([], [], [])
    assert dump_profile(load_profile(verdict.stored)) == dump_profile(load_profile(row.document))


@pytest.mark.parametrize("row", BAD, ids=lambda row: row.name)
def test_a_bad_profile_is_refused_by_whom_the_table_says(row: Bad) -> None:
    verdict = judge(crd(), row.document)
    refused_by = (
        ("schema" if verdict.schema else "")
        or ("rules" if verdict.rules else "")
        or ("unknown" if verdict.unknown else "nobody")
    )
    assert refused_by == row.refused_by, verdict


def test_the_api_server_fills_in_every_default_itself() -> None:
    """What it stores, read without any default of the models left to apply, is what the models make of the document."""
    stored = judge(crd(), SMALLEST).stored
    assert isinstance(stored, dict)
    expected = dump_profile(load_profile(SMALLEST))["spec"]
    assert _without_empty(stored["spec"]) == _without_empty(expected)


def _without_empty(value: object) -> object:
    if isinstance(value, dict):
        full = {key: _without_empty(each) for key, each in value.items()}
        return {key: each for key, each in full.items() if each not in ([], {}, None)}
    return [_without_empty(each) for each in value] if isinstance(value, list) else value


def test_the_committed_definition_is_what_the_models_say() -> None:
    assert schema.drift(CRD_FILE) == "", "run `make crds`"


def test_check_fails_with_a_diff_where_the_file_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "crd.yaml"
    assert schema.main(["--check", str(file)]) == 1
    assert schema.main(["--write", str(file)]) == 0
    assert schema.main(["--check", str(file)]) == 0
    capsys.readouterr()
    file.write_text(file.read_text(encoding="utf-8").replace("maxItems: 24", "maxItems: 25"), encoding="utf-8")
    assert schema.main(["--check", str(file)]) == 1
    diff = capsys.readouterr().out
    assert re.search(r"^-\s+maxItems: 25$", diff, re.MULTILINE)
    assert re.search(r"^\+\s+maxItems: 24$", diff, re.MULTILINE)


def test_it_prints_the_definition_when_asked_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert schema.main([]) == 0
    assert capsys.readouterr().out == schema.render()


def test_every_place_has_a_type_a_description_and_nothing_kubernetes_refuses() -> None:
    for path, place in places():
        assert "type" in place or "x-kubernetes-int-or-string" in place or path == "", path
        assert place.get("description") or path == "metadata" or path[-1] in "]}", f"{path} has no description"
        assert not place.keys() & {"$ref", "anyOf", "oneOf", "allOf", "const", "title"}, path
        assert not ("additionalProperties" in place and "properties" in place), path
        Draft4Validator.check_schema({key: value for key, value in place.items() if key != "properties"})


def test_every_text_and_list_of_the_spec_is_bounded_so_that_rules_have_a_bounded_cost() -> None:
    for path, place in places():
        if not path.startswith("spec") or "enum" in place:
            continue
        if place.get("type") == "string":
            assert "maxLength" in place, path
        if place.get("type") == "array":
            assert "maxItems" in place, path


def test_every_rule_says_what_to_write() -> None:
    rules = [
        rule
        for _, place in places()
        for rule in cast("list[dict[str, str]]", place.get("x-kubernetes-validations", []))
    ]
    assert len(rules) > 20
    assert all(10 < len(rule["message"]) < 200 for rule in rules)


def test_every_rule_is_broken_by_a_row_of_the_table() -> None:
    rules = {
        str(rule["message"])
        for _, place in places()
        for rule in cast("list[dict[str, str]]", place.get("x-kubernetes-validations", []))
    }
    broken = {rule.partition(": ")[2] for row in BAD for rule in judge(crd(), row.document).rules}
    assert rules - broken == set()


def test_keys_that_yaml_1_1_reads_as_booleans_are_quoted() -> None:
    assert not re.search(r"^\s*[yYnN]:", schema.render(), re.MULTILINE)


def test_unknown_fields_are_kept_only_where_a_schema_is_somebody_elses() -> None:
    kept = {path for path, place in places() if "x-kubernetes-preserve-unknown-fields" in place}
    assert {path for path in kept if not path.startswith("spec.upstreams[].parameters")} == {
        "spec.router.podTemplate.spec",
        "spec.router.networkPolicy.from[]",
    }
    assert "spec.upstreams[].parameters" in kept


def test_columns_point_at_fields_that_exist() -> None:
    spec = crd()["spec"]
    assert isinstance(spec, dict)
    known = {f".{path}" for path, _ in places()} | {".metadata.creationTimestamp"}
    for column in spec["versions"][0]["additionalPrinterColumns"]:
        path = re.sub(r"\[\?\(@\.type==\"[A-Za-z]+\"\)\]", "[]", column["jsonPath"])
        assert path in known, path


def test_it_is_namespaced_with_status_and_short_name() -> None:
    spec = crd()["spec"]
    assert isinstance(spec, dict)
    assert spec["scope"] == "Namespaced"
    assert spec["names"]["shortNames"] == ["moap"]
    assert spec["names"]["plural"] == "moaprofiles"
    [version] = spec["versions"]
    assert (version["name"], version["served"], version["storage"]) == ("v1alpha1", True, True)
    assert version["subresources"]["status"] == {}
    known = {f".{path}" for path, _ in places()}
    assert set(version["subresources"]["scale"].values()) <= known
