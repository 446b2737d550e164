"""How problems are put into words: where, what, what to write instead, and never a secret."""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Final, NamedTuple

_SHOWN_LENGTH: Final = 48
_SHOWN_INTEGER: Final = 10**18
_SECRET: Final = re.compile(
    r"""
    ^(sk|pk|hf|gh[opsu]|glpat|xox[a-z]|nvapi|gsk)[-_]           # issuers' prefixes
    | ^(bearer|basic)\s                                         # the value of an Authorization header
    | ^(AKIA|AIza|eyJ)                                          # cloud keys, JSON web tokens
    | ://[^/]*@                                                 # credentials within a URL
    | [0-9a-f]{8}-[0-9a-f]{4}-                                  # UUIDs
    | (?=[a-z0-9+/=_]*[0-9])(?=[a-z0-9+/=_]*[a-z])[a-z0-9+/=_]{24,}  # long random words
    """,
    re.VERBOSE | re.IGNORECASE,
)
_KINDS: Final[tuple[tuple[type | tuple[type, ...], str], ...]] = (
    (type(None), "nothing"),
    (bool, "a boolean"),
    ((int, float), "a number"),
    (str, "text"),
    (dict, "an object"),
    ((list, tuple), "a list"),
)


class Problem(NamedTuple):
    """Something to put right in a document."""

    path: str
    """Where, such as ``spec.panel.members[1].upstream``."""

    text: str
    """What is wrong and what to write instead."""

    def __str__(self) -> str:
        return f"{self.path}: {self.text}"


def shown(value: object) -> str:
    """Quotes a value of a document if it is short and plain and does not look like a secret, else names its kind."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return f"{value}" if abs(value) < _SHOWN_INTEGER else "a number beyond all bounds"
    if not isinstance(value, str):
        return kind(value)
    if len(value) > _SHOWN_LENGTH or not value.isprintable() or _SECRET.search(value):
        return "this text"
    return f'"{value}"'


def kind(value: object) -> str:
    """Names what sort of JSON value this is, for people."""
    return next((words for types, words in _KINDS if isinstance(value, types)), "something that is not JSON")


def nearest(written: str, known: Iterable[str]) -> str | None:
    """Returns the known name that was probably meant, if any."""
    return next(iter(get_close_matches(written[:_SHOWN_LENGTH], list(known), n=1)), None)


def suggestion(written: str, known: Iterable[str]) -> str:
    """Returns ``did you mean "…"?`` for the nearest known name, else says which are known."""
    names = list(known)
    if near := nearest(written, names):
        return f"did you mean {shown(near)}?"
    return f"write one of {', '.join(shown(name) for name in names)}" if names else "there is none"


def path_of(steps: Iterable[int | str]) -> str:
    """Writes a location as people do: ``spec.panel.members[1].upstream``."""
    path = ""
    for step in steps:
        if isinstance(step, int):
            path += f"[{step}]"
        else:
            name = shown(step)[1:-1] if shown(step).startswith('"') else "(hidden)"
            path += f".{name}" if path else name
    return path or "document"
