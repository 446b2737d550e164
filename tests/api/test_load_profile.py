"""The models against the table, and what every refusal owes its reader."""

from decimal import Decimal

import pytest
import yaml
from tests.api.table import BAD, GOOD, SMALLEST, Bad, Good, edited

from moa_api.v1alpha1 import MoAProfile, ProfileError, dump_profile, load_profile


def refusal(document: object) -> ProfileError:
    with pytest.raises(ProfileError) as caught:
        load_profile(document)
    return caught.value


@pytest.mark.parametrize("row", GOOD, ids=lambda row: row.name)
def test_a_good_profile_is_read_and_written_back_as_its_equal(row: Good) -> None:
    profile = load_profile(row.document)
    assert load_profile(dump_profile(profile)) == profile


@pytest.mark.parametrize("row", BAD, ids=lambda row: row.name)
def test_a_bad_profile_is_refused_with_every_problem_and_no_other(row: Bad) -> None:
    assert sorted(refusal(row.document).problems) == sorted(row.problems)


def test_the_table_has_no_two_rows_of_one_name_and_explains_what_only_models_refuse() -> None:
    assert len({row.name for row in GOOD}) == len(GOOD)
    assert len({row.name for row in BAD}) == len(BAD)
    assert [row.name for row in BAD if (row.refused_by == "nobody") != bool(row.why)] == []


@pytest.mark.parametrize("document", [None, [], "profile", 3, True, [SMALLEST]])
def test_what_is_no_object_is_refused_in_one_sentence(document: object) -> None:
    [problem] = refusal(document).problems
    assert problem.startswith("document: expected an object; got ")


def test_the_error_reads_as_its_problems() -> None:
    error = refusal({"kind": "MoAProfile"})
    assert str(error) == "\n".join(error.problems)


def test_defaults_are_those_of_the_contract() -> None:
    spec = load_profile(edited(SMALLEST, {"spec.panel.quorum": None})).spec
    assert spec.upstreams[0].path == "/v1"
    assert spec.upstreams[0].capabilities is None
    assert spec.upstreams[0].service is not None
    assert spec.upstreams[0].service.scheme == "http"
    assert (spec.panel.layers, spec.panel.quorum, spec.panel.grace) == (1, None, 2.0)
    assert (spec.panel.fan_out, spec.panel.on_unmet, spec.panel.on_tool_turn) == ("Auto", "Degrade", "Aggregate")
    assert (spec.aggregator.strategy, spec.aggregator.on_failure) == ("Synthesize", "BestCandidate")
    assert all(spec.aggregator.hardening.model_dump(exclude={"max_candidate_tokens"}).values())
    assert (spec.gate.policy, spec.gate.single) == ("Always", None)
    assert spec.timeouts.model_dump(mode="json", by_alias=True, exclude_none=True) == {
        "request": "5m",
        "connect": "5s",
        "firstToken": "1m",
        "idle": "30s",
    }
    assert (spec.response.show_candidates, spec.response.heartbeat) == ("Never", 5.0)
    assert spec.auth.type == "None"
    assert (spec.router.drain.delay, spec.router.drain.timeout) == (5.0, 60.0)
    assert (spec.limits.max_body_bytes, spec.limits.max_json_depth) == (32 * 1024 * 1024, 64)


def test_a_member_has_the_defaults_of_the_contract() -> None:
    profile = load_profile(edited(SMALLEST, {"spec.panel.members[0]": {"upstream": "qwen"}, "spec.panel.quorum": 1}))
    [member] = profile.spec.panel.members
    assert (member.name, member.samples, member.temperature, member.weight) == (None, 1, 0.7, 1.0)


def test_prices_are_the_decimals_that_were_written() -> None:
    text = "{inputPerMillion: 0.15, outputPerMillion: 1, cachedInputPerMillion: 0.1}"
    profile = load_profile(edited(SMALLEST, {"spec.upstreams[0].pricing": yaml.safe_load(text)}))
    pricing = profile.spec.upstreams[0].pricing
    assert pricing is not None
    assert pricing.input_per_million == Decimal("0.15")
    assert pricing.cached_input_per_million == Decimal("0.1")
    assert pricing.output_per_million == Decimal(1)
    assert pricing.reasoning_per_million is None


def test_a_profile_cannot_be_changed() -> None:
    profile = load_profile(SMALLEST)
    with pytest.raises(ValueError, match="frozen"):
        setattr(profile.spec.panel, "layers", 2)  # noqa: B010 - mypy knows that it cannot be set


def test_attributes_are_no_field_names_of_documents() -> None:
    document = edited(SMALLEST, {"spec.panel.fan_out": "Parallel"})
    assert refusal(document).problems == ['spec.panel.fan_out: unknown field; did you mean "fanOut"?']


