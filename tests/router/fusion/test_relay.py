"""Relaying chunks without decoding them gives what decoding them would have given."""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self, cast

from hypothesis import given
from hypothesis import strategies as st

from moa_router.fusion.chunks import ChunkWriter
from moa_router.fusion.stages.relay import Relay, learn
from moa_router.upstream.event_stream import EventSplitter, data_of
from moa_router.upstream.failure import Failure
from moa_router.upstream.usage import Usage, parse_usage

if TYPE_CHECKING:
    from moa_router.fusion.run import Run
    from moa_router.upstream.client import Call

Json = dict[str, Any]
OURS = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 7, "model": "research"}


class Client:
    """An outlet that keeps what it is given, and may be slow."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.blocked = False
        self.waiting: list[Callable[[], None]] = []

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def when_unblocked(self, callback: Callable[[], None]) -> None:
        self.waiting.append(callback)

    @property
    def chunks(self) -> list[Json]:
        events = EventSplitter(max_event_bytes=1 << 20).feed(b"".join(self.written))
        return [json.loads(data) for data in map(data_of, events) if data is not None]


@dataclass
class FakeCall:
    """As much of a call as a relay touches."""

    choices: int = 1
    deltas: int = 0
    first_token: float = 0.0
    usage: Usage | None = None
    usage_raw: bytes = b""
    whole: bool = False
    paused: bool = False
    failures: list[Failure] = field(default_factory=list)
    errors: list[object] = field(default_factory=list)
    complete_: int = 0

    def saw_token(self) -> None:
        self.first_token = 1.0

    def complete(self) -> None:
        self.complete_ += 1

    def fail(self, failure: Failure) -> None:
        self.failures.append(failure)

    def fail_with(self, error: object) -> None:
        self.errors.append(error)

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False


@dataclass
class FakeRun:
    """As much of a request as a relay touches."""

    loop: asyncio.AbstractEventLoop
    tokens: int = 0

    def saw_first_token(self) -> None:
        self.tokens += 1


class Stage:
    """A relay between a scripted upstream and a client."""

    def __init__(self, choices: int = 1) -> None:
        self.loop = asyncio.new_event_loop()
        self.client = Client()
        self.call = FakeCall(choices)
        writer = ChunkWriter(self.client, "chatcmpl-1", 7, "research")
        self.relay = Relay(cast("Run", FakeRun(self.loop)), writer, allow_empty=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.close()

    def feed(self, *events: bytes) -> None:
        for event in events:
            self.relay.on_event(cast("Call", self.call), event)


def choice(delta: Json, finish: str | None = None, index: int = 0) -> Json:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}


def event(document: Mapping[str, object], *, spaced: bool = False, ascii_: bool = False) -> bytes:
    separators = (", ", ": ") if spaced else (",", ":")
    return b"data: " + json.dumps(document, separators=separators, ensure_ascii=ascii_).encode() + b"\n\n"


TRICKY = [
    '"finish_reason":null',
    '"finish_reason":"stop"',
    '],"usage":{',
    '"choices":[',
    "]}\n\n",
    "data: [DONE]",
    "\\",
    '"',
    "🦔",
    "\u2028",
    "\x00",
]
texts = st.lists(st.sampled_from(TRICKY) | st.text(max_size=5), min_size=1, max_size=3).map("".join).filter(bool)
values: list[object] = [None, "fp", [], [1], {"a": 1}, {"a": {"b": []}}, '"choices":[', "}"]
extras = st.dictionaries(
    st.sampled_from(["system_fingerprint", "service_tier", "x_list", "x_object", "x_text"]),
    st.sampled_from(values),
    max_size=3,
)
usages = st.sampled_from(["none", "null", "running"])


@st.composite
def answers(draw: st.DrawFn) -> tuple[list[Json], bool, bool]:
    """The chunks of one answer as some server would write them, its finishing chunk last."""
    fields = {"id": "up-1", "object": "chat.completion.chunk", "created": 1, "model": "up", **draw(extras)}
    names = draw(st.permutations([*fields, "choices"]))
    kind = draw(usages)
    deltas: list[Json] = [{"role": "assistant", "content": ""}]
    kinds = st.sampled_from([("content",), ("reasoning_content",), ("content", "reasoning_content")])
    written = draw(st.lists(st.tuples(texts, kinds), min_size=1, max_size=6))
    deltas += [dict.fromkeys(names_of, text) for text, names_of in written]
    made = []
    for number, delta in enumerate(deltas):
        changed = {**fields, "id": f"up-{number}"} if draw(st.booleans()) and draw(st.booleans()) else fields
        made.append(_chunk(changed, names, choice(delta), kind, number))
    made.append(_chunk(fields, names, choice({}, "stop"), kind, len(deltas)))
    return made, draw(st.booleans()), draw(st.booleans())


def _chunk(fields: Json, names: Sequence[str], one: Json, usage: str, number: int) -> Json:
    chunk: Json = {}
    for name in names:
        chunk[name] = [one] if name == "choices" else fields[name]
        if name == "choices" and usage != "none":
            counts = {"prompt_tokens": 5, "completion_tokens": number, "prompt_tokens_details": {"cached_tokens": 4}}
            chunk["usage"] = counts if usage == "running" else None
    return chunk


def ours(chunk: Json) -> Json:
    rest = {name: value for name, value in chunk.items() if name not in {*OURS, "choices", "usage"}}
    return {**OURS, "choices": chunk["choices"], **rest}


@given(answers())
def test_every_chunk_arrives_under_our_name(answer: tuple[list[Json], bool, bool]) -> None:
    chunks, spaced, ascii_ = answer
    with Stage() as stage:
        stage.feed(*[event(chunk, spaced=spaced, ascii_=ascii_) for chunk in chunks])
        assert stage.client.chunks == [ours(chunk) for chunk in chunks[:-1]]
        assert stage.relay.last == chunks[-1]
        assert stage.call.deltas == len(chunks) - 2
        told = stage.call.usage or parse_usage(json.loads(stage.call.usage_raw or b"null"))
        assert told == parse_usage(chunks[-1].get("usage"))


class TestShape:
    HEAD = b'data: {"id":"ours",'

    def test_is_learned_from_a_plain_chunk(self) -> None:
        chunk = {"id": "x", "choices": [choice({"content": "a"})], "system_fingerprint": "fp"}
        shape = learn(event(chunk), chunk, self.HEAD)
        assert shape is not None
        assert (shape.head, shape.tail) == (b'data: {"id":"x","choices":[', b',"system_fingerprint":"fp"}\n\n')
        assert shape.ours == self.HEAD + b'"system_fingerprint":"fp","choices":['
        assert not shape.usage

    def test_spaced_json_is_decoded_instead(self) -> None:
        chunk = {"id": "x", "choices": [choice({"content": "a"})]}
        assert learn(event(chunk, spaced=True), chunk, self.HEAD) is None

    def test_so_is_what_hides_the_end_of_the_choices(self) -> None:
        chunk = {"choices": [choice({"content": "a"})], "x_list": [1]}
        assert learn(event(chunk), chunk, self.HEAD) is None


class TestFirstToken:
    def test_nothing_is_sent_before_it(self) -> None:
        with Stage() as stage:
            stage.feed(event({"choices": [choice({"role": "assistant", "content": ""})]}))
            assert (stage.relay.committed, stage.client.written) == (False, [])
            stage.feed(event({"choices": [choice({"content": "a"})]}))
            assert (stage.relay.committed, len(stage.client.written)) == (True, 2)
            assert [chunk["choices"][0]["delta"] for chunk in stage.client.chunks] == [
                {"role": "assistant", "content": ""},
                {"content": "a"},
            ]

    def test_an_answer_without_one_is_none(self) -> None:
        with Stage() as stage:
            stage.feed(event({"choices": [choice({"role": "assistant"})]}), event({"choices": [choice({}, "stop")]}))
            stage.feed(b"data: [DONE]\n\n")
            assert [failure.outcome for failure in stage.call.failures] == ["invalid"]
            assert stage.client.written == []


class TestEnd:
    def test_of_one_of_several_choices_is_not_the_last(self) -> None:
        with Stage(choices=2) as stage:
            stage.feed(
                event({"choices": [choice({"content": "a"}, index=0)]}),
                event({"choices": [choice({}, "stop", index=0)]}),
            )
            assert (stage.call.whole, len(stage.client.chunks)) == (False, 1)
            stage.feed(
                event({"choices": [choice({"content": "b"}, index=1)]}),
                event({"choices": [choice({}, "stop", index=1)]}),
            )
            assert (stage.call.whole, len(stage.client.chunks)) == (True, 3)
            ends = [(one["index"], one["finish_reason"]) for chunk in stage.client.chunks for one in chunk["choices"]]
            assert ends == [(0, None), (1, None), (0, "stop")]
            assert stage.relay.last == {"choices": [choice({}, "stop", index=1)]}

    def test_without_a_finish_reason_is_a_failure(self) -> None:
        with Stage() as stage:
            stage.feed(event({"choices": [choice({"content": "a"})]}), b"data: [DONE]\n\n")
            assert [failure.outcome for failure in stage.call.failures] == ["invalid"]
            assert stage.call.complete_ == 0


def test_comments_and_other_fields_are_not_chunks() -> None:
    with Stage() as stage:
        stage.feed(b": ping\n\n", b"event: ping\n\n")
        assert (stage.call.failures, stage.client.written) == ([], [])


def test_a_slow_client_is_waited_for_once() -> None:
    with Stage() as stage:
        stage.client.blocked = True
        stage.feed(*[event({"choices": [choice({"content": "a"})]})] * 5)
        assert stage.call.paused
        assert len(stage.client.waiting) == 1
        assert len(stage.client.chunks) == 5
        stage.client.blocked = False
        stage.client.waiting.pop()()
        assert not stage.call.paused
