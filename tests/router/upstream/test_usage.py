"""Token counts as upstreams report them, lies included."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moa_router.upstream.usage import MAX_TOKENS, Usage, parse_usage

FULL = {
    "prompt_tokens": 100,
    "completion_tokens": 20,
    "total_tokens": 120,
    "prompt_tokens_details": {"cached_tokens": 64},
    "completion_tokens_details": {"reasoning_tokens": 5},
}


def test_is_read_with_its_details() -> None:
    assert parse_usage(FULL) == Usage(input=100, cached_input=64, output=20, reasoning=5)


@pytest.mark.parametrize("details", [None, [], "x", 7, {}, {"cached_tokens": None, "reasoning_tokens": None}])
def test_details_may_be_missing(details: object) -> None:
    reported = {**FULL, "prompt_tokens_details": details, "completion_tokens_details": details}
    assert parse_usage(reported) == Usage(input=100, output=20)


def test_nothing_may_have_been_produced_yet() -> None:
    assert parse_usage({"prompt_tokens": 7}) == Usage(input=7)


LIES = [-1, -(10**12), MAX_TOKENS + 1, 10**30, True, False, 1.5, float("nan"), float("inf"), "100", [], {}, None]


@pytest.mark.parametrize("lie", LIES)
def test_counts_that_cannot_be_are_not_believed(lie: object) -> None:
    assert parse_usage({**FULL, "prompt_tokens": lie}) is None
    assert parse_usage({**FULL, "completion_tokens": lie}) is None


@pytest.mark.parametrize("lie", LIES)
def test_details_that_cannot_be_count_as_none(lie: object) -> None:
    assert parse_usage({**FULL, "prompt_tokens_details": {"cached_tokens": lie}}) == Usage(100, 0, 20, 5)
    assert parse_usage({**FULL, "completion_tokens_details": {"reasoning_tokens": lie}}) == Usage(100, 64, 20, 0)


@pytest.mark.parametrize("reported", [None, [], "x", 7, {}, {"total_tokens": 7}])
def test_what_is_no_usage_is_none(reported: object) -> None:
    assert parse_usage(reported) is None


def test_details_are_cut_to_their_total() -> None:
    reported = {
        **FULL,
        "prompt_tokens_details": {"cached_tokens": 101},
        "completion_tokens_details": {"reasoning_tokens": 21},
    }
    assert parse_usage(reported) == Usage(100, 100, 20, 20)


counts = st.integers(-5, MAX_TOKENS + 5)


@given(counts, counts, counts, counts)
def test_what_is_believed_is_consistent(inputs: int, outputs: int, cached: int, reasoning: int) -> None:
    usage = parse_usage(
        {
            "prompt_tokens": inputs,
            "completion_tokens": outputs,
            "prompt_tokens_details": {"cached_tokens": cached},
            "completion_tokens_details": {"reasoning_tokens": reasoning},
        }
    )
    if usage is not None:
        assert 0 <= usage.cached_input <= usage.input <= MAX_TOKENS
        assert 0 <= usage.reasoning <= usage.output <= MAX_TOKENS


def test_sums_are_estimates_when_a_part_is() -> None:
    total = Usage(1, 1, 1, 1)
    total.add(Usage(10, 2, 3, 1))
    assert total == Usage(11, 3, 4, 2)
    total.add(Usage(output=5, estimated=True))
    assert total == Usage(11, 3, 9, 2, estimated=True)
