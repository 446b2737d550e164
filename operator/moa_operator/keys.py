"""How profiles are told apart."""

from typing import NamedTuple


class Key(NamedTuple):
    """A profile, whichever generation or incarnation."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"
