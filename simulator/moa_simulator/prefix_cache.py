"""Automatic prefix caching as vLLM does it: chained hashes of full blocks, least recently used out first.

Source: vLLM's design document "Automatic Prefix Caching". A block's key covers everything before it, so a hit on block
`k` implies hits on all blocks before `k`, and one changed token at the front costs the whole prompt.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

BLOCK_SIZE: Final = 16
"""Tokens per block (vLLM's default)."""

_ROOT: Final = 0


@dataclass(slots=True, frozen=True)
class Prefill:
    """What admitting a prompt found.

    Attributes:
        cached: How many of its tokens were cached: a multiple of `BLOCK_SIZE`, less than the prompt's length.
        tip: Key of its last full block.
        rest: Its tokens behind that block.
    """

    cached: int
    tip: int
    rest: tuple[str, ...]


_NOTHING: Final = Prefill(0, _ROOT, ())


class PrefixCache:
    """Remembers which blocks have been computed.

    Args:
        capacity: How many blocks fit; 0 turns the cache off.
    """

    __slots__ = ("_blocks", "_capacity", "hits", "queries")

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._blocks: OrderedDict[int, None] = OrderedDict()
        self.queries = 0
        self.hits = 0

    def __len__(self) -> int:
        return len(self._blocks)

    def admit(self, prompt: Sequence[str]) -> Prefill:
        """Looks a prompt up, then remembers its full blocks.

        The prompt's last token is always computed afresh, because its output is the first new token; a prompt of
        exactly `k` blocks therefore hits at most `k - 1`.
        """
        self.queries += len(prompt)
        if not self._capacity:
            return _NOTHING
        tokens = tuple(prompt)
        keys = _chain(_ROOT, tokens)
        cached = 0
        for key in keys[: (len(tokens) - 1) // BLOCK_SIZE]:
            if key not in self._blocks:
                break
            cached += BLOCK_SIZE
        self._remember(keys)
        self.hits += cached
        return Prefill(cached, keys[-1] if keys else _ROOT, tokens[len(keys) * BLOCK_SIZE :])

    def extend(self, prefill: Prefill, output: Sequence[str]) -> None:
        """Remembers the blocks that an answer completed, so that the conversation's next turn finds them."""
        if not self._capacity:
            return
        self._remember(_chain(prefill.tip, (*prefill.rest, *output)))

    def clear(self) -> None:
        """Forgets every block and both counters."""
        self._blocks.clear()
        self.queries = self.hits = 0

    def _remember(self, keys: Sequence[int]) -> None:
        blocks = self._blocks
        for key in keys:
            blocks[key] = None
            blocks.move_to_end(key)
        while len(blocks) > self._capacity:
            blocks.popitem(last=False)


def _chain(key: int, tokens: tuple[str, ...]) -> list[int]:
    """Keys of all full blocks, each over what came before it."""
    keys = []
    for end in range(BLOCK_SIZE, len(tokens) + 1, BLOCK_SIZE):
        key = hash((key, tokens[end - BLOCK_SIZE : end]))
        keys.append(key)
    return keys
