"""The final call, streamed: the upstream's events become ours without being decoded.

The chunks of one answer are alike but for their `choices`: what stands before and behind them is learned from the first
chunk and cut off the others bytewise; our own head goes in front of what is left. Only chunks that are not of that
shape, or that carry a `finish_reason`, are decoded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from moa_router.fusion.drafts import carries_token, read_chunk
from moa_router.upstream.event_stream import DONE, data_of
from moa_router.upstream.failure import Failure
from moa_router.upstream.usage import parse_usage

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping

    from moa_router.fusion.chunks import ChunkWriter
    from moa_router.fusion.run import Run
    from moa_router.upstream.client import Call

_CHOICES = b'"choices":'
_UNFINISHED = b'"finish_reason":null'
_FINISHED = b'"finish_reason":"'
_USAGE = b'],"usage":{'
#: llama.cpp's chunks say when each of them was created, to the second: their shape is learned anew, but no more often
#: than once in so many tokens, lest an answer without any lasting shape costs more than decoding it.
RELEARN_TOKENS = 8
_OURS = frozenset({"id", "object", "created", "model", "choices", "usage"})


class Shape:
    """What the chunks of one answer have in common.

    Attributes:
        head: bytes up to the bracket that opens `choices`.
        tail: bytes from behind the bracket that closes them; where each chunk carries its usage, from behind that.
        usage: whether each chunk carries its usage, right behind the choices.
        ours: what goes in front of the choices instead, the upstream's own extra fields included.
    """

    __slots__ = ("head", "ours", "tail", "usage")

    def __init__(self, head: bytes, tail: bytes, ours: bytes, *, usage: bool) -> None:
        self.head = head
        self.tail = tail
        self.ours = ours
        self.usage = usage


def learn(event: bytes, chunk: Mapping[str, object], ours: bytes) -> Shape | None:
    """Learn the shape of an answer's chunks from one of them; None if it has none that can be relied on.

    Args:
        event: the raw event, a single `data: ` line with its terminator.
        chunk: the same, decoded.
        ours: the head of our chunks, up to and with the comma before `"choices"`.
    """
    start = event.find(_CHOICES)
    opening = start + len(_CHOICES)
    if start < 0 or not event.startswith(b"data: {") or event[opening : opening + 1] != b"[":
        return None
    carries_usage = isinstance(chunk.get("usage"), dict)
    closing = event.rfind(_USAGE) if carries_usage else event.rfind(b"]")
    if closing < 0 or _decode(event[opening : closing + 1]) != chunk.get("choices"):
        return None
    tail = event[event.rfind(b"}", 0, event.rfind(b"}")) + 1 :] if carries_usage else event[closing + 1 :]
    extra = {name: value for name, value in chunk.items() if name not in _OURS}
    head = ours + (orjson.dumps(extra)[1:-1] + b"," if extra else b"")
    return Shape(event[: opening + 1], tail, head + b'"choices":[', usage=carries_usage)


def _decode(text: bytes) -> object:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None


class Relay:
    """Relays one streamed answer to the client; the `Receiver` of its call.

    Nothing reaches the client before the answer's first token, so that up to then another upstream can be asked.

    Args:
        run: the request it works for.
        chunks: where the answer goes.
        allow_empty: whether an answer without a token is an answer.
    """

    def __init__(self, run: Run, chunks: ChunkWriter, *, allow_empty: bool) -> None:
        self._run = run
        self._chunks = chunks
        self._allow_empty = allow_empty
        self._held: list[Mapping[str, object]] = []
        self._shape: Shape | None = None
        self._learned_at = 0
        self._finished_choices = 0
        self._last: Mapping[str, object] | None = None
        self.committed = False
        self.finished: asyncio.Future[None] = run.loop.create_future()

    @property
    def last(self) -> Mapping[str, object] | None:
        """The chunk that carries the (last) `finish_reason`: kept back, to be sent with what is known only then."""
        return self._last

    def on_event(self, call: Call, event: bytes) -> None:
        """A chunk of the answer."""
        shape = self._shape
        if shape is not None and event.startswith(shape.head) and event.endswith(shape.tail):
            end = event.rfind(_USAGE) if shape.usage else len(event) - len(shape.tail) - 1
            middle = event[len(shape.head) : end]
            if event[end : end + 1] == b"]" and _UNFINISHED in middle and _FINISHED not in middle:
                if shape.usage:
                    call.usage_raw = event[end + len(_USAGE) - 1 : -len(shape.tail)]
                call.deltas += 1
                outlet = self._chunks.outlet
                outlet.write(shape.ours + middle + b"]}\n\n")
                if outlet.blocked:
                    self._hold_back(call)
                return
        self._on_odd_event(call, event)

    def on_done(self, _: Call) -> None:
        """The call has ended."""
        if not self.finished.done():
            self.finished.set_result(None)

    def _hold_back(self, call: Call) -> None:
        # events that were already read come through all the same
        if not call.paused:
            call.pause()
            self._chunks.outlet.when_unblocked(call.resume)

    def _on_odd_event(self, call: Call, event: bytes) -> None:
        data = data_of(event)
        if data is None:
            return
        if data == DONE:
            self._on_end_of_stream(call)
            return
        chunk = read_chunk(call, data)
        if chunk is not None:
            self._on_chunk(call, event, chunk)

    def _on_chunk(self, call: Call, event: bytes, chunk: Mapping[str, object]) -> None:
        choices = chunk.get("choices")
        choices = [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []
        usage = parse_usage(chunk.get("usage"))
        if usage is not None and (call.choices == 1 or not choices):
            call.usage = usage
        if not choices:
            return
        token = any(carries_token(delta) for choice in choices if isinstance(delta := choice.get("delta"), dict))
        if token:
            call.deltas += 1
            if call.first_token == 0.0:
                self._commit(call)
        ends = sum(isinstance(choice.get("finish_reason"), str) for choice in choices)
        self._finished_choices += ends
        call.whole = self._finished_choices >= call.choices
        if ends:
            self._flush_last()
            self._last = chunk
        elif self.committed:
            self._send(chunk)
            if token and (self._shape is None or call.deltas - self._learned_at >= RELEARN_TOKENS):
                self._shape = learn(event, chunk, self._chunks.head)
                self._learned_at = call.deltas
            if self._chunks.outlet.blocked:
                self._hold_back(call)
        else:
            self._held.append(chunk)

    def _commit(self, call: Call) -> None:
        """The first token is here: this is the answer."""
        self.committed = True
        call.saw_token()
        self._run.saw_first_token()
        self._flush_held()

    def _on_end_of_stream(self, call: Call) -> None:
        if not call.whole:
            call.fail(Failure("invalid", "ended its stream without a finish reason"))
        elif not self.committed and not self._allow_empty:
            call.fail(Failure("invalid", "answered with nothing"))
        else:
            self._flush_held()
            call.complete()

    def _flush_held(self) -> None:
        held, self._held = self._held, []
        for chunk in held:
            if not (self._chunks.opened and _only_role(chunk)):
                self._send(chunk)
        self._chunks.opened = True

    def _flush_last(self) -> None:
        """Another choice goes on behind the end of one: that end was not the last."""
        if self._last is not None:
            self._send(self._last)
            self._last = None

    def _send(self, chunk: Mapping[str, object]) -> None:
        extra = {name: value for name, value in chunk.items() if name not in _OURS}
        self._chunks.choices(chunk["choices"], extra)


def _only_role(chunk: Mapping[str, object]) -> bool:
    """Whether a chunk says no more than whose turn it is."""
    choices = chunk.get("choices")
    return isinstance(choices, list) and all(
        isinstance(choice, dict)
        and isinstance(delta := choice.get("delta"), dict)
        and not any(value for name, value in delta.items() if name != "role")
        for choice in choices
    )
