"""Spans of a request, W3C trace context in and out, and their export over OTLP.

The sampling decision is taken once, when a request comes in, before anything is built: a request that is not recorded
gets null objects whose methods do nothing, and at most one small object that carries the client's trace context on to
the upstreams. Decisions are those of OpenTelemetry's ``ParentBased(TraceIdRatioBased)``: a caller's decision stands;
a request without trace context is recorded with the profile's probability. If it is not, the upstreams are told so,
lest each of them starts a trace of its own.

A recorded span is ours too, a few slots filled on the event loop, and becomes the SDK's read-only span when it ends.
Resource, batching, encoding, retries and transport are the SDK's, on the SDK's thread, with its ``OTEL_*`` environment
variables. The SDK's own tracer takes some five times as long per span: it locks, copies and checks at every step what
here one thread writes and a type checker has read.

Trace context: W3C Trace Context (https://www.w3.org/TR/trace-context/). Names: `moa_router.telemetry.names`.
"""

import os
import re
import threading
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, Literal, NamedTuple
from urllib.parse import urlsplit

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.environment_variables import (
    OTEL_BSP_MAX_QUEUE_SIZE,
    OTEL_BSP_SCHEDULE_DELAY,
    OTEL_EXPORTER_OTLP_ENDPOINT,
    OTEL_EXPORTER_OTLP_TRACES_ENDPOINT,
    OTEL_SDK_DISABLED,
)
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import TraceIdRatioBased
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from moa_router.telemetry import names

Kind = Literal["server", "client", "internal"]
"""A span's relation to its neighbours: we answer a caller, we call somebody, or neither."""

AttributeValue = str | bool | int | float | Sequence[str]
Attributes = Mapping[str, AttributeValue]

_NO_ATTRIBUTES: Final[Attributes] = MappingProxyType({})

_KINDS: Final[dict[Kind, SpanKind]] = {
    "server": SpanKind.SERVER,
    "client": SpanKind.CLIENT,
    "internal": SpanKind.INTERNAL,
}

_SAMPLED = TraceFlags.SAMPLED
_RANDOM = TraceFlags.RANDOM_TRACE_ID

_TRACEPARENT = re.compile(
    r"(?P<version>(?!ff)[0-9a-f]{2})-(?P<trace>(?!0{32})[0-9a-f]{32})-(?P<span>(?!0{16})[0-9a-f]{16})"
    r"-(?P<flags>[0-9a-f]{2})(?P<rest>-[\x20-\x7e]*)?"
)

_STATE_KEY = r"(?:[a-z][a-z0-9_\-*/]{0,255}|[a-z0-9][a-z0-9_\-*/]{0,240}@[a-z][a-z0-9_\-*/]{0,13})"
_STATE_VALUE = r"[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
_TRACESTATE = re.compile(rf"{_STATE_KEY}={_STATE_VALUE}(?:[ \t]*,[ \t]*{_STATE_KEY}={_STATE_VALUE}){{0,31}}")
_TRACESTATE_LIMIT = 1024

_REQUESTS_QUEUED = 1024
_QUEUE_LIMIT = 32768
_BATCH_DELAY_MS = 1000

_IDS = RandomIdGenerator()
_NO_STATE = TraceState()
_UNSET = Status(StatusCode.UNSET)


class Span:
    """A span that records nothing: what callers hold while a request is not recorded.

    `RecordedSpan` is the one that does. Both are used alike; nobody has to ask which it is, except to avoid computing
    attributes in vain (`recording`).
    """

    __slots__ = ("_headers",)

    def __init__(self, headers: bytes = b"") -> None:
        self._headers = headers

    @property
    def recording(self) -> bool:
        """Whether attributes and events go anywhere."""
        return False

    @property
    def headers(self) -> bytes:
        """Header lines, each with its CRLF, that carry the trace on to an upstream; empty where there is none."""
        return self._headers

    def set(self, key: str, value: AttributeValue) -> None:
        """Set an attribute."""

    def event(self, name: str, attributes: Attributes = _NO_ATTRIBUTES) -> None:
        """Record that something happened now."""

    def end(self, error: str | None = None, description: str | None = None) -> None:
        """End the span now; what is set or ended later is ignored.

        Args:
            error: What class of error it ended with, of low cardinality (``timeout``, ``502``): becomes ``error.type``
                and status ``ERROR``. Without one the status stays unset, as the conventions ask.
            description: A sentence of ours about the error, never an upstream's or a client's text.
        """


