"""Text to tokens: a regular expression with the manners of a byte-pair tokenizer.

About four ASCII letters or two other letters make a token, a leading space belongs to the word that follows it, and no
character is ever split. Deterministic on every machine, so token counts in tests are facts rather than estimates.
"""

import re
import zlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

VOCABULARY_SIZE: Final = 151_936
"""Size of the id space (source: Qwen2's vocabulary)."""

_PIECE: Final = re.compile(r" ?[A-Za-z]{1,8}|\d{1,3}| ?[^\W\d_]{1,2}|_| ?[^\w\s]|\n+|[^\S\n]{1,4}")
_MEMO_CHARS: Final = 4096


@lru_cache(maxsize=512)
def _memoised(text: str) -> tuple[str, ...]:
    return tuple(_PIECE.findall(text))


def tokenize(text: str) -> tuple[str, ...]:
    """Splits text into tokens whose concatenation is the text again."""
    return _memoised(text) if len(text) <= _MEMO_CHARS else tuple(_PIECE.findall(text))


def token_ids(tokens: Sequence[str]) -> list[int]:
    """Gives each token a stable id below `VOCABULARY_SIZE`; different tokens may share one."""
    return [zlib.crc32(token.encode()) % VOCABULARY_SIZE for token in tokens]
