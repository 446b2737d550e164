"""One call to one upstream: its slot, its deadlines, its outcome, its metrics and its span.

A `Call` is callback-shaped: bytes go from the upstream's socket to the stage that wants them without a task, a queue
or a switch in between. What a task would give — an owner and an end — is kept by rule: whoever starts a call holds it
and cancels it in a `finally`, and `Receiver.on_done` comes exactly once for every call that was started, except
for one its owner cancelled.
"""

from __future__ import annotations

import logging
from time import monotonic
from typing import TYPE_CHECKING, Protocol

import orjson

from moa_router.telemetry import names
from moa_router.telemetry.tracing import NO_SPAN
from moa_router.upstream.alarms import Alarms
from moa_router.upstream.event_stream import EventSplitter, EventTooLarge
from moa_router.upstream.failure import Failure, from_error, from_response, from_transport
from moa_router.upstream.slots import Slots
from moa_router.upstream.usage import Usage, parse_usage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from decimal import Decimal

    from moa_router.telemetry.metrics import CounterCell, HistogramCell, Metrics
    from moa_router.telemetry.names import CallOutcome, CancelReason, Stage
    from moa_router.telemetry.tracing import Span
    from moa_router.upstream.alarms import Sleeper
    from moa_router.upstream.failure import Feature
    from moa_router.upstream.transport import Exchange, Route, TransportError

logger = logging.getLogger(__name__)

MAX_ERROR_BYTES = 64 * 1024
MAX_ANSWER_BYTES = 64 * 1024 * 1024
MAX_EVENT_BYTES = 8 * 1024 * 1024
#: After the answer is complete, how long the response may take to end before its connection is given up.
LINGER_SECONDS = 1.0
#: How long a refused feature is not asked for again.
UNLEARNED_SECONDS = 60.0


class Prices:
    """Prices of an upstream's model, per token, exact."""

    __slots__ = ("cached_input", "input", "output", "reasoning")

    def __init__(self, *, input_: Decimal, cached_input: Decimal, output: Decimal, reasoning: Decimal) -> None:
        self.input = input_
        self.cached_input = cached_input
        self.output = output
        self.reasoning = reasoning

    def cost(self, usage: Usage) -> Decimal:
        """What these tokens cost."""
        return (
            (usage.input - usage.cached_input) * self.input
            + usage.cached_input * self.cached_input
            + (usage.output - usage.reasoning) * self.output
            + usage.reasoning * self.reasoning
        )


class Upstream:
    """A model server of a profile, compiled: where it is, what it can do, how much it may be asked at once.

    Args:
        name: its name in the profile.
        model: the model name it serves.
        chat: the compiled request head of its chat completions endpoint.
        capabilities: what it can do; None assumes everything until the upstream refuses.
        parameters: fields merged into each request body.
        slots: the cap on concurrent calls.
        prices: what its tokens cost, if the profile says.
        context_length: tokens its context window holds, if the profile says.
        address: host name of its server, for telemetry.
        port: port of its server, for telemetry.

    Attributes:
        alarms: the deadlines of its calls.
        body_head: the constant start of every body sent to it.
    """

    __slots__ = (
        "_declared",
        "_refused",
        "address",
        "alarms",
        "body_head",
        "chat",
        "context_length",
        "model",
        "name",
        "parameters",
        "port",
        "prices",
        "slots",
    )

    def __init__(
        self,
        name: str,
        model: str,
        chat: Route,
        *,
        capabilities: frozenset[str] | None = None,
        parameters: Mapping[str, object] | None = None,
        slots: Slots | None = None,
        prices: Prices | None = None,
        context_length: int | None = None,
        address: str = "",
        port: int = 0,
    ) -> None:
        self.address = address
        self.port = port
        self.name = name
        self.model = model
        self.alarms = Alarms()
        self.body_head = b'{"model":' + orjson.dumps(model) + b',"messages":'
        self.chat = chat
        self.parameters = dict(parameters or {})
        self.slots = slots or Slots(None, 0)
        self.prices = prices
        self.context_length = context_length
        self._declared = capabilities
        self._refused: dict[Feature, float] = {}

    def can(self, feature: Feature) -> bool:
        """Whether it can do this, as far as anybody knows."""
        if feature in self._refused and monotonic() < self._refused[feature] + UNLEARNED_SECONDS:
            return False
        return self._declared is None or feature == "UsageStream" or feature in self._declared

    def unlearn(self, feature: Feature) -> None:
        """Remember, for a while, that it refused; a capability the profile declares is believed over a refusal.

        Not for ever: what one client sends may be refused in words that sound as if nobody's would be taken.
        """
        if self._declared is not None and feature in self._declared:
            return
        if feature not in self._refused:
            logger.warning("upstream lacks a capability", extra={"upstream": self.name, "capability": feature})
        self._refused[feature] = monotonic()


