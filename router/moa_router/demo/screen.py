"""What the demo puts on the terminal; without colours and escape codes where it is none."""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING, Literal

from rich import box
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Style = Literal["none", "dim", "bold", "bold cyan"]

#: A model's text must not steer the terminal: C0 and C1 controls but for tab and line feed.
_CONTROLS = {code: None for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\t\n"}


class Screen:
    """Standard output, with text that grows as it comes, headings and a table."""

    def __init__(self) -> None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            # a model writes any character, and an odd locale is no reason to stop
            sys.stdout.reconfigure(errors="replace")
        self._console = Console(highlight=False, emoji=False)
        self._at_line_start = True

    def heading(self, text: str) -> None:
        """Begin a section."""
        self.end_line()
        self.line()
        self.line(text, "bold cyan")

    def line(self, text: str = "", style: Style = "none") -> None:
        """A line of our own words."""
        self.end_line()
        self._console.out(text, style=style, highlight=False)

    def grow(self, text: str, style: Style = "none") -> None:
        """A piece of a model's text, shown at once."""
        text = text.translate(_CONTROLS)
        if text:
            self._at_line_start = text.endswith("\n")
            self._console.out(text, end="", style=style, highlight=False)

    def end_line(self) -> None:
        """Go to a new line, unless at the start of one."""
        if not self._at_line_start:
            self._at_line_start = True
            self._console.out("")

    def table(self, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """A table; the first and the last column hold words, the others numbers."""
        table = Table(box=box.SIMPLE, pad_edge=False)
        for number, heading in enumerate(headings):
            table.add_column(heading, justify="left" if number in {0, len(headings) - 1} else "right", no_wrap=True)
        for row in rows:
            table.add_row(*row)
        self._console.print(table)
