"""The client's conversation, as the bytes it came in.

Every stage gets the whole conversation, and whatever a stage adds goes to its tail. The bytes before the tail are the
client's own, never encoded again: panel and aggregator then render to the same longest possible token prefix, and the
upstream's prefix cache does its work.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec
import orjson

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_MESSAGES = msgspec.json.Decoder(list[msgspec.Raw])
_MESSAGE = msgspec.json.Decoder(dict[str, msgspec.Raw])
_CONTENT_KEY = re.compile(rb'"content"\s*:\s*')
_IMAGE_PARTS = frozenset({"image_url", "input_image", "image"})


class Conversation:
    """The `messages` of a request.

    Args:
        raw: the JSON array, byte for byte as the client sent it.
        messages: the same, decoded.
    """

    __slots__ = ("_last_text", "_seam", "has_images", "last_role", "raw")

    def __init__(self, raw: bytes, messages: Sequence[Mapping[str, object]]) -> None:
        self.raw = raw
        self.last_role = messages[-1].get("role")
        self.has_images = b"image" in raw and any(_shows_image(message) for message in messages)
        content = messages[-1].get("content")
        self._last_text = content if isinstance(content, str) else None
        self._seam: tuple[bytes, bytes] | None = None

    def with_tail(self, text: str) -> tuple[bytes, ...]:
        """The conversation with `text` merged into its last user turn, as parts of one JSON array.

        A conversation that ends with another role (a tool's result, say) gets a new user turn instead: merging into
        an earlier one would move everything after it.
        """
        if not text:
            return (self.raw,)
        if self._seam is None:
            self._seam = self._find_seam()
        before, after = self._seam
        return before, orjson.dumps(text)[1:-1], after

    def _find_seam(self) -> tuple[bytes, bytes]:
        """The bytes before and after the place where an escaped text can be inserted."""
        body = self.raw.rstrip()[:-1].rstrip()
        if self.last_role == "user":
            if self._last_text:
                # nearly every client writes the content last, and writes it as we would
                text = orjson.dumps(self._last_text)
                if body.endswith((b'"content":' + text + b"}", b'"content": ' + text + b"}")):
                    return body[:-2] + rb"\n\n", b'"}]'
            last = bytes(_MESSAGES.decode(self.raw)[-1])
            seam = _seam_in_message(last)
            if seam is not None:
                return body[: len(body) - len(last)] + seam[0], seam[1] + b"]"
        return body + b',{"role":"user","content":"', b'"}]'


def _seam_in_message(message: bytes) -> tuple[bytes, bytes] | None:
    content = _MESSAGE.decode(message).get("content")
    if content is None:
        return None
    value = bytes(content)
    start = _only_place(message, value)
    if start is None:
        return None
    end = start + len(value) - 1
    before, after = message[:end], message[end:]
    if value.startswith(b'"'):
        seam = (before + rb"\n\n" if len(value) > 2 else before), after  # noqa: PLR2004 - an empty string is two quotes
    elif value.startswith(b"["):
        comma = b"," if value[1:-1].strip() else b""
        seam = before.rstrip() + comma + b'{"type":"text","text":"', b'"}' + after
    else:
        return None
    # a key may be spelled with escapes, and something nested look just like it
    changed = _MESSAGE.decode(b"x".join(seam)).get("content")
    return None if changed is None or bytes(changed) == value else seam


def _only_place(message: bytes, value: bytes) -> int | None:
    """Where the message's own `content` stands; None in the odd case that something nested looks just like it."""
    places = [match.end() for match in _CONTENT_KEY.finditer(message) if message.startswith(value, match.end())]
    return places[0] if len(places) == 1 else None


def _shows_image(message: Mapping[str, object]) -> bool:
    content = message.get("content")
    return isinstance(content, list) and any(
        isinstance(part, dict) and part.get("type") in _IMAGE_PARTS for part in content
    )
