"""Reading answers: whole ones, and streamed ones as they grow."""

import pytest

from moa_router.fusion.drafts import Draft, carries_token, make_candidate, read_choice
from moa_router.fusion.plan import Seat

SEAT = Seat("a", 2.0)
LARGE = 10_000


class TestDraft:
    def test_grows_by_deltas(self) -> None:
        draft = Draft(SEAT)
        assert [draft.add({"content": text}) for text in ("It ", "is ", "42.")] == ["It ", "is ", "42."]
        draft.finish = "stop"
        candidate = draft.candidate(LARGE)
        assert (candidate.text, candidate.member, candidate.weight, candidate.complete) == ("It is 42.", "a", 2.0, True)

    @pytest.mark.parametrize("content", [None, "", 7, ["x"], {}])
    def test_content_that_is_no_text_adds_nothing(self, content: object) -> None:
        draft = Draft(SEAT)
        assert draft.add({"content": content}) == ""
        assert draft.size == 0

    def test_reasoning_is_not_the_answer(self) -> None:
        draft = Draft(SEAT)
        assert draft.add({"reasoning_content": "hm"}) == ""
        draft.add({"content": "<think>hm</think>42"})
        assert draft.candidate(LARGE).text == "42"

    def test_tool_calls_are_put_together(self) -> None:
        draft = Draft(SEAT)
        draft.add({"tool_calls": [{"index": 0, "function": {"name": "weather", "arguments": ""}}]})
        draft.add({"tool_calls": [{"index": 1, "function": {"name": "time", "arguments": "{}"}}]})
        draft.add({"tool_calls": [{"index": 0, "function": {"arguments": '{"city":'}}]})
        draft.add({"tool_calls": [{"index": 0, "function": {"name": None, "arguments": '"Oslo"}'}}]})
        functions = [call["function"] for call in draft.candidate(LARGE).tool_calls]
        assert functions == [{"name": "weather", "arguments": '{"city":"Oslo"}'}, {"name": "time", "arguments": "{}"}]

    @pytest.mark.parametrize("calls", [None, "x", [None], [{"index": "0"}], [{"function": "x"}]])
    def test_misshapen_tool_calls_do_no_harm(self, calls: object) -> None:
        draft = Draft(SEAT)
        assert draft.add({"tool_calls": calls}) == ""

    def test_an_answer_cut_by_length_is_incomplete(self) -> None:
        draft = Draft(SEAT)
        draft.add({"content": "so then"})
        draft.finish = "length"
        assert not draft.candidate(LARGE).complete


class TestChoice:
    def test_becomes_a_candidate(self) -> None:
        call = {"id": "c", "function": {"name": "f", "arguments": "{}"}}
        message = {"content": " <think>x</think> yes ", "tool_calls": [call]}
        candidate = read_choice(SEAT, {"message": message, "finish_reason": "stop"}, LARGE)
        assert (candidate.text, list(candidate.tool_calls), candidate.complete) == ("yes", [call], True)

    @pytest.mark.parametrize("choice", [{}, {"message": None}, {"message": []}, {"message": {"content": None}}])
    def test_a_misshapen_one_is_empty(self, choice: dict[str, object]) -> None:
        assert read_choice(SEAT, choice, LARGE).empty

    def test_a_long_one_is_cut_and_incomplete(self) -> None:
        candidate = make_candidate(SEAT, "word " * 100, [], "stop", 50)
        assert len(candidate.text.encode()) <= 50
        assert not candidate.complete


@pytest.mark.parametrize(
    ("delta", "token"),
    [
        ({"role": "assistant", "content": ""}, False),
        ({}, False),
        ({"content": None, "reasoning_content": None}, False),
        ({"content": "x"}, True),
        ({"reasoning_content": "x"}, True),
        ({"reasoning": "x"}, True),
        ({"refusal": "no"}, True),
        ({"tool_calls": [{}]}, True),
        ({"function_call": {"name": "f"}}, True),
    ],
)
def test_which_deltas_bring_a_token(delta: dict[str, object], token: bool) -> None:
    assert carries_token(delta) is token