class Site:
    """Where calls of one stage to one upstream are counted: its metric cells, resolved once when the profile loads."""

    __slots__ = ("_cells", "_gen_ai_tokens", "_metrics", "_tokens", "profile", "stage", "upstream")

    def __init__(self, metrics: Metrics, profile: str, stage: Stage, upstream: Upstream) -> None:
        self._metrics = metrics
        self.profile = profile
        self.stage = stage
        self.upstream = upstream
        labels = (profile, stage, upstream.name, upstream.model)
        self._cells: dict[CallOutcome, tuple[CounterCell, HistogramCell, HistogramCell]] = {}
        self._tokens = tuple(
            metrics.stage_tokens.labels(*labels, kind) for kind in ("input", "output", "cached_input", "reasoning")
        )
        self._gen_ai_tokens = tuple(
            metrics.gen_ai_token_usage.labels(*self._gen_ai_labels(), kind) for kind in ("input", "output")
        )

    def count(self, outcome: CallOutcome, seconds: float, usage: Usage, cost: Decimal | None) -> None:
        """Count one ended call."""
        requests, durations, operations = self._cells.get(outcome) or self._cells_of(outcome)
        requests.inc()
        durations.observe(seconds)
        operations.observe(seconds)
        if not usage.estimated and usage.input:
            self._gen_ai_tokens[0].observe(usage.input)
            self._gen_ai_tokens[1].observe(usage.output)
        inputs, outputs, cached, reasoning = self._tokens
        inputs.inc(usage.input)
        outputs.inc(usage.output)
        if usage.cached_input:
            cached.inc(usage.cached_input)
        if usage.reasoning:
            reasoning.inc(usage.reasoning)
        if usage.estimated:
            self._metrics.estimated_usage.labels(self.profile, self.stage, self.upstream.name).inc()
        if cost:
            self._metrics.stage_cost.labels(self.profile, self.stage, self.upstream.name).inc(float(cost))

    def _cells_of(self, outcome: CallOutcome) -> tuple[CounterCell, HistogramCell, HistogramCell]:
        metrics, name = self._metrics, self.upstream.name
        error = "" if outcome == "ok" else outcome
        cells = self._cells[outcome] = (
            metrics.upstream_requests.labels(self.profile, name, outcome),
            metrics.stage_duration.labels(self.profile, self.stage, name, outcome),
            metrics.gen_ai_operation_duration.labels(*self._gen_ai_labels(), error),
        )
        return cells

    def _gen_ai_labels(self) -> tuple[str, ...]:
        upstream = self.upstream
        return self.profile, "chat", names.GEN_AI_PROVIDER, upstream.model, upstream.address, str(upstream.port)

    def count_cancelled(self, reason: CancelReason) -> None:
        """Count why a call was cancelled."""
        self._metrics.cancelled_calls.labels(self.profile, self.stage, reason).inc()


class Receiver(Protocol):
    """What a stage does with what its call brings; called synchronously as bytes arrive."""

    def on_event(self, call: Call, event: bytes, /) -> None:
        """A raw event of a streamed answer."""
        ...

    def on_done(self, call: Call, /) -> None:
        """The call ended by itself: `call.failure` says how, or is None and `call.answer` or the events are whole."""
        ...


class Patience:
    """How long a call may take, in seconds; None means as long as its deadline."""

    __slots__ = ("first_token", "idle", "total")

    def __init__(self, total: float | None, first_token: float | None, idle: float | None) -> None:
        self.total = total
        self.first_token = first_token
        self.idle = idle


