"""The words that simulated models say."""

from functools import cache
from typing import Final

from moa_simulator.dice import Dice

_TEXT: Final = """
the of and to in a is that for it as was with be by on not he this are or his from at which but have an had they you
were their one all we can her has there been if more when will would who so no out up into than them only time new
some could these two may first then do any like my now over such our man me even most made after also well must
before back much where your way down should because each just those people how too little state good very make world
still see own men work long here get both between life being under never day same another know while last might us
great old year off come since against go came right used take three water light heat energy model answer reason
question system number result measure signal pattern river mountain city market history science theory method
evidence balance effect source figure sample cluster network memory surface weather season harvest engine bridge
planet ocean forest library letter language music theatre painter doctor lawyer farmer teacher student
"""
_WORDS: Final = tuple(_TEXT.split())
_POOL_SIZE: Final = 1 << 15


@cache
def _pool() -> list[str]:
    """A long text as tokens: each is one token of `tokenize`, and stays one wherever it stands."""
    dice = Dice(20_240_607)
    pool: list[str] = []
    while len(pool) < _POOL_SIZE:
        opening, *others = words(dice, 5 + dice.below(12))
        middle = [f" {word}" for word in others]
        if dice.below(3) == 0:
            middle.insert(3, ",")
        pool += (f" {opening.capitalize()}", *middle, ".")
    return pool[:_POOL_SIZE]


def prepare() -> None:
    """Writes the pool ahead of the first answer, which would otherwise wait tens of milliseconds for it."""
    _pool()


def prose(dice: Dice, length: int) -> list[str]:
    """Gives a text of exactly so many tokens, which begins like a sentence and ends like one."""
    pool = _pool()
    start = dice.below(_POOL_SIZE)
    tokens = pool[start : start + length]
    while len(tokens) < length:
        tokens += pool[: length - len(tokens)]
    tokens[0] = dice.pick(_WORDS).capitalize()
    if length > 1:
        tokens[-1] = "."
    return tokens


def words(dice: Dice, length: int) -> list[str]:
    """Gives so many words."""
    return [dice.pick(_WORDS) for _ in range(length)]
