"""Every word the router itself says to a model."""

import re

import pytest

from moa_router.fusion.prompts import (
    Source,
    TemplateError,
    check_template,
    member_instruction,
    refinement,
    sources,
    synthesis,
)

TWO = [Source("candidate 1", "first"), Source("candidate 2", "second")]


class TestTemplate:
    @pytest.mark.parametrize("template", ["{candidates}", "{count} of them:\n{candidates}", "{{literal}} {candidates}"])
    def test_good_ones_are_taken(self, template: str) -> None:
        check_template(template)

    @pytest.mark.parametrize(
        ("template", "words"),
        [
            ("no variable", "{candidates} is missing"),
            ("{candidates} {question}", 'unknown variable "{question}"; known are {candidates}, {count}'),
            ("{candidates} {}", 'unknown variable "{}"'),
            ("{candidates} {0}", 'unknown variable "{0}"'),
            ("{candidates.__class__} {candidates}", "unknown variable"),
            ("{candidates[0]} {candidates}", "unknown variable"),
            ("{candidates} {", "write literal braces twice"),
            ("{candidates} }", "write literal braces twice"),
            ("{candidates:{width}}", "cannot be filled in"),
            ("{candidates} {count:s}", "cannot be filled in"),
            ("{candidates!x}", "cannot be filled in"),
        ],
    )
    def test_bad_ones_are_refused_in_words(self, template: str, words: str) -> None:
        with pytest.raises(TemplateError, match=re.escape(words)):
            check_template(template)

    def test_replaces_our_words(self) -> None:
        text = synthesis(TWO, nonce=None, dissent=True, template="{count} drafts {{so}}: {candidates}")
        assert text == "2 drafts {so}: [candidate 1]\nfirst\n\n[candidate 2]\nsecond"

    def test_braces_of_a_candidate_are_not_variables(self) -> None:
        assert synthesis([Source("c", "{count}")], nonce=None, dissent=False, template="{candidates}") == "[c]\n{count}"


class TestSynthesis:
    def test_candidates_stand_between_marks_with_the_nonce(self) -> None:
        assert sources(TWO, "k3y") == (
            "<candidate 1 k3y>\nfirst\n</candidate 1 k3y>\n\n<candidate 2 k3y>\nsecond\n</candidate 2 k3y>"
        )

    def test_says_what_the_marks_mean_only_where_there_are_any(self) -> None:
        assert "k3y" in synthesis(TWO, nonce="k3y", dissent=False).split("<candidate", maxsplit=1)[0]
        assert "markers" not in synthesis(TWO, nonce=None, dissent=False)

    def test_warns_against_majorities_only_where_there_can_be_one(self) -> None:
        words = "Agreement is not proof"
        assert words in synthesis(TWO, nonce=None, dissent=True)
        assert words not in synthesis(TWO, nonce=None, dissent=False)
        assert words not in synthesis(TWO[:1], nonce=None, dissent=True)

    def test_the_task_comes_last(self) -> None:
        text = synthesis(TWO, nonce="k3y", dissent=True)
        assert text.index("second") < text.index("single best reply")

    def test_a_later_layer_is_told_the_same(self) -> None:
        assert refinement(TWO, nonce="k3y") == synthesis(TWO, nonce="k3y", dissent=True)


class TestMember:
    def test_without_own_words_adds_nothing(self) -> None:
        assert member_instruction(None, None) == ""

    def test_own_words_are_set_apart_from_the_conversation(self) -> None:
        text = member_instruction(" a sceptic ", " Doubt. ")
        assert text.startswith("---\nDoubt.")
        assert text.endswith("a sceptic")
