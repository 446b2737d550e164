"""Token counts as upstreams report them.

The names follow OpenTelemetry's GenAI conventions: *input* includes cached input, *output* includes reasoning.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeGuard

if TYPE_CHECKING:
    from collections.abc import Mapping

#: A count above this is a lie: no context window is that long, and believing it would poison every sum after it.
MAX_TOKENS = 1_000_000_000


@dataclass(slots=True)
class Usage:
    """Tokens of one call, or of several added up.

    Attributes:
        input: tokens of the prompt, cached ones included.
        cached_input: those of `input` that the upstream found in its prefix cache.
        output: tokens produced, reasoning included.
        reasoning: those of `output` that were spent on reasoning.
        estimated: true when any part was counted from what arrived rather than reported.
    """

    input: int = 0
    cached_input: int = 0
    output: int = 0
    reasoning: int = 0
    estimated: bool = False

    def add(self, other: Usage) -> None:
        """Add another call's tokens to these."""
        self.input += other.input
        self.cached_input += other.cached_input
        self.output += other.output
        self.reasoning += other.reasoning
        self.estimated = self.estimated or other.estimated


def parse_usage(reported: object) -> Usage | None:
    """Read an OpenAI `usage` object.

    Returns None when there is none, or when its counts are not plausible token counts: the caller then estimates,
    and says so. Details that contradict their total (more cached tokens than input) are cut to it.
    """
    if not isinstance(reported, dict):
        return None
    inputs, outputs = reported.get("prompt_tokens"), reported.get("completion_tokens", 0)
    if not _is_count(inputs) or not _is_count(outputs):
        return None
    usage = Usage(inputs, 0, outputs, 0)
    if reported.get("prompt_tokens_details") is not None:
        usage.cached_input = min(_detail(reported, "prompt_tokens_details", "cached_tokens"), inputs)
    if reported.get("completion_tokens_details") is not None:
        usage.reasoning = min(_detail(reported, "completion_tokens_details", "reasoning_tokens"), outputs)
    return usage


def _is_count(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value <= MAX_TOKENS


def _detail(reported: Mapping[str, object], group: str, name: str) -> int:
    details = reported.get(group)
    if not isinstance(details, dict):
        return 0
    count = details.get(name)
    return count if _is_count(count) else 0
