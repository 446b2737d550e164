"""What is done with candidates before an aggregator reads them."""

from hypothesis import given
from hypothesis import strategies as st

from moa_router.fusion.candidates import Candidate, best, budgets, cap, material, strip_reasoning

MARK = "\n[cut]"

texts = st.text(alphabet=st.sampled_from("ab é漢🦔\n "), max_size=120)


class TestCap:
    @given(texts, st.integers(-5, 200))
    def test_never_exceeds_the_budget(self, text: str, budget: int) -> None:
        assert len(cap(text, budget).encode()) <= max(budget, 0)

    @given(texts, st.integers(0, 200))
    def test_keeps_what_fits_and_marks_what_it_cuts(self, text: str, budget: int) -> None:
        shown = cap(text, budget)
        if len(text.encode()) <= budget:
            assert shown == text
        elif budget >= len(MARK):
            assert shown.endswith(MARK)
            assert text.startswith(shown.removesuffix(MARK))

    def test_ends_with_a_whole_line(self) -> None:
        assert cap("one two\nthree four five", 20) == "one two" + MARK

    def test_ends_with_a_whole_word_where_no_line_ends_late_enough(self) -> None:
        assert cap("a\nlong line of many words", 22) == "a\nlong line of" + MARK

    def test_one_long_word_is_cut_where_it_must(self) -> None:
        assert cap("x" * 50, 16) == "x" * 10 + MARK

    def test_does_not_cut_a_character_in_two(self) -> None:
        assert cap("漢" * 10, 6 + 7) == "漢漢" + MARK

    def test_says_nothing_where_not_even_the_mark_fits(self) -> None:
        assert cap("something", 5) == ""


class TestBudgets:
    sizes = st.lists(st.integers(0, 10_000), max_size=12)

    @given(sizes, st.integers(-100, 50_000))
    def test_spends_the_total_and_no_more(self, sizes: list[int], total: int) -> None:
        assert sum(budgets(sizes, total)) == min(max(total, 0), sum(sizes))

    @given(sizes, st.integers(0, 50_000))
    def test_nobody_gets_more_than_it_needs(self, sizes: list[int], total: int) -> None:
        assert all(0 <= share <= size for share, size in zip(budgets(sizes, total), sizes, strict=True))

    @given(sizes, st.integers(0, 50_000))
    def test_who_is_cut_is_cut_evenly(self, sizes: list[int], total: int) -> None:
        shares = budgets(sizes, total)
        cut = [share for share, size in zip(shares, sizes, strict=True) if share < size]
        if cut:
            assert max(cut) - min(cut) <= 1
            assert max(shares) <= max(cut)

    def test_short_ones_keep_all(self) -> None:
        assert budgets([10, 1000, 1000], 110) == [10, 50, 50]


class TestReasoning:
    def test_is_stripped(self) -> None:
        assert strip_reasoning("<think>\nhm\n</think>\n\n 42 ") == "42"
        assert strip_reasoning("a <Thinking>x</Thinking> b <reasoning>y</reasoning> c") == "a  b  c"

    def test_a_block_that_is_never_closed_goes_to_the_end(self) -> None:
        assert strip_reasoning("so: <think>I wonder") == "so:"

    def test_other_tags_stay(self) -> None:
        assert strip_reasoning("<b>bold</b> <thinker>") == "<b>bold</b> <thinker>"


class TestMaterial:
    def test_proposed_tool_calls_are_text(self) -> None:
        call = {"function": {"name": "weather", "arguments": '{"city":"Oslo"}'}}
        assert material(Candidate("", "a", tool_calls=(call,))) == '[proposes tool call] weather({"city":"Oslo"})'
        assert material(Candidate("Let me see.", "a", tool_calls=(call,))).startswith("Let me see.\n[proposes tool")

    def test_a_call_of_unknown_kind_is_shown_as_it_is(self) -> None:
        assert material(Candidate("", "a", tool_calls=({"custom": 1},))) == '[proposes tool call] {"custom":1}'

    def test_without_text_and_calls_it_is_no_candidate(self) -> None:
        assert Candidate("", "a").empty
        assert not Candidate("", "a", tool_calls=({},)).empty


class TestBest:
    def test_of_nothing_is_nothing(self) -> None:
        assert best([]) is None
        assert best([Candidate("", "a", tool_calls=({},))]) is None

    def test_a_majority_of_equal_texts_beats_weight(self) -> None:
        agreed = [Candidate("It is  42", "a"), Candidate("it is\n42", "b")]
        chosen = best([Candidate("43", "c", weight=9.0), *agreed])
        assert chosen is agreed[0]

    def test_half_is_no_majority(self) -> None:
        heavy = Candidate("43", "c", weight=9.0)
        assert best([Candidate("42", "a"), Candidate("42", "b"), heavy, Candidate("44", "d")]) is heavy

    def test_weight_beats_length(self) -> None:
        heavy = Candidate("short", "a", weight=2.0)
        assert best([Candidate("much longer", "b"), heavy]) is heavy

    def test_complete_beats_longer(self) -> None:
        whole = Candidate("whole", "a")
        assert best([Candidate("longer, but cut", "b", complete=False), whole]) is whole

    def test_of_equals_the_longest(self) -> None:
        longest = Candidate("the longest", "b")
        assert best([Candidate("short", "a"), longest]) is longest

    def test_candidates_without_text_have_no_vote(self) -> None:
        text = Candidate("text", "b")
        assert best([Candidate("", "a", weight=9.0, tool_calls=({},)), text]) is text
