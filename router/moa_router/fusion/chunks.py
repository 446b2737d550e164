"""The chunks of a streamed answer: one id, one creation time and one model name through all of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import orjson

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

DONE = b"data: [DONE]\n\n"


class Outlet(Protocol):
    """Where a streamed answer goes; the client's connection, seen from here."""

    @property
    def blocked(self) -> bool:
        """Whether the client is slower than what is written."""
        ...

    def write(self, data: bytes) -> None:
        """Send at once; never waits. Does nothing once the client is gone."""
        ...

    def when_unblocked(self, callback: Callable[[], None]) -> None:
        """Call back once, when the client has caught up."""
        ...


class ChunkWriter:
    """Writes `chat.completion.chunk` events in the shape of vLLM and OpenAI.

    Args:
        outlet: where they go.
        answer_id: `id` of the answer.
        created: its creation time, Unix seconds.
        model: the model name the client sent.
    """

    __slots__ = ("_fields", "head", "opened", "outlet")

    def __init__(self, outlet: Outlet, answer_id: str, created: int, model: str) -> None:
        self.outlet = outlet
        self._fields: dict[str, object] = {
            "id": answer_id,
            "object": "chat.completion.chunk",
            "created": created,
            "model": model,
        }
        self.head = b"data: " + orjson.dumps(self._fields)[:-1] + b","
        self.opened = False

    def open(self) -> None:
        """Send the chunk that says whose turn it is; once."""
        if not self.opened:
            self.opened = True
            self._delta(b'{"role":"assistant","content":""}')

    def reasoning(self, text: str) -> None:
        """Send text as reasoning, for clients that show it apart from the answer."""
        self.open()
        self._delta(b'{"reasoning_content":' + orjson.dumps(text) + b"}")

    def content(self, text: str) -> None:
        """Send text of the answer."""
        self.open()
        self._delta(b'{"content":' + orjson.dumps(text) + b"}")

    def choices(self, choices: object, extra: Mapping[str, object]) -> None:
        """Send decoded choices under our head, with whatever else the chunk carried."""
        self.outlet.write(b"data: " + orjson.dumps({**self._fields, "choices": choices, **extra}) + b"\n\n")

    def usage(self, usage: Mapping[str, object]) -> None:
        """Send the usage chunk: empty choices, as OpenAI does."""
        self.choices([], {"usage": usage})

    def done(self) -> None:
        """Say that the answer is whole."""
        self.outlet.write(DONE)

    def error(self, body: Mapping[str, object]) -> None:
        """End a stream that broke: an error, no `finish_reason`, no `[DONE]`."""
        self.outlet.write(b"data: " + orjson.dumps(body) + b"\n\n")

    def _delta(self, delta: bytes) -> None:
        self.outlet.write(
            b'%b"choices":[{"index":0,"delta":%b,"logprobs":null,"finish_reason":null}]}\n\n' % (self.head, delta)
        )
