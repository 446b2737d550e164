"""Ask the router one way or the other and compare what came; panels of several upstreams to ask."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.router.wire.harness import (
    AGGREGATOR_TEMPERATURE,
    PANEL_TEMPERATURE,
    QWEN,
    Call,
    Json,
    Profile,
    Router,
    asked,
    chunks_in,
    data_in,
    text_of,
)

#: Upstreams of the panels below and the models behind them: three members, a writer and its stand-in.
MODELS = {"a": "other", "b": "toolless", "c": "unstructured", "writer": QWEN, "spare": "onechoice"}


@dataclass(slots=True)
class Answer:
    """An answer, streamed or not, in one shape.

    Attributes:
        status: HTTP status.
        headers: response headers.
        text: text of the first choice.
        finish: its finish reason; None if the answer broke off.
        moa: the `moa` object.
        usage: the `usage` object.
        error: the error object, from the body or from the stream.
        done: whether a stream ended with `[DONE]`.
        message: the message of an unstreamed answer.
    """

    status: int
    headers: Mapping[str, str]
    text: str = ""
    finish: str | None = None
    moa: Json = field(default_factory=dict)
    usage: Json = field(default_factory=dict)
    error: Json | None = None
    done: bool = False
    message: Json = field(default_factory=dict)

    @property
    def degraded(self) -> list[str]:
        degraded: list[str] = self.moa["degraded"]
        return degraded

    @property
    def panel(self) -> str:
        """Answered of asked, as the header has it."""
        return f"{self.moa['panel']['answered']}/{self.moa['panel']['asked']}"

    def stages(self, stage: str) -> list[Json]:
        return [entry for entry in self.moa["stages"] if entry["stage"] == stage]

    def outcomes(self, stage: str = "panel") -> dict[str, str]:
        """Outcome by upstream."""
        return {entry["upstream"]: entry["outcome"] for entry in self.stages(stage)}


def ask(router: Router, *, stream: bool = False, headers: Mapping[str, str] | None = None, **fields: object) -> Answer:
    """Ask the profile `research`; a streamed answer is asked for its usage too."""
    if stream:
        return ask_streaming(router, asked(**{"stream_options": {"include_usage": True}, **fields}), headers)
    reply = router.post(asked(**fields), headers)
    if reply.status != 200:
        return Answer(reply.status, reply.headers, error=reply.error)
    body = reply.json
    choice = body["choices"][0]
    return Answer(
        reply.status,
        reply.headers,
        text=choice["message"]["content"] or "",
        finish=choice["finish_reason"],
        moa=body["moa"],
        usage=body["usage"],
        message=choice["message"],
    )


def ask_streaming(router: Router, body: Json, headers: Mapping[str, str] | None = None) -> Answer:
    reply = router.post({**body, "stream": True}, headers)
    if not reply.headers["content-type"].startswith("text/event-stream"):
        return Answer(reply.status, reply.headers, error=reply.error)
    seen = reply.body.decode().split("\n\n")
    assert seen.pop() == "", "the stream ends within an event"
    chunks = chunks_in(seen)
    answer = Answer(reply.status, reply.headers, done=data_in(seen)[-1:] == ["[DONE]"])
    for chunk in chunks:
        if "error" in chunk:
            assert chunk is chunks[-1], "something comes after the error"
            answer.error = chunk["error"]
        answer.moa = chunk.get("moa", answer.moa)
        answer.usage = chunk.get("usage") or answer.usage
        for choice in chunk.get("choices", []):
            answer.finish = choice["finish_reason"] or answer.finish
    answer.text = text_of([chunk for chunk in chunks if "choices" in chunk])
    return answer


def in_parallel(count: int, question: Callable[[], Answer]) -> list[Answer]:
    """Ask several times at once."""
    with ThreadPoolExecutor(count) as pool:
        return [asked.result() for asked in [pool.submit(question) for _ in range(count)]]


def member(upstream: str, **fields: object) -> Json:
    return {"upstream": upstream, "temperature": PANEL_TEMPERATURE, **fields}


def trio(
    profile: Profile,
    *,
    name: str = "research",
    members: Sequence[Json] | None = None,
    panel: Json | None = None,
    aggregator: Json | None = None,
    upstream: Mapping[str, Json] | None = None,
    **sections: Json,
) -> Json:
    """A profile of three members on three upstreams, a writer and a spare one.

    Args:
        profile: builds it.
        name: its name.
        members: other members.
        panel: fields of the panel.
        aggregator: fields of the aggregator.
        upstream: fields of upstreams, by name.
        sections: further sections.
    """
    return profile(
        name=name,
        upstreams=[{"name": key, "model": model, **(upstream or {}).get(key, {})} for key, model in MODELS.items()],
        panel={"members": members or [member("a"), member("b"), member("c")], "grace": "0s", **(panel or {})},
        aggregator={"upstream": "writer", **(aggregator or {})},
        **sections,
    )


def on(upstream: str, times: int | None = None, **action: object) -> Json:
    """A rule: what happens to calls of an upstream of `MODELS`."""
    rule: Json = {"match": {"model": MODELS[upstream]}, "action": action}
    return rule if times is None else {**rule, "times": times}


def panel_of(calls: Sequence[Call]) -> dict[str, Call]:
    """Panel calls by the upstream they went to."""
    names = {model: name for name, model in MODELS.items()}
    return {names[call.model]: call for call in calls if call.is_panel}


def final_of(calls: Sequence[Call]) -> list[Call]:
    """Calls of the aggregator and its fallbacks."""
    return [call for call in calls if call.fields.get("temperature") == AGGREGATOR_TEMPERATURE]


@contextmanager
def counting(router: Router, name: str, **labels: str) -> Iterator[list[float]]:
    """By how much a metric grows meanwhile; the list holds the number afterwards."""
    before = router.metric(name, **labels)
    grown: list[float] = []
    yield grown
    grown.append(router.metric(name, **labels) - before)
