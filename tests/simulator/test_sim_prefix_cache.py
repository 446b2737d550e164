"""The prefix cache keeps vLLM's arithmetic."""

from hypothesis import given
from hypothesis import strategies as st

from moa_simulator.prefix_cache import BLOCK_SIZE, PrefixCache

prompts = st.lists(st.sampled_from(["a", "b", "c"]), max_size=100)


@given(st.lists(prompts, max_size=10))
def test_cached_is_whole_blocks_and_never_the_last_token(history: list[list[str]]) -> None:
    cache = PrefixCache(1000)
    for prompt in history:
        cached = cache.admit(prompt).cached
        assert cached % BLOCK_SIZE == 0
        assert cached == 0 or cached < len(prompt)


@given(st.lists(prompts, max_size=5), prompts)
def test_a_prompt_seen_before_has_all_its_full_blocks_cached(others: list[list[str]], prompt: list[str]) -> None:
    cache = PrefixCache(1000)
    cache.admit(prompt)
    for other in others:
        cache.admit(other)
    assert cache.admit(prompt).cached == max(0, (len(prompt) - 1) // BLOCK_SIZE * BLOCK_SIZE)


@given(prompts, prompts, prompts)
def test_two_prompts_share_their_common_blocks_and_no_more(shared: list[str], one: list[str], two: list[str]) -> None:
    cache = PrefixCache(1000)
    first, second = [*shared, *one], [*shared, *two]
    cache.admit(first)
    common = next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), None)
    common = min(len(first), len(second)) if common is None else common
    expected = min(common // BLOCK_SIZE, max(0, len(second) - 1) // BLOCK_SIZE) * BLOCK_SIZE
    assert cache.admit(second).cached == expected


@given(prompts, st.lists(st.sampled_from(["x", "y"]), min_size=1, max_size=50))
def test_the_next_turn_finds_the_answer_cached(prompt: list[str], output: list[str]) -> None:
    cache = PrefixCache(1000)
    cache.extend(cache.admit(prompt), output)
    turn = [*prompt, *output, "next"]
    assert cache.admit(turn).cached == (len(turn) - 1) // BLOCK_SIZE * BLOCK_SIZE


def test_a_changed_first_token_costs_everything() -> None:
    cache = PrefixCache(1000)
    cache.admit(["a"] * 64)
    assert cache.admit(["b", *["a"] * 63]).cached == 0


def test_the_least_recently_used_block_goes_first() -> None:
    cache = PrefixCache(2)
    old, young = ["o"] * 17, ["y"] * 17
    cache.admit(old)
    cache.admit(young)
    cache.admit(old)
    cache.admit(["n"] * 17)
    assert len(cache) == 2
    assert cache.admit(old).cached == BLOCK_SIZE
    assert cache.admit(young).cached == 0


def test_no_capacity_is_no_cache() -> None:
    cache = PrefixCache(0)
    cache.admit(["a"] * 64)
    assert cache.admit(["a"] * 64).cached == 0
    assert cache.queries == 128


def test_counters_and_clear() -> None:
    cache = PrefixCache(100)
    cache.admit(["a"] * 33)
    cache.admit(["a"] * 33)
    assert (cache.queries, cache.hits) == (66, 32)
    cache.clear()
    assert (len(cache), cache.queries, cache.hits) == (0, 0, 0)