class Trace:
    """The spans of one request; this one records none and only passes the caller's trace context on.

    Attributes:
        root: The span around the whole request.
        trace_id: 32 hex digits for log records; None while the request belongs to no trace.
    """

    __slots__ = ("root", "trace_id")

    def __init__(self, root: Span, trace_id: str | None) -> None:
        self.root = root
        self.trace_id = trace_id

    @property
    def sampled(self) -> bool:
        """Whether spans are recorded."""
        return False

    @property
    def headers(self) -> bytes:
        """`Span.headers` of the root."""
        return self.root.headers

    def start(
        self,
        name: str,
        kind: Kind = "internal",
        attributes: Attributes = _NO_ATTRIBUTES,
        parent: Span | None = None,
    ) -> Span:
        """Start a span now.

        Args:
            name: From `moa_router.telemetry.names`.
            kind: Its relation to its neighbours.
            attributes: Known now; copied.
            parent: The span it is part of; the root where there is none.
        """
        del name, kind, attributes, parent
        return self.root


NO_SPAN: Final = Span()
"""The span of a request that belongs to no trace."""

NO_TRACE: Final = Trace(NO_SPAN, None)
"""The trace of a request that belongs to none."""


class Tracing:
    """Traces of one profile, with an exporter of its own.

    Args:
        endpoint: Base URL of an OTLP/HTTP receiver, e.g. ``http://collector:4318``; ``/v1/traces`` is appended. Without
            one ``OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`` and ``OTEL_EXPORTER_OTLP_ENDPOINT`` decide, and without those
            nothing is recorded. ``OTEL_SDK_DISABLED=true`` turns recording off in any case.
        sampling_percent: Share of requests to record where the caller has not decided, 0 to 100.
        spans_per_request: How many spans a request makes (its panel calls and about five); sizes the queue.
        version: The router's version, for the resource and the instrumentation scope.

    Raises:
        ValueError: The endpoint is no http or https URL, or the percentage is out of range.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        *,
        sampling_percent: float = 100.0,
        spans_per_request: int = 8,
        version: str = "",
    ) -> None:
        if not 0 <= sampling_percent <= 100:  # noqa: PLR2004 - a percentage
            raise ValueError(f"sampling_percent must be between 0 and 100, not {sampling_percent}")
        self._bound = TraceIdRatioBased.get_bound_for_rate(sampling_percent / 100)
        self._recorder = _Recorder(_traces_url(endpoint), spans_per_request, version) if _is_enabled(endpoint) else None

    @property
    def enabled(self) -> bool:
        """Whether there is somewhere to send spans to."""
        return self._recorder is not None

    def start_request(
        self,
        name: str,
        traceparent: str | None,
        tracestate: str | None,
        attributes: Attributes = _NO_ATTRIBUTES,
    ) -> Trace:
        """Begin or continue a trace with the span around a client's request.

        Args:
            name: The server span's name.
            traceparent: The client's header. A malformed one is ignored, and its tracestate with it.
            tracestate: The client's header, several of them joined by commas; ignored if malformed.
            attributes: Known now; copied.
        """
        caller = _parse(traceparent, tracestate) if traceparent else None
        if caller is None:
            return self._start_root(name, attributes)
        if self._recorder is None or not caller.flags & _SAMPLED:
            return Trace(Span(_header_lines(caller.traceparent, caller.tracestate)), f"{caller.trace_id:032x}")
        flags = _SAMPLED | caller.flags & _RANDOM
        return RecordedTrace(self._recorder, name, attributes, trace_id=caller.trace_id, flags=flags, caller=caller)

    def shutdown(self, timeout: float) -> bool:
        """Send what is queued and stop, within ``timeout`` seconds.

        Blocks: call it through `asyncio.to_thread`. Spans that end later are dropped.

        Returns:
            Whether it was done in time; otherwise what is left is lost.
        """
        return self._recorder is None or self._recorder.shutdown(timeout)

    def _start_root(self, name: str, attributes: Attributes) -> Trace:
        if self._recorder is None:
            return NO_TRACE
        trace_id = _IDS.generate_trace_id()
        if trace_id & TraceIdRatioBased.TRACE_ID_LIMIT < self._bound:
            return RecordedTrace(self._recorder, name, attributes, trace_id=trace_id, flags=_SAMPLED | _RANDOM)
        traceparent = _traceparent(trace_id, _IDS.generate_span_id(), _RANDOM)
        return Trace(Span(_header_lines(traceparent, "")), f"{trace_id:032x}")


class RecordedTrace(Trace):
    """The spans of a request that is recorded; made by `Tracing.start_request`."""

    __slots__ = ("_clock", "_flags", "_id", "_recorder", "_server", "_state")

    def __init__(
        self,
        recorder: "_Recorder",
        name: str,
        attributes: Attributes,
        *,
        trace_id: int,
        flags: int,
        caller: "_Caller | None" = None,
    ) -> None:
        self._recorder = recorder
        self._id = trace_id
        self._flags = TraceFlags(flags)
        self._state = TraceState.from_header([caller.tracestate]) if caller and caller.tracestate else _NO_STATE
        # Durations come from the monotonic clock: a step of the wall clock moves a trace, but does not bend it.
        self._clock = time.time_ns() - time.monotonic_ns()
        parent = SpanContext(trace_id, caller.span_id, True, self._flags, self._state) if caller else None
        self._server = RecordedSpan(self, name, "server", attributes, parent)
        super().__init__(self._server, f"{trace_id:032x}")

    @property
    def sampled(self) -> bool:
        """Whether spans are recorded."""
        return True

    def start(
        self,
        name: str,
        kind: Kind = "internal",
        attributes: Attributes = _NO_ATTRIBUTES,
        parent: Span | None = None,
    ) -> Span:
        """Start a span now; see `Trace.start`."""
        above = parent if isinstance(parent, RecordedSpan) else self._server
        return RecordedSpan(self, name, kind, attributes, above.context)

    def now(self) -> int:
        """Nanoseconds since the epoch, never going back within this trace."""
        return self._clock + time.monotonic_ns()

    def new_context(self) -> SpanContext:
        """Identity for one more span."""
        return SpanContext(self._id, _IDS.generate_span_id(), False, self._flags, self._state)

    def export(self, span: ReadableSpan) -> None:
        """Queue an ended span for export; never waits."""
        self._recorder.export(span)

    @property
    def resource(self) -> Resource:
        """Who records."""
        return self._recorder.resource

    @property
    def scope(self) -> InstrumentationScope:
        """What records."""
        return self._recorder.scope


class RecordedSpan(Span):
    """A span of a recorded request; made by `RecordedTrace`.

    Attributes:
        context: Its identity.
    """

    __slots__ = ("_attributes", "_ended", "_events", "_kind", "_name", "_parent", "_start", "_trace", "context")

    def __init__(
        self, trace: RecordedTrace, name: str, kind: Kind, attributes: Attributes, parent: SpanContext | None
    ) -> None:
        self._trace = trace
        self._name = name
        self._kind = kind
        self._attributes = dict(attributes)
        self._parent = parent
        self._events: list[Event] = []
        self._ended = False
        self.context = trace.new_context()
        self._start = trace.now()

    @property
    def recording(self) -> bool:
        """Whether attributes and events go anywhere: until the end."""
        return not self._ended

    @property
    def headers(self) -> bytes:
        """Header lines, each with its CRLF, that make an upstream's spans children of this one."""
        context = self.context
        traceparent = _traceparent(context.trace_id, context.span_id, context.trace_flags)
        return _header_lines(traceparent, context.trace_state.to_header() if context.trace_state else "")

    def set(self, key: str, value: AttributeValue) -> None:
        """Set an attribute."""
        if not self._ended:
            self._attributes[key] = value

    def event(self, name: str, attributes: Attributes = _NO_ATTRIBUTES) -> None:
        """Record that something happened now."""
        if not self._ended:
            self._events.append(Event(name, attributes, self._trace.now()))

    def end(self, error: str | None = None, description: str | None = None) -> None:
        """End the span now; see `Span.end`."""
        if self._ended:
            return
        self._ended = True
        if error is not None:
            self._attributes[names.ERROR_TYPE] = error
        trace = self._trace
        trace.export(
            ReadableSpan(
                self._name,
                self.context,
                self._parent,
                trace.resource,
                self._attributes,
                self._events,
                kind=_KINDS[self._kind],
                status=_UNSET if error is None else Status(StatusCode.ERROR, description),
                start_time=self._start,
                end_time=trace.now(),
                instrumentation_scope=trace.scope,
            )
        )


