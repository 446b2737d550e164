"""Shows candidates to the client while the panel still works."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable

    from moa_router.fusion.chunks import ChunkWriter

_OPEN, _CLOSE = "<think>\n", "\n</think>\n\n"
_BREAKOUT = "</think"


class Presenter:
    """Streams candidates one after the other: one live, token by token, the others kept until it is their turn.

    Interleaving several texts would be unreadable; waiting for whole ones would not be streaming.

    Args:
        chunks: where the text goes.
        as_content: write a `<think>` block of the answer's text instead of `reasoning_content`.
    """

    __slots__ = ("_as_content", "_carry", "_chunks", "_closed", "_count", "_ended", "_live", "_opened", "_waiting")

    def __init__(self, chunks: ChunkWriter, *, as_content: bool) -> None:
        self._chunks = chunks
        self._as_content = as_content
        self._live: Hashable | None = None
        self._waiting: dict[Hashable, list[str]] = {}
        self._ended: set[Hashable] = set()
        self._count = 0
        self._carry = ""
        self._opened = False
        self._closed = False

    def add(self, key: Hashable, member: str, text: str) -> None:
        """A member wrote some text."""
        if self._closed or key in self._ended:
            return
        if self._live is None:
            self._begin(key, member, "")
        if key == self._live:
            self._write(text)
            return
        self._waiting.setdefault(key, [member]).append(text)

    def end(self, key: Hashable) -> None:
        """A member has finished, or given up; what it wrote stays shown."""
        self._ended.add(key)
        if key == self._live:
            self._next()

    def close(self) -> None:
        """Show what is left, and end the block: the answer begins."""
        if self._closed:
            return
        while self._live is not None:
            self._next()
        self._closed = True
        if self._opened and self._as_content:
            self._chunks.content(_CLOSE)

    def _next(self) -> None:
        self._flush()
        self._live = None
        while self._waiting and self._live is None:
            key = next(iter(self._waiting))
            member, *texts = self._waiting.pop(key)
            self._begin(key, member, "".join(texts))
            if key in self._ended:
                self._flush()
                self._live = None

    def _begin(self, key: Hashable, member: str, text: str) -> None:
        self._live = key
        self._count += 1
        gap = "\n\n" if self._opened else ""
        if not self._opened:
            self._opened = True
            if self._as_content:
                self._chunks.content(_OPEN)
        self._send(f"{gap}[candidate {self._count}: {member}]\n")
        if text:
            self._write(text)

    def _write(self, text: str) -> None:
        """Send text, minus a tail that may be the start of a tag that would end our block."""
        if not self._as_content:
            self._send(text)
            return
        text = (self._carry + text).replace(_BREAKOUT, "</ think")
        held = next((size for size in range(len(_BREAKOUT) - 1, 0, -1) if text.endswith(_BREAKOUT[:size])), 0)
        self._carry = text[len(text) - held :]
        self._send(text[: len(text) - held])

    def _flush(self) -> None:
        carry, self._carry = self._carry, ""
        self._send(carry)

    def _send(self, text: str) -> None:
        if not text:
            return
        if self._as_content:
            self._chunks.content(text)
        else:
            self._chunks.reasoning(text)
