"""Tokens: nothing is lost, nothing is split, and the simulator's own prose counts as it says."""

from hypothesis import given
from hypothesis import strategies as st

from moa_simulator.dice import Dice
from moa_simulator.tokens import VOCABULARY_SIZE, token_ids, tokenize
from moa_simulator.vocabulary import prose


@given(st.text())
def test_tokens_concatenate_to_the_text(text: str) -> None:
    assert "".join(tokenize(text)) == text


@given(st.text(min_size=1, max_size=20))
def test_long_texts_lose_nothing_either(text: str) -> None:
    assert "".join(tokenize(text * 5000)) == text * 5000


def test_counts_resemble_a_byte_pair_tokenizer() -> None:
    assert tokenize("The tokenizer counts 12345 cats, naïve 猫 🐈.") == (
        *("The", " tokenize", "r", " counts", " ", "123", "45", " cats", ","),
        *(" na", "ïv", "e", " 猫", " 🐈", "."),
    )


def test_ids_are_stable_and_within_the_vocabulary() -> None:
    ids = token_ids(tokenize("the same text gives the same ids"))
    assert ids[0] == token_ids(["the"])[0] == 48998
    assert all(0 <= number < VOCABULARY_SIZE for number in ids)


@given(st.integers(min_value=0, max_value=2**64 - 1), st.integers(min_value=1, max_value=300))
def test_prose_is_exactly_as_long_as_asked_and_stays_so_when_read_back(seed: int, length: int) -> None:
    tokens = prose(Dice(seed), length)
    assert len(tokens) == length
    assert list(tokenize("".join(tokens))) == tokens


@given(st.integers(min_value=0, max_value=2**64 - 1))
def test_prose_wraps_around_the_end_of_the_pool(seed: int) -> None:
    assert len(prose(Dice(seed), 70_000)) == 70_000