class _Recorder:
    """Where a profile's ended spans go: the SDK's batch processor and OTLP exporter."""

    def __init__(self, url: str | None, spans_per_request: int, version: str) -> None:
        defaults = {"service.name": names.SERVICE_NAME, "service.version": version}
        chosen = OTELResourceDetector().detect().attributes
        self.resource = Resource.create({key: value for key, value in defaults.items() if value and key not in chosen})
        self.scope = InstrumentationScope(names.INSTRUMENTATION_SCOPE, version, names.SCHEMA_URL)
        queued = min(_REQUESTS_QUEUED * spans_per_request, _QUEUE_LIMIT)
        self._processor = BatchSpanProcessor(
            OTLPSpanExporter(url),
            max_queue_size=None if OTEL_BSP_MAX_QUEUE_SIZE in os.environ else queued,
            schedule_delay_millis=None if OTEL_BSP_SCHEDULE_DELAY in os.environ else _BATCH_DELAY_MS,
        )

    def export(self, span: ReadableSpan) -> None:
        self._processor.on_end(span)

    def shutdown(self, timeout: float) -> bool:
        # The processor's own shutdown takes as long as its exporter does, up to 30 s.
        flush = threading.Thread(target=self._processor.shutdown, name="moa-tracing-shutdown", daemon=True)
        flush.start()
        flush.join(timeout)
        return not flush.is_alive()


