"""An incremental parser of `text/event-stream` (WHATWG HTML, "Server-sent events").

It cuts a stream into raw events and leaves their inside alone, for most events are relayed rather than read.
"""

from __future__ import annotations

DONE = b"[DONE]"

_BOM = b"\xef\xbb\xbf"


class EventTooLarge(ValueError):  # noqa: N818 - says what is the matter
    """An event is larger than anybody should have to keep."""


class EventSplitter:
    r"""Cuts bytes into events, whatever pieces they come in.

    An event is given with its terminator, lines and terminator ending with a line feed each: `data: {…}\n\n`. That is
    byte for byte what nearly every server sends; carriage returns are only paid for by streams that have some.

    Args:
        max_event_bytes: size, terminator included, above which an event is refused.
    """

    __slots__ = ("_after_return", "_begun", "_buffer", "_limit", "_searched")

    def __init__(self, max_event_bytes: int = 8 * 1024 * 1024) -> None:
        self._limit = max_event_bytes
        self._buffer = bytearray()
        self._searched = 0
        self._begun = False
        self._after_return = False

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes in; returns the events they complete.

        Comments alone are an event, too, so that a relay can pass them on; `data_of` finds nothing in them.

        Raises:
            EventTooLarge: an event outgrew the limit.
        """
        if self._begun and not self._buffer and not self._after_return and data.endswith(b"\n\n") and b"\r" not in data:
            if data.find(b"\n\n") == len(data) - 2 and data[0] != _LINE_FEED and len(data) <= self._limit:
                return [data]
            return self._checked([event + b"\n\n" for event in data.split(b"\n\n")])
        return self._feed_slowly(data)

    def close(self) -> bytes:
        """The rest of a stream that has ended: an event without its terminator, which by the standard is none."""
        rest, self._buffer = bytes(self._buffer.lstrip(b"\n")), bytearray()
        self._searched = 0
        return rest

    def _feed_slowly(self, data: bytes) -> list[bytes]:
        self._buffer += self._normalised(data)
        if not self._begun:
            if len(self._buffer) < len(_BOM) and _BOM.startswith(self._buffer):
                return []
            self._begun = True
            if self._buffer.startswith(_BOM):
                del self._buffer[: len(_BOM)]
        end = self._buffer.rfind(b"\n\n", max(self._searched - 1, 0))
        if end < 0:
            self._searched = len(self._buffer)
            if len(self._buffer) > self._limit:
                raise self._too_large()
            return []
        whole = bytes(self._buffer[: end + 2])
        del self._buffer[: end + 2]
        self._searched = 0
        return self._checked([event + b"\n\n" for event in whole.split(b"\n\n")])

    def _normalised(self, data: bytes) -> bytes:
        """Bytes with every line ending made a line feed; a CRLF cut in two counts once."""
        if self._after_return and data:
            self._after_return = False
            if data.startswith(b"\n"):
                data = data[1:]
        if b"\r" not in data:
            return data
        self._after_return = data.endswith(b"\r")
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _checked(self, events: list[bytes]) -> list[bytes]:
        # more blank lines than one between two events leave empty ones and line feeds in front
        found = [event.lstrip(b"\n") for event in events]
        if any(len(event) > self._limit for event in found):
            raise self._too_large()
        return [event for event in found if event]

    def _too_large(self) -> EventTooLarge:
        return EventTooLarge(f"an event is larger than {self._limit} bytes")


def data_of(event: bytes) -> bytes | None:
    """The `data` of an event: its data lines joined by line feeds; None if it has none.

    Args:
        event: as an `EventSplitter` gives it.
    """
    if event.startswith(b"data: ") and event.find(b"\n") == len(event) - 2:
        return event[6:-2]
    lines = [value for line in event.split(b"\n") if (value := _data_in(line)) is not None]
    return b"\n".join(lines) if lines else None


def _data_in(line: bytes) -> bytes | None:
    name, colon, value = line.partition(b":")
    if name != b"data":
        return None
    return value[1:] if colon and value.startswith(b" ") else value


_LINE_FEED = 0x0A
