"""Reading answers: whole ones, and streamed ones as they grow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from moa_router.fusion.candidates import Candidate, cap, strip_reasoning
from moa_router.upstream.failure import Failure
from moa_router.upstream.usage import Usage, parse_usage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from moa_router.fusion.plan import Seat
    from moa_router.upstream.client import Call

#: Keys under which servers stream reasoning: vLLM and DeepSeek, and newer vLLM.
REASONING_KEYS = ("reasoning_content", "reasoning")


class Draft:
    """A candidate being written: one choice of a streamed answer."""

    __slots__ = ("_calls", "_parts", "_size", "finish", "output", "seat")

    def __init__(self, seat: Seat) -> None:
        self.seat = seat
        self.finish: str | None = None
        self.output = 0
        self._parts: list[str] = []
        self._size = 0
        self._calls: dict[int, dict[str, str]] = {}

    @property
    def size(self) -> int:
        """Characters so far."""
        return self._size

    def add(self, delta: Mapping[str, object]) -> str:
        """Take a delta in; returns the text it adds to the answer."""
        for call in _dicts(delta.get("tool_calls")):
            self._add_call(call)
        text = delta.get("content")
        if not isinstance(text, str) or not text:
            return ""
        self._parts.append(text)
        self._size += len(text)
        return text

    def candidate(self, max_bytes: int) -> Candidate:
        """What has been written, as a candidate."""
        calls = [{"function": call} for call in self._calls.values()]
        return make_candidate(self.seat, "".join(self._parts), calls, self.finish, max_bytes)

    def _add_call(self, call: Mapping[str, object]) -> None:
        index = call.get("index")
        into = self._calls.setdefault(index if isinstance(index, int) else 0, {"name": "", "arguments": ""})
        function = call.get("function")
        for key in into if isinstance(function, dict) else ():
            into[key] += str(function.get(key) or "") if isinstance(function, dict) else ""


def make_candidate(
    seat: Seat, text: object, calls: Sequence[Mapping[str, object]], finish: object, max_bytes: int
) -> Candidate:
    """A candidate from the parts of a message: reasoning stripped, size bounded."""
    clean = strip_reasoning(text) if isinstance(text, str) else ""
    kept = cap(clean, max_bytes)
    return Candidate(kept, seat.member, seat.weight, finish != "length" and kept == clean, tuple(calls))


def read_choice(seat: Seat, choice: Mapping[str, object], max_bytes: int) -> Candidate:
    """A candidate from a choice of a whole answer."""
    message = choice.get("message")
    if not isinstance(message, dict):
        return Candidate("", seat.member, seat.weight)
    calls = _dicts(message.get("tool_calls"))
    return make_candidate(seat, message.get("content"), calls, choice.get("finish_reason"), max_bytes)


def carries_token(delta: Mapping[str, object]) -> bool:
    """Whether a delta brings anything that was generated."""
    return bool(
        delta.get("content") or delta.get("tool_calls") or delta.get("refusal") or delta.get("function_call")
    ) or any(delta.get(key) for key in REASONING_KEYS)


def read_chunk(call: Call, data: bytes) -> dict[str, object] | None:
    """Decode a chunk of a streamed answer; what is no chunk ends the call, and None is returned."""
    try:
        chunk = orjson.loads(data)
    except orjson.JSONDecodeError:
        chunk = None
    if not isinstance(chunk, dict):
        call.fail(Failure("invalid", "sent an event that is not JSON"))
    elif chunk.get("error") is not None:
        call.fail_with(chunk["error"])
    else:
        return chunk
    return None


def note_usage(call: Call, reported: object, choices: Sequence[object], drafts: Mapping[int, Draft]) -> None:
    """Keep the usage a chunk reports.

    With `continuous_usage_stats` vLLM reports, in a chunk of one choice, the tokens of that choice alone; the last
    chunk, which has no choices, reports the sum.
    """
    usage = parse_usage(reported)
    if usage is None:
        return
    if call.choices == 1 or not choices:
        call.usage = usage
        return
    first = choices[0]
    draft = drafts.get(index) if isinstance(first, dict) and isinstance(index := first.get("index"), int) else None
    if draft is not None:
        draft.output = usage.output
        call.usage = Usage(usage.input, usage.cached_input, sum(one.output for one in drafts.values()))


def _dicts(value: object) -> list[dict[str, object]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