class _Caller(NamedTuple):
    """A caller's trace context: parsed, and the headers as they came."""

    trace_id: int
    span_id: int
    flags: int
    traceparent: str
    tracestate: str


def _parse(traceparent: str, tracestate: str | None) -> _Caller | None:
    match = _TRACEPARENT.fullmatch(traceparent)
    if match is None or (match["version"] == "00" and match["rest"] is not None):
        return None
    state = tracestate or ""
    if len(state) > _TRACESTATE_LIMIT or not _TRACESTATE.fullmatch(state):
        state = ""
    return _Caller(int(match["trace"], 16), int(match["span"], 16), int(match["flags"], 16), traceparent, state)


def _traceparent(trace_id: int, span_id: int, flags: int) -> str:
    return f"00-{trace_id:032x}-{span_id:016x}-{flags:02x}"


def _header_lines(traceparent: str, tracestate: str) -> bytes:
    state = f"tracestate: {tracestate}\r\n" if tracestate else ""
    return f"traceparent: {traceparent}\r\n{state}".encode("ascii")


def _is_enabled(endpoint: str | None) -> bool:
    if os.environ.get(OTEL_SDK_DISABLED, "").strip().lower() == "true":
        return False
    chosen = (OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, OTEL_EXPORTER_OTLP_ENDPOINT)
    return endpoint is not None or any(os.environ.get(name) for name in chosen)


def _traces_url(endpoint: str | None) -> str | None:
    if endpoint is None:
        return None
    parts = urlsplit(endpoint)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError(f"OTLP endpoint {endpoint!r} is no URL; write a base such as http://collector:4318")
    return endpoint.rstrip("/") + "/v1/traces"