def test_keys_that_are_no_text_are_refused() -> None:
    assert refusal(dict([*SMALLEST.items(), (1, 2)])).problems == ["[1]: a field's name is text; put it in quotes"]


SECRETS = [
    "sk-proj-0123456789abcdef",
    "hf_abcdefghijklmnop",
    "eyJhbGciOiJIUzI1NiJ9",
    "9f8e7d6c5b4a39281706f5e4d3c2b1a0",
    "550e8400-e29b-41d4-a716-446655440000",
    "https://me:hunter2@example.com",
    "Bearer abcdef",
]


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize(
    "path",
    [
        "spec.upstreams[0].apiKeySecretRef",
        "spec.upstreams[0].apiKeySecretRef.name",
        "spec.upstreams[0].url",
        "spec.upstreams[0].apiKey",
        "spec.upstreams[0].name",
        "spec.panel.members[0].upstream",
        "spec.panel.fanOut",
        "spec.panel.quorum",
        "spec.panel.grace",
        "spec.panel.layers",
        "spec.auth.type",
        "spec.auth.secretRef",
        "spec.auth",
        "kind",
    ],
)
def test_nothing_that_looks_like_a_secret_is_repeated(path: str, secret: str) -> None:
    assert secret not in str(refusal(edited(SMALLEST, {path: secret})))


@pytest.mark.parametrize("secret", [secret for secret in SECRETS if "." not in secret])
def test_a_secret_in_the_place_of_a_field_name_is_not_repeated(secret: str) -> None:
    document = {**SMALLEST, secret: "oops"}
    assert secret not in str(refusal(document))


def test_numbers_beyond_all_bounds_are_refused_and_not_written_out() -> None:
    huge = 10**5000
    document = edited(SMALLEST, {"spec.panel.layers": huge, "spec.panel.members[0].temperature": huge})
    problems = refusal(document).problems
    assert [problem.split(":")[0] for problem in problems] == [
        "spec.panel.members[0].temperature",
        "spec.panel.layers",
    ]
    assert max(map(len, problems)) < 200


def test_a_list_that_contains_itself_is_refused() -> None:
    document = yaml.safe_load(
        """
        apiVersion: moa-operator.io/v1alpha1
        kind: MoAProfile
        metadata: {name: research}
        spec:
          upstreams:
          - {name: qwen, url: "http://vllm", model: qwen, parameters: {stop: &endless [*endless]}}
          panel: {members: [{upstream: qwen}]}
          aggregator: {upstream: qwen}
        """
    )
    [problem] = refusal(document).problems
    assert problem == "spec.upstreams[0].parameters: nested deeper than 16 levels; write a flatter object"


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("2026-11-21", "holds something that is not JSON; put it in quotes"),
        ("[{a: !!set {b}}]", "holds something that is not JSON; put it in quotes"),
        ("!!binary aGk=", "holds something that is not JSON; put it in quotes"),
        (".nan", "holds a number that JSON cannot write; write a finite one"),
        ("[-.inf]", "holds a number that JSON cannot write; write a finite one"),
        ("{1: a}", "holds a field whose name is not text; put it in quotes"),
        ("{on: a}", "holds a field whose name is not text; put it in quotes"),
    ],
)
def test_what_yaml_knows_and_json_does_not_is_refused_in_parameters(value: str, problem: str) -> None:
    document = edited(SMALLEST, {"spec.upstreams[0].parameters": {"extra": yaml.safe_load(value)}})
    assert refusal(document).problems == [f"spec.upstreams[0].parameters: {problem}"]


def test_text_that_is_not_unicode_is_refused() -> None:
    document = edited(
        SMALLEST, {"spec.upstreams[0].parameters": {"extra": ["\ud800"]}, "spec.upstreams[0].model": "\ud800"}
    )
    assert refusal(document).problems == [
        "spec.upstreams[0].model: expected text in valid Unicode; got text (this text)",
        "spec.upstreams[0].parameters: holds text that is not valid Unicode; write it anew",
    ]


def test_a_whole_number_written_as_a_float_is_a_whole_number() -> None:
    """As kubectl has it, which sends 3.0 as 3."""
    profile = load_profile(edited(SMALLEST, {"spec.panel.members[0].samples": 3.0, "spec.panel.quorum": 2.0}))
    assert profile == load_profile(SMALLEST)


def test_a_profile_read_as_yaml_is_the_profile_read_as_json() -> None:
    text = yaml.safe_dump(SMALLEST)
    assert load_profile(yaml.safe_load(text)) == load_profile(SMALLEST)
    assert isinstance(load_profile(SMALLEST), MoAProfile)
