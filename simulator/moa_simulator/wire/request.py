"""A request, as it came."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class Request:
    """One HTTP request.

    Attributes:
        method: In capitals.
        path: Without the query.
        headers: Names in lower case, in the order they came.
        body: Complete.
        keep_alive: Whether the connection outlives the answer.
    """

    method: str = ""
    path: str = ""
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""
    keep_alive: bool = True

    def header(self, name: bytes) -> bytes:
        """Gives a header's first value, or nothing."""
        return next((value for key, value in self.headers if key == name), b"")
