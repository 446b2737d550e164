"""Candidates: what the panel wrote, and what is done with it before an aggregator reads it. Pure functions."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import orjson

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_REASONING = re.compile(r"<(think|thinking|reasoning)>.*?(?:</\1>|\Z)", re.DOTALL | re.IGNORECASE)
_SPACE = re.compile(r"\s+")
_CUT = "\n[cut]"

#: Bytes of English text one token stands for, on the careful side: budgets in tokens become budgets in bytes by it.
BYTES_PER_TOKEN = 3


@dataclass(slots=True)
class Candidate:
    """One member's answer.

    Attributes:
        text: what it wrote, reasoning stripped.
        member: whose it is.
        weight: how much its member's word counts.
        complete: false when the answer was cut by a length limit.
        tool_calls: tool calls it proposes; they are shown to the aggregator as text and reach nobody else.
        answer: the whole answer it came in, and `choice` its place there, where it was not streamed.
    """

    text: str
    member: str
    weight: float = 1.0
    complete: bool = True
    tool_calls: Sequence[Mapping[str, object]] = field(default_factory=tuple)
    answer: Mapping[str, object] | None = None
    choice: Mapping[str, object] | None = None

    @property
    def empty(self) -> bool:
        """An empty answer is not a candidate."""
        return not self.text and not self.tool_calls


def strip_reasoning(text: str) -> str:
    """Text without inline reasoning blocks, trimmed. A block that was never closed goes to the end."""
    if "<" in text:
        text = _REASONING.sub("", text)
    return text.strip()


def material(candidate: Candidate) -> str:
    """What an aggregator is shown of a candidate: its text, and the tool calls it proposes as text."""
    if not candidate.tool_calls:
        return candidate.text
    proposals = "\n".join(f"[proposes tool call] {_describe(call)}" for call in candidate.tool_calls)
    return f"{candidate.text}\n{proposals}".strip()


def _describe(call: Mapping[str, object]) -> str:
    function = call.get("function")
    if not isinstance(function, dict):
        return orjson.dumps(call).decode()
    return f"{function.get('name')}({function.get('arguments') or ''})"


def cap(text: str, max_bytes: int) -> str:
    """The longest head of `text` within `max_bytes` of UTF-8 that ends with a whole line, else with a whole word.

    A cut is marked within the limit, so that the reader does not take it for the author's end; empty where not even
    the mark has room.
    """
    if len(text) * 4 <= max_bytes:
        return text
    encoded = text.encode()
    if len(encoded) <= max_bytes:
        return text
    room = max_bytes - len(_CUT)
    if room < 0:
        return ""
    head = encoded[:room].decode(errors="ignore")
    cut = max(head.rfind("\n"), 0)
    if cut < len(head) // 2:
        cut = max(head.rfind(" "), cut) or len(head)
    return head[:cut].rstrip() + _CUT


def budgets(sizes: Sequence[int], total: int) -> list[int]:
    """Share `total` bytes over texts of these sizes: short ones keep all they need, long ones share the rest evenly."""
    shares = [0] * len(sizes)
    left, order = max(total, 0), sorted(range(len(sizes)), key=sizes.__getitem__)
    for rank, index in enumerate(order):
        shares[index] = min(sizes[index], left // (len(order) - rank))
        left -= shares[index]
    return shares


def permuted(items: Sequence[Candidate], seed: int) -> list[Candidate]:
    """The items in the order that `seed` stands for: the seed, read in the factorial number system, is the order.

    A seed of `n` bits reaches every order of `k` items alike while `k!` is far below `2**n`. It costs next to nothing,
    where seeding a generator for one short shuffle costs more than the rest of the prompt.
    """
    order = list(items)
    for last in range(len(order) - 1, 0, -1):
        seed, other = divmod(seed, last + 1)
        order[last], order[other] = order[other], order[last]
    return order


def best(candidates: Iterable[Candidate]) -> Candidate | None:
    """The candidate to give when nobody can aggregate.

    The one that more than half agree on, where texts agree; else the one of the highest weight; else the longest
    complete one. Only candidates with text count: a proposed tool call reaches nobody but the aggregator.
    """
    readable = [candidate for candidate in candidates if candidate.text]
    if not readable:
        return None
    keys = [_SPACE.sub(" ", candidate.text).casefold() for candidate in readable]
    key, count = Counter(keys).most_common(1)[0]
    if count > 1 and 2 * count > len(readable):
        return readable[keys.index(key)]
    return max(readable, key=lambda candidate: (candidate.weight, candidate.complete, len(candidate.text)))
