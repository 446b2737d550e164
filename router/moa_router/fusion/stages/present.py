"""Shows candidates to the client: while the panel still works, or in front of an answer that comes as a whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from moa_router.fusion.candidates import Candidate
    from moa_router.fusion.chunks import ChunkWriter

_OPEN, _CLOSE = "<think>\n", "\n</think>\n\n"
_BREAKOUT, _HARMLESS = "</think", "</ think"
_GAP = "\n\n"


def present(
    message: Mapping[str, object], candidates: Sequence[Candidate], *, as_content: bool
) -> Mapping[str, object]:
    """A whole answer's message with the candidates shown in front of it, as in a stream.

    Args:
        message: the message of the answer's first choice.
        candidates: what the panel wrote; proposed tool calls are not shown, they are the aggregator's to make.
        as_content: write a `<think>` block of the answer's text instead of `reasoning_content`.
    """
    written = [candidate for candidate in candidates if candidate.text]
    shown = _GAP.join(_title(number, one.member) + one.text for number, one in enumerate(written, 1))
    if not shown:
        return message
    if as_content:
        block = f"{_OPEN}{shown.replace(_BREAKOUT, _HARMLESS)}{_CLOSE}"
        return {**message, "content": f"{block}{message.get('content') or ''}"}
    own = message.get("reasoning_content")
    return {**message, "reasoning_content": f"{shown}{_GAP}{own}" if own else shown}


def _title(number: int, member: str) -> str:
    return f"[candidate {number}: {member}]\n"


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
        gap = _GAP if self._opened else ""
        if not self._opened:
            self._opened = True
            if self._as_content:
                self._chunks.content(_OPEN)
        self._send(gap + _title(self._count, member))
        if text:
            self._write(text)

    def _write(self, text: str) -> None:
        """Send text, minus a tail that may be the start of a tag that would end our block."""
        if not self._as_content:
            self._send(text)
            return
        text = (self._carry + text).replace(_BREAKOUT, _HARMLESS)
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
