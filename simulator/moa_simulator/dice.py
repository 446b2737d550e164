"""Chance that falls the same way every time."""

import hashlib
from collections.abc import Sequence
from typing import Final, TypeVar

_MASK: Final = (1 << 64) - 1
_Item = TypeVar("_Item")


class Dice:
    """A small deterministic generator (source: SplitMix64, Steele et al. 2014).

    The standard library's generator would spend more on seeding than an answer costs.
    """

    __slots__ = ("_state",)

    def __init__(self, seed: int) -> None:
        self._state = seed & _MASK

    @classmethod
    def thrown_by(cls, *facts: object) -> "Dice":
        """Seeds from facts; equal facts fall equally on every machine."""
        digest = hashlib.blake2b("\x1f".join(map(str, facts)).encode(errors="surrogatepass"), digest_size=8).digest()
        return cls(int.from_bytes(digest, "big"))

    def bits(self) -> int:
        """Draws 64 bits."""
        self._state = (self._state + 0x9E3779B97F4A7C15) & _MASK
        mixed = self._state
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
        return mixed ^ (mixed >> 31)

    def below(self, bound: int) -> int:
        """Draws from 0 to `bound - 1`."""
        return self.bits() % bound

    def unit(self) -> float:
        """Draws from 0 to 1."""
        return self.bits() / _MASK

    def pick(self, items: Sequence[_Item]) -> _Item:
        """Draws one of the items."""
        return items[self.below(len(items))]
