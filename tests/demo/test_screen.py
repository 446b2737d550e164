"""What reaches the terminal."""

import sys

import pytest

from moa_router.demo.screen import Screen


def test_text_that_grows_and_lines_of_ours_do_not_run_into_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen()
    screen.grow("The answer")
    screen.grow(" is 42.")
    screen.line("Done.")
    screen.grow("With its own end.\n")
    screen.heading("Next")
    assert capsys.readouterr().out == "The answer is 42.\nDone.\nWith its own end.\n\nNext\n"


def test_a_model_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    Screen().grow("a\x1b[2Jb\r\x07c\x9bd\nf")
    assert capsys.readouterr().out == "a[2Jbcd\nf"


def test_a_models_markup_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    Screen().grow("[red]:smile: [/] **bold**")
    assert capsys.readouterr().out == "[red]:smile: [/] **bold**"


def test_long_text_is_not_broken(capsys: pytest.CaptureFixture[str]) -> None:
    Screen().line("word " * 100)
    assert capsys.readouterr().out.count("\n") == 1


def test_a_table_is_plain_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    Screen().table(("stage", "calls", "outcome"), [("panel", "3", "2 ok, 1 cancelled")])
    printed = capsys.readouterr().out
    assert [line.split() for line in printed.split("\n") if line.strip() and "─" not in line] == [
        ["stage", "calls", "outcome"],
        ["panel", "3", "2", "ok,", "1", "cancelled"],
    ]
    assert "\x1b" not in printed
    assert not sys.stdout.isatty()