class Call:
    """One HTTP request to an upstream, from the line for a slot to the last byte.

    Args:
        site: where it is counted, and whom it asks.
        body: the request body, in parts.
        receiver: what hears of it.
        streamed: whether the body asks for an event stream.
        layer: which panel layer it belongs to (0 outside of panels); for the record only.
        choices: how many answers the body asks for.
    """

    __slots__ = (
        "_alarm",
        "_body",
        "_chunks",
        "_deadline",
        "_exchange",
        "_headers",
        "_holding",
        "_last_byte",
        "_patience",
        "_paused",
        "_received",
        "_sent",
        "_splitter",
        "_status",
        "_upstream_headers",
        "answer",
        "choices",
        "cost",
        "deltas",
        "done",
        "ended",
        "failure",
        "first_token",
        "layer",
        "outcome",
        "receiver",
        "site",
        "span",
        "started",
        "streamed",
        "usage",
        "usage_raw",
        "waiting",
        "whole",
    )

    def __init__(
        self,
        site: Site,
        body: Sequence[bytes],
        receiver: Receiver,
        *,
        streamed: bool,
        layer: int = 0,
        choices: int = 1,
    ) -> None:
        self.site = site
        self.receiver = receiver
        self.streamed = streamed
        self.layer = layer
        self.choices = choices
        self.span: Span = NO_SPAN
        self.answer: dict[str, object] = {}
        self.failure: Failure | None = None
        self.outcome: CallOutcome = "ok"
        self.usage: Usage | None = None
        self.usage_raw = b""
        self.cost: Decimal | None = None
        self.deltas = 0
        self.done = False
        self.waiting = False
        self.whole = False
        self.started = 0.0
        self.first_token = 0.0
        self.ended = 0.0
        self._body = body
        self._headers = b""
        self._holding = False
        self._paused = False
        self._exchange: Exchange | None = None
        self._alarm: set[Sleeper] | None = None
        self._splitter: EventSplitter | None = None
        self._chunks: list[bytes] = []
        self._received = 0
        self._status = 0
        self._upstream_headers: Mapping[str, str] = {}

    def start(self, headers: bytes, deadline: float, patience: Patience) -> None:
        """Send it, or stand in line for a slot.

        Args:
            headers: encoded header lines of this request, beside the constant ones of the upstream.
            deadline: when its stage ends, on the event loop's clock.
            patience: how long this call may take.
        """
        now = self.started = self._sent = self._last_byte = monotonic()
        self._headers = headers
        self._patience = patience
        total = patience.total
        self._deadline = deadline if total is None or now + total > deadline else now + total
        granted = self.site.upstream.slots.acquire(self)
        if granted is None:
            self._end(Failure("rate_limited", "has too many calls waiting", retry_after=1.0))
            return
        self.waiting = not granted
        self._arm(now)
        if granted:
            self._send()

    def on_slot(self) -> bool:
        """A slot is free: send."""
        self.waiting = False
        now = self._sent = self._last_byte = monotonic()
        self._disarm()
        self._arm(now)
        self._send()
        return True

    def cancel(self, reason: CancelReason) -> None:
        """End it from our side; the receiver hears nothing more. Does nothing to a call that has ended."""
        if self.done:
            return
        self.site.count_cancelled(reason)
        self.span.event(names.EVENT_CANCELLED, {names.MOA_REASON: reason})
        self._settle(Failure("cancelled", f"was cancelled ({reason})"))

    def complete(self) -> None:
        """Tell it that its streamed answer is whole: the response may still linger, the call is over."""
        self._end(None)

    def fail(self, failure: Failure) -> None:
        """Tell it that what it received is no answer."""
        self._end(failure)

    def fail_with(self, error: object) -> None:
        """Tell it that an error came inside a 200."""
        details = error if isinstance(error, dict) else {"message": error}
        code = details.get("code")
        status = code if isinstance(code, int) and 400 <= code <= 599 else 500  # noqa: PLR2004 - HTTP statuses
        self._end(from_error(status, details))

    def saw_token(self) -> None:
        """Tell it that the first token of its answer is here."""
        self.first_token = monotonic()
        self.span.event(names.EVENT_FIRST_TOKEN)

    @property
    def paused(self) -> bool:
        """Whether nobody reads."""
        return self._paused

    def pause(self) -> None:
        """Stop reading: whoever takes the bytes is slow."""
        if self._exchange is not None:
            self._paused = True
            self._exchange.pause()

    def resume(self) -> None:
        """Read on."""
        if self._exchange is not None:
            self._paused = False
            self._last_byte = monotonic()
            self._exchange.resume()

    # -- what the transport tells -----------------------------------------------------------------------------------

    def on_head(self, status: int, headers: Mapping[str, str]) -> None:
        """The response's head is here."""
        self._status = status
        self._upstream_headers = headers
        self._last_byte = monotonic()
        if status != 200:  # noqa: PLR2004
            return
        wanted = "text/event-stream" if self.streamed else "application/json"
        if not headers.get("content-type", "").startswith(wanted):
            self._end(Failure("invalid", f"did not answer with {wanted}"))
        elif headers.get("content-encoding", "identity") != "identity":
            self._end(Failure("invalid", "compressed its answer unasked"))
        elif self.streamed:
            self._splitter = EventSplitter(max_event_bytes=MAX_EVENT_BYTES)

    def on_body(self, data: bytes) -> None:
        """Bytes of the response's body are here."""
        if self.done:
            return
        self._last_byte = monotonic()
        if self._splitter is None:
            self._collect(data)
            return
        try:
            for event in self._splitter.feed(data):
                self.receiver.on_event(self, event)
                if self.ended:
                    return
        except EventTooLarge:
            self._end(Failure("invalid", "sent an event of senseless size"))

    def on_end(self) -> None:
        """The response is whole."""
        self._exchange = None
        if self.done:
            self._disarm()
        elif self._status != 200:  # noqa: PLR2004
            body = b"".join(self._chunks)
            self._end(from_response(self._status, self._upstream_headers, body))
        elif self._splitter is not None:
            # a receiver that has what it needs can do without the closing [DONE]
            self._end(None if self.whole else Failure("reset", "ended its stream in the middle"))
        else:
            self._end(self._read_answer())

    def on_error(self, error: TransportError) -> None:
        """The exchange broke."""
        self._exchange = None
        if self.done:
            self._disarm()
        else:
            self._end(from_transport(error))

    # -- inside -----------------------------------------------------------------------------------------------------

    def _send(self) -> None:
        self._holding = True
        upstream = self.site.upstream
        self._exchange = upstream.chat.send(self._headers + self.span.headers, self._body, self)
        self._body = ()

    def _collect(self, data: bytes) -> None:
        self._received += len(data)
        if self._received > (MAX_ANSWER_BYTES if self._status == 200 else MAX_ERROR_BYTES):  # noqa: PLR2004
            if self._status == 200:  # noqa: PLR2004
                self._end(Failure("invalid", "sent an answer of senseless size"))
            else:
                self._end(from_response(self._status, self._upstream_headers, b""))
            return
        self._chunks.append(data)

    def _read_answer(self) -> Failure | None:
        """Parse an unstreamed answer; returns what is wrong with it."""
        try:
            answer = orjson.loads(self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks))
        except orjson.JSONDecodeError:
            return Failure("invalid", "sent something that is not JSON")
        if not isinstance(answer, dict):
            return Failure("invalid", "sent something that is not a chat completion")
        if answer.get("error") is not None and "choices" not in answer:
            error = answer["error"]
            return from_error(500, error if isinstance(error, dict) else {"message": error})
        choices = answer.get("choices")
        if not isinstance(choices, list):
            return Failure("invalid", "sent something that is not a chat completion")
        for choice in choices:
            if not isinstance(choice, dict) or not isinstance(choice.get("message"), dict):
                return Failure("invalid", "sent something that is not a chat completion")
        self.answer = answer
        self.usage = parse_usage(answer.get("usage"))
        if self.usage is None or self.choices > 1:
            self.deltas = sum(_words(choice["message"]) for choice in choices)
        return None

    def _end(self, failure: Failure | None) -> None:
        if not self.done:
            self._settle(failure)
            self.receiver.on_done(self)

    def _settle(self, failure: Failure | None) -> None:
        """Close the books of this call and free what it holds."""
        self.done = True
        if failure is not None:
            self.failure = failure
            self.outcome = failure.outcome
        self.ended = monotonic()
        self._disarm()
        self._account()
        upstream = self.site.upstream
        if self._exchange is not None:
            if failure is None and self.streamed:
                self._alarm = upstream.alarms.set(self.ended + LINGER_SECONDS, self)
            else:
                self._abandon()
        if self.waiting:
            upstream.slots.leave(self)
        elif self._holding:
            self._holding = False
            upstream.slots.release()

    def _account(self) -> None:
        if self.usage is None and self.usage_raw:
            self.usage = _read_usage(self.usage_raw)
        usage = self.usage
        if usage is None:
            # a call that was refused or never sent produced nothing: that is the exact count and no estimate
            refused = self._status not in {0, 200} or (self.failure is not None and self.failure.unsent)
            usage = self.usage = Usage(output=self.deltas, estimated=self._holding and not refused)
        elif self.choices > 1 and usage.output < self.deltas:
            # llama.cpp reports one choice of several; what arrived is the better lower bound
            usage.output, usage.estimated = self.deltas, True
        prices = self.site.upstream.prices
        self.cost = prices.cost(usage) if prices is not None else None
        self.site.count(self.outcome, self.ended - self.started, usage, self.cost)
        if self.span.recording:
            self._end_span(usage)

    def _end_span(self, usage: Usage) -> None:
        span = self.span
        span.set(names.GEN_AI_USAGE_INPUT_TOKENS, usage.input)
        span.set(names.GEN_AI_USAGE_OUTPUT_TOKENS, usage.output)
        span.set(names.GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS, usage.cached_input)
        span.set(names.MOA_OUTCOME, self.outcome)
        if usage.estimated:
            span.set(names.MOA_USAGE_ESTIMATED, True)
        if self.failure is None:
            span.end()
        else:
            span.end(self.outcome, self.failure.reason)

    def _abandon(self) -> None:
        """Give up what is left of the response."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.cancel()

    # -- time -------------------------------------------------------------------------------------------------------

    def on_alarm(self) -> None:
        """Its time is up; or it is just due for another look, because arming anew at every byte would cost."""
        self._alarm = None
        now = monotonic()
        if self.done:
            self._abandon()
        elif now < self._next_check():
            self._arm(now)
        elif now >= self._deadline:
            self._end(Failure("timeout", "timed out"))
        elif self.first_token == 0.0:
            self._end(Failure("timeout", "sent no first token in time"))
        else:
            self._end(Failure("timeout", "stopped sending in the middle"))

    def _arm(self, now: float) -> None:
        due = self._deadline
        if self.streamed:
            due = self._next_check()
            idle = self._patience.idle
            if idle is not None:
                # silence begins to count with the response, or with `resume`: neither arms anew, so look often enough
                due = min(due, now + idle)
        self._alarm = self.site.upstream.alarms.set(due, self)

    def _disarm(self) -> None:
        alarm = self._alarm
        if alarm is not None:
            alarm.discard(self)
            self._alarm = None

    def _next_check(self) -> float:
        limit = self._deadline
        if self.streamed and not self.waiting and not self._paused:
            if self.first_token == 0.0 and self._patience.first_token is not None:
                limit = min(limit, self._sent + self._patience.first_token)
            if self._patience.idle is not None and self._splitter is not None:
                limit = min(limit, self._last_byte + self._patience.idle)
        return limit


def _read_usage(text: bytes) -> Usage | None:
    try:
        return parse_usage(orjson.loads(text))
    except orjson.JSONDecodeError:
        return None


def _words(message: Mapping[str, object]) -> int:
    """A count that cannot exceed the tokens of a message: its words."""
    return sum(
        len(text.split())
        for key in ("content", "reasoning_content", "reasoning")
        if isinstance(text := message.get(key), str)
    )
