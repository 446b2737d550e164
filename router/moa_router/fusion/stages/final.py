"""The call that writes the answer, and the fallbacks behind it."""

from __future__ import annotations

from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING

from moa_router.fusion.errors import APIError, bad_request
from moa_router.fusion.failures import Failed, as_error, field_at_fault
from moa_router.fusion.plan import final_body
from moa_router.fusion.stages.relay import Relay
from moa_router.telemetry import names
from moa_router.upstream.failure import Failure

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from moa_router.fusion.chunks import ChunkWriter
    from moa_router.fusion.request import ChatRequest
    from moa_router.fusion.run import Run
    from moa_router.upstream.client import Call, Patience, Site, Upstream
    from moa_router.upstream.failure import Feature

_FIELD_OF: dict[Feature, str] = {
    "Vision": "messages",
    "Tools": "tools",
    "StructuredOutput": "response_format",
    "MultipleChoices": "n",
}
_NOTHING = Failure("invalid", "answered with nothing")


@dataclass(slots=True)
class Final:
    """An answer that was written: whole, or streamed but for its last chunk."""

    answer: Mapping[str, object]
    last: Mapping[str, object] | None


class StreamBrokenError(Exception):
    """The answer broke off after its first token had reached the client."""

    def __init__(self, error: APIError) -> None:
        super().__init__(error.message)
        self.error = error


class Whole:
    """Waits for an unstreamed answer; the `Receiver` of its call."""

    def __init__(self, run: Run) -> None:
        self.finished: asyncio.Future[None] = run.loop.create_future()

    def on_event(self, call: Call, event: bytes) -> None:
        """Does not happen: an unstreamed answer has no events."""

    def on_done(self, _: Call) -> None:
        """The call has ended."""
        if not self.finished.done():
            self.finished.set_result(None)


async def write_answer(
    run: Run,
    chain: Sequence[Site],
    messages: Callable[[Site], Iterable[bytes]],
    *,
    defaults: Mapping[str, object],
    patience: Patience,
    chunks: ChunkWriter | None,
    allow_empty: bool,
) -> Final | list[Failed]:
    """Ask one upstream after the other until one writes the answer.

    Args:
        run: the request.
        chain: whom to ask, in order.
        messages: the messages for one of them.
        defaults: the profile's values for fields the client does not set.
        patience: how long each may take.
        chunks: where a streamed answer goes; None for an unstreamed one.
        allow_empty: whether an answer without a token is an answer.

    Returns:
        The answer, or who failed and how; the latter is empty only if nobody of the chain sees images.

    Raises:
        APIError: 400, when the client asked for something that nobody of the chain can do, or got a field wrong.
        StreamBrokenError: the answer broke off.
    """
    failed: list[Failed] = []
    lacking: set[Feature] = set()
    for site in chain:
        missing = _missing(run.request, site)
        if missing is not None:
            lacking.add(missing)
            continue
        if failed:
            run.workflow.event(names.EVENT_FALLBACK, {names.MOA_UPSTREAM: site.upstream.name})
        outcome = await _ask(run, site, messages(site), defaults, patience, chunks, allow_empty=allow_empty)
        if isinstance(outcome, Final):
            return outcome
        if outcome.refused is not None and outcome.refused in run.request.wants:
            # the next one may be able to
            site.upstream.unlearn(outcome.refused)
            lacking.add(outcome.refused)
        else:
            _raise_if_clients_fault(run.request, site.upstream, outcome)
        failed.append((f"upstream {site.upstream.name}", outcome))
    others = lacking - {"Vision"}
    if others and all(failure.refused in others for _, failure in failed):
        raise cannot_honour(min(others), "no upstream that could answer")
    return failed


def check_chain(request: ChatRequest, chain: Sequence[Site]) -> None:
    """Refuse a request of which nobody of a chain can honour some field.

    Images are no such field: a panel that sees them may still give its best candidate.

    Raises:
        APIError: 400, naming the field.
    """
    lacking = [_missing(request, site) for site in chain]
    others = {feature for feature in lacking if feature not in {None, "Vision"}}
    if others and None not in lacking:
        raise cannot_honour(min(others), "no upstream that could answer")


def cannot_honour(feature: Feature, nobody: str) -> APIError:
    """The 400 for something that nobody who could be asked can do.

    Args:
        feature: what that is.
        nobody: who they are, in words: "no member of the panel".
    """
    if feature == "Vision":
        return bad_request(f"The conversation has images, and {nobody} takes images.", "messages")
    field = _FIELD_OF[feature]
    return bad_request(f"'{field}' cannot be honoured: {nobody} supports it.", field)


def _missing(request: ChatRequest, site: Site) -> Feature | None:
    """Something the request wants that an upstream cannot do; anything before images, for which there is a remedy."""
    lacking = [feature for feature in request.wants if not site.upstream.can(feature)]
    return lacking[-1] if lacking else None


async def _ask(
    run: Run,
    site: Site,
    messages: Iterable[bytes],
    defaults: Mapping[str, object],
    patience: Patience,
    chunks: ChunkWriter | None,
    *,
    allow_empty: bool,
) -> Final | Failure:
    span = run.stage_span(site.stage)
    started = monotonic()
    parts = tuple(messages)
    try:
        while True:
            running = run.request.choices == 1 and site.upstream.can("UsageStream")
            receiver = Whole(run) if chunks is None else Relay(run, chunks, allow_empty=allow_empty)
            body = final_body(
                site, parts, run.request.fields, defaults, stream=chunks is not None, running_usage=running
            )
            call = run.call(
                site, body, receiver,
                deadline=run.deadline, patience=patience, streamed=chunks is not None, parent=span,
                choices=run.request.choices,
            )  # fmt: skip
            await receiver.finished
            failure = call.failure
            if failure is None or not (running and failure.refused == "UsageStream"):
                break
            site.upstream.unlearn("UsageStream")
    finally:
        run.timings.append((site.stage, monotonic() - started))
        if run.sampled:
            span.end()
    if isinstance(receiver, Relay):
        return _streamed(receiver, site.upstream, failure, allow_empty=allow_empty)
    if failure is None and not allow_empty and _is_empty(call.answer):
        return _NOTHING
    return failure or Final(call.answer, None)


def _streamed(relay: Relay, upstream: Upstream, failure: Failure | None, *, allow_empty: bool) -> Final | Failure:
    if failure is None:
        return Final({}, relay.last) if relay.committed or allow_empty else _NOTHING
    if relay.committed:
        raise StreamBrokenError(as_error([(f"upstream {upstream.name}", failure)], what="The answer broke off"))
    return failure


def _raise_if_clients_fault(request: ChatRequest, upstream: Upstream, failure: Failure) -> None:
    """A field of the client's that an upstream refuses is the client's to mend, not a reason to answer without it."""
    if failure.outcome != "client_error" or failure.context_overflow:
        return
    param = field_at_fault(failure, request.fields)
    if param is not None:
        failed = [(f"upstream {upstream.name}", failure)]
        raise as_error(failed, what=f"'{param}' was refused", fields=request.fields)


def _is_empty(answer: Mapping[str, object]) -> bool:
    choices = answer.get("choices")
    for choice in choices if isinstance(choices, list) else []:
        message = choice["message"]
        if any(message.get(key) for key in ("content", "tool_calls", "refusal", "function_call")):
            return False
    return True
