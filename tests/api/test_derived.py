"""The numbers and names that follow from a profile."""

import pytest
from tests.api.table import EXTERNAL, SMALLEST, edited

from moa_api.fields import canonical_quantity
from moa_api.v1alpha1 import (
    MoAProfileSpec,
    Upstream,
    calls_per_request,
    load_profile,
    member_names,
    panel_size,
    required_quorum,
    single_upstream,
)


def spec(**edits: object) -> MoAProfileSpec:
    paths = {path.replace("__", "."): value for path, value in edits.items()}
    return load_profile(edited(SMALLEST, {f"spec.{path}": value for path, value in paths.items()})).spec


def named(*members: tuple[str, str | None]) -> tuple[str, ...]:
    upstreams = {upstream for upstream, _ in members}
    return member_names(
        spec(
            upstreams=[{"name": name, "url": "http://host", "model": "m"} for name in sorted(upstreams)],
            panel={"members": [{"upstream": upstream, "name": name} for upstream, name in members]},
            aggregator={"upstream": members[0][0]},
        ).panel.members
    )


@pytest.mark.parametrize(
    ("quorum", "base", "required"),
    [
        (None, 1, 1),
        (None, 2, 2),
        (None, 3, 2),
        (None, 4, 3),
        (2, 3, 2),
        (5, 3, 3),
        ("50%", 3, 2),
        ("50%", 4, 2),
        ("66%", 3, 2),
        ("67%", 3, 3),
        ("1%", 3, 1),
        ("100%", 3, 3),
        (None, 0, 0),
        (2, 0, 0),
        ("50%", 0, 0),
    ],
)
def test_the_quorum_is_a_majority_unless_said_and_never_more_than_were_asked(
    quorum: int | str | None, base: int, required: int
) -> None:
    assert required_quorum(quorum, base) == required


def test_members_are_named_for_their_upstream_and_numbered_where_they_repeat() -> None:
    assert named(("qwen", None), ("llama", None), ("qwen", None), ("qwen", None)) == (
        "qwen",
        "llama",
        "qwen-2",
        "qwen-3",
    )


def test_a_given_name_is_kept_and_never_taken_by_another() -> None:
    assert named(("qwen", None), ("qwen", "qwen"), ("qwen", "qwen-2"), ("qwen", None)) == (
        "qwen-3",
        "qwen",
        "qwen-2",
        "qwen-4",
    )


def test_calls_count_samples_layers_and_the_aggregator() -> None:
    layered = spec(panel__layers=2)
    assert panel_size(layered) == 3
    assert calls_per_request(layered) == 7


def test_first_needs_no_call_of_its_own() -> None:
    assert calls_per_request(spec(aggregator={"strategy": "First"})) == 3


def test_the_single_upstream_is_the_gates_else_the_aggregators_else_the_first_members() -> None:
    two = [*spec_upstreams(), EXTERNAL]
    assert single_upstream(spec(upstreams=two, gate={"single": "gpt"})) == "gpt"
    assert single_upstream(spec(upstreams=two, aggregator={"upstream": "gpt"})) == "gpt"
    assert single_upstream(spec(upstreams=two, aggregator={"strategy": "First"})) == "qwen"


def spec_upstreams() -> list[object]:
    return [{"name": "qwen", "url": "http://vllm", "model": "Qwen/Qwen3-32B"}]


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        ({"service": {"name": "vllm", "port": 8000}}, "http://vllm.team-a:8000/v1"),
        ({"service": {"name": "vllm", "namespace": "models", "port": 8000}}, "http://vllm.models:8000/v1"),
        ({"service": {"name": "vllm", "port": 8443, "scheme": "https"}}, "https://vllm.team-a:8443/v1"),
        ({"service": {"name": "vllm", "port": 8000}, "path": "/"}, "http://vllm.team-a:8000"),
        ({"url": "https://api.example.com"}, "https://api.example.com/v1"),
        ({"url": "https://api.example.com/", "path": "/openai/v1"}, "https://api.example.com/openai/v1"),
    ],
)
def test_an_upstream_knows_its_base_url(endpoint: dict[str, object], url: str) -> None:
    upstream: Upstream = spec(upstreams=[{"name": "qwen", "model": "m", **endpoint}]).upstreams[0]
    assert upstream.base_url("team-a") == url


@pytest.mark.parametrize(
    ("written", "given_back"),
    [
        ("0.5", "500m"),
        ("500m", "500m"),
        ("1000m", "1"),
        ("1500m", "1500m"),
        ("1000", "1k"),
        ("0", "0"),
        ("0Mi", "0"),
        ("1024Mi", "1Gi"),
        ("1.5Gi", "1536Mi"),
        ("0.5Ki", "512"),
        ("0.1Gi", "107374182400m"),
        ("1500M", "1500M"),
        ("0.001", "1m"),
    ],
)
def test_a_quantity_is_written_as_an_api_server_gives_it_back(written: str, given_back: str) -> None:
    assert canonical_quantity(written) == given_back
    assert canonical_quantity(canonical_quantity(written)) == given_back
