"""Spans reach a real OTLP endpoint as a tree; what is not recorded costs nothing and still passes the context on."""

import asyncio
import json
import re
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise

import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1 import trace_pb2
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.sampling import Decision, TraceIdRatioBased

from moa_router.telemetry import tracing
from moa_router.telemetry.tracing import NO_SPAN, NO_TRACE, RecordedSpan, RecordedTrace, Trace, Tracing

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
PARENT_ID = "b7ad6b7169203331"
SAMPLED = f"00-{TRACE_ID}-{PARENT_ID}-01"
UNSAMPLED = f"00-{TRACE_ID}-{PARENT_ID}-00"
FLUSH = 30


class Collector:
    """An OTLP/HTTP endpoint that keeps what it is sent."""

    def __init__(self) -> None:
        self.requests: list[ExportTraceServiceRequest] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.status = 200
        self.held: asyncio.Event | None = None
        self.url = ""

    async def receive(self, request: web.Request) -> web.Response:
        self.paths.append(request.path)
        self.headers.append(dict(request.headers))
        self.requests.append(ExportTraceServiceRequest.FromString(await request.read()))
        if self.held is not None:
            await self.held.wait()
        return web.Response(status=self.status)

    @property
    def spans(self) -> dict[str, trace_pb2.Span]:
        found = [
            span
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]
        assert len({span.name for span in found}) == len(found)
        return {span.name: span for span in found}


@pytest.fixture(autouse=True)
def no_settings_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_SDK_DISABLED"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    collector = Collector()
    app = web.Application()
    app.router.add_post("/{path:.*}", collector.receive)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    collector.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield collector
    finally:
        if collector.held is not None:
            collector.held.set()
        await runner.cleanup()


@pytest.fixture
def dead_end(monkeypatch: pytest.MonkeyPatch) -> Iterator[Tracing]:
    """Records, but nobody listens at its endpoint."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.1")
    tracing = Tracing("http://127.0.0.1:9", sampling_percent=100)
    try:
        yield tracing
    finally:
        assert tracing.shutdown(FLUSH)


@contextmanager
def counting_spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], int]]:
    """Count how many span objects, ours or the SDK's, are made."""
    made = 0

    def count(construct: Callable[..., None]) -> Callable[..., None]:
        def counted(*args: object, **kwargs: object) -> None:
            nonlocal made
            made += 1
            construct(*args, **kwargs)

        return counted

    with monkeypatch.context() as patch:
        for kind in (RecordedSpan, RecordedTrace, ReadableSpan):
            patch.setattr(kind, "__init__", count(kind.__init__))
        yield lambda: made


def use(trace: Trace) -> None:
    """What a request does with its trace."""
    stage = trace.start("moa.stage panel", "internal", {"moa.stage": "panel"})
    call = trace.start("chat model", "client", {}, stage)
    call.event("moa.first_token")
    call.set("moa.outcome", "ok")
    call.end()
    stage.end("timeout", "too late")
    trace.root.end()


def attributes(span: trace_pb2.Span | trace_pb2.Span.Event) -> dict[str, object]:
    found: dict[str, object] = {}
    for pair in span.attributes:
        kind = pair.value.WhichOneof("value")
        assert kind is not None
        value = getattr(pair.value, kind)
        found[pair.key] = [item.string_value for item in value.values] if kind == "array_value" else value
    return found


async def test_a_request_becomes_a_tree_of_spans(collector: Collector) -> None:
    tracing = Tracing(collector.url, version="1.2.3")
    trace = tracing.start_request("POST /v1/chat/completions", None, None, {"http.request.method": "POST"})
    workflow = trace.start("invoke_workflow research", "internal", {"gen_ai.workflow.name": "research"})
    stage = trace.start("moa.stage panel", "internal", {}, workflow)
    call = trace.start(
        "chat qwen", "client", {"gen_ai.request.model": "qwen", "gen_ai.request.temperature": 0.7}, stage
    )
    call.event("moa.first_token", {"after": 1})
    call.set("gen_ai.usage.input_tokens", 12)
    call.set("gen_ai.response.finish_reasons", ["stop"])
    call.set("gen_ai.request.stream", True)
    call.end()
    stage.end("timeout", "the panel took too long")
    workflow.end()
    trace.root.end()
    assert await asyncio.to_thread(tracing.shutdown, FLUSH)

    spans = collector.spans
    names = ["POST /v1/chat/completions", "invoke_workflow research", "moa.stage panel", "chat qwen"]
    assert set(spans) == set(names)
    chain = [spans[name] for name in names]
    assert chain[0].parent_span_id == b""
    for above, below in pairwise(chain):
        assert below.parent_span_id == above.span_id
        assert above.start_time_unix_nano <= below.start_time_unix_nano
        assert below.start_time_unix_nano <= below.end_time_unix_nano <= above.end_time_unix_nano
    assert {span.trace_id.hex() for span in chain} == {trace.trace_id}
    assert len({span.span_id for span in chain}) == len(chain)
    kinds = trace_pb2.Span
    assert [span.kind for span in chain] == [
        kinds.SPAN_KIND_SERVER,
        kinds.SPAN_KIND_INTERNAL,
        kinds.SPAN_KIND_INTERNAL,
        kinds.SPAN_KIND_CLIENT,
    ]
    assert attributes(spans["chat qwen"]) == {
        "gen_ai.request.model": "qwen",
        "gen_ai.request.temperature": 0.7,
        "gen_ai.usage.input_tokens": 12,
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.request.stream": True,
    }
    (event,) = spans["chat qwen"].events
    assert (event.name, attributes(event)) == ("moa.first_token", {"after": 1})
    call_span = spans["chat qwen"]
    assert call_span.start_time_unix_nano <= event.time_unix_nano <= call_span.end_time_unix_nano
    assert spans["chat qwen"].status.code == trace_pb2.Status.STATUS_CODE_UNSET
    assert spans["moa.stage panel"].status.code == trace_pb2.Status.STATUS_CODE_ERROR
    assert spans["moa.stage panel"].status.message == "the panel took too long"
    assert attributes(spans["moa.stage panel"]) == {"error.type": "timeout"}


async def test_endpoint_resource_and_scope(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=blue")
    tracing = Tracing(collector.url + "/base/", version="1.2.3")
    tracing.start_request("request", None, None).root.end()
    assert await asyncio.to_thread(tracing.shutdown, FLUSH)

    assert collector.paths == ["/base/v1/traces"]
    assert collector.headers[0]["Content-Type"] == "application/x-protobuf"
    assert collector.headers[0]["x-tenant"] == "blue"
    (resource,) = collector.requests[0].resource_spans
    found = {pair.key: pair.value.string_value for pair in resource.resource.attributes}
    assert found["service.name"] == "moa-router"
    assert found["service.version"] == "1.2.3"
    assert found["deployment.environment.name"] == "test"
    (scope,) = resource.scope_spans
    assert (scope.scope.name, scope.scope.version) == ("moa_router", "1.2.3")
    assert scope.schema_url == "https://opentelemetry.io/schemas/1.41.1"


async def test_the_environment_names_service_and_endpoint(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "chosen")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    tracing = Tracing()
    assert tracing.enabled
    tracing.start_request("request", None, None).root.end()
    assert await asyncio.to_thread(tracing.shutdown, FLUSH)

    assert collector.paths == ["/v1/traces"]
    found = {pair.key: pair.value.string_value for pair in collector.requests[0].resource_spans[0].resource.attributes}
    assert found["service.name"] == "chosen"


def test_the_environment_turns_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    tracing = Tracing("http://127.0.0.1:9")

    assert not tracing.enabled
    assert tracing.start_request("request", None, None) is NO_TRACE


async def test_a_sampled_caller_is_continued_whatever_the_profile_samples(collector: Collector) -> None:
    tracing = Tracing(collector.url, sampling_percent=0)
    trace = tracing.start_request("request", SAMPLED, "vendor=opaque, other@one=2")
    call = trace.start("chat", "client")
    headers = call.headers
    assert trace.sampled
    assert call.recording
    assert trace.trace_id == TRACE_ID
    call.end()
    trace.root.end()
    assert await asyncio.to_thread(tracing.shutdown, FLUSH)

    spans = collector.spans
    assert spans["request"].trace_id.hex() == TRACE_ID
    assert spans["request"].parent_span_id.hex() == PARENT_ID
    assert spans["request"].trace_state == "vendor=opaque,other@one=2"
    assert spans["chat"].parent_span_id == spans["request"].span_id
    expected = (
        f"traceparent: 00-{TRACE_ID}-{spans['chat'].span_id.hex()}-01\r\ntracestate: vendor=opaque,other@one=2\r\n"
    )
    assert headers == expected.encode()


def test_the_root_s_headers_name_the_root(dead_end: Tracing) -> None:
    trace = dead_end.start_request("request", None, None)
    (found,) = re.findall(rb"\Atraceparent: 00-([0-9a-f]{32})-[0-9a-f]{16}-03\r\n\Z", trace.headers)

    assert found.decode() == trace.trace_id
    assert trace.headers == trace.root.headers
    assert trace.start("chat", "client").headers != trace.headers


@pytest.mark.parametrize("endpoint", [None, "http://127.0.0.1:9"])
@pytest.mark.parametrize("state", [None, "vendor=opaque,other=2"])
def test_an_unsampled_caller_s_headers_are_passed_on_unchanged(
    endpoint: str | None, state: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracing = Tracing(endpoint)
    expected = f"traceparent: {UNSAMPLED}\r\n" + (f"tracestate: {state}\r\n" if state else "")
    with counting_spans(monkeypatch) as made:
        trace = tracing.start_request("request", UNSAMPLED, state, {"a": "b"})
        assert not trace.sampled
        assert trace.trace_id == TRACE_ID
        assert trace.headers == expected.encode()
        assert trace.start("chat", "client").headers == expected.encode()
        use(trace)
        assert made() == 0
    assert tracing.shutdown(FLUSH)


def test_without_a_receiver_a_sampled_caller_s_headers_are_passed_on_unchanged() -> None:
    trace = Tracing().start_request("request", SAMPLED, None)

    assert not trace.sampled
    assert trace.headers == f"traceparent: {SAMPLED}\r\n".encode()


def test_without_a_receiver_and_a_caller_nothing_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    tracing = Tracing()
    with counting_spans(monkeypatch) as made:
        trace = tracing.start_request("request", None, None)
        use(trace)
        assert made() == 0
    assert trace is NO_TRACE
    assert trace.start("chat", "client") is NO_SPAN
    assert (trace.headers, trace.trace_id, NO_SPAN.recording) == (b"", None, False)
    assert tracing.shutdown(0)


def test_a_request_not_chosen_tells_the_upstreams_so(monkeypatch: pytest.MonkeyPatch) -> None:
    tracing = Tracing("http://127.0.0.1:9", sampling_percent=0)
    with counting_spans(monkeypatch) as made:
        trace = tracing.start_request("request", None, None)
        use(trace)
        assert made() == 0
    assert not trace.sampled
    assert re.fullmatch(rf"traceparent: 00-{trace.trace_id}-[0-9a-f]{{16}}-02\r\n", trace.headers.decode())
    assert tracing.start_request("request", None, None).trace_id != trace.trace_id
    assert tracing.shutdown(FLUSH)


def test_the_counter_of_spans_counts(dead_end: Tracing, monkeypatch: pytest.MonkeyPatch) -> None:
    with counting_spans(monkeypatch) as made:
        use(dead_end.start_request("request", None, None))
        assert made() == 7  # a trace, three spans, and the three that the SDK exports


def test_the_share_recorded_is_decided_on_the_trace_id_as_the_sdk_does() -> None:
    tracing = Tracing("http://127.0.0.1:9", sampling_percent=30)
    sampler = TraceIdRatioBased(0.3)
    traces = [tracing.start_request("request", None, None) for _ in range(2000)]
    tracing.shutdown(0)

    for trace in traces:
        assert trace.trace_id is not None
        decision = sampler.should_sample(None, int(trace.trace_id, 16), "request").decision
        assert trace.sampled == (decision is Decision.RECORD_AND_SAMPLE)
    # The standard deviation of the share is 0.01.
    assert 0.2 < sum(trace.sampled for trace in traces) / len(traces) < 0.4


MALFORMED = [
    "",
    "nonsense",
    f"00-{TRACE_ID}-{PARENT_ID}",
    f"00-{TRACE_ID}-{PARENT_ID}-01-more",
    f"00-{TRACE_ID}-{PARENT_ID}-01-",
    f"00-{TRACE_ID}-{PARENT_ID}-0",
    f"00-{TRACE_ID}-{PARENT_ID}-0g",
    f"ff-{TRACE_ID}-{PARENT_ID}-01",
    f"00-{'0' * 32}-{PARENT_ID}-01",
    f"00-{TRACE_ID}-{'0' * 16}-01",
    f"00-{TRACE_ID.upper()}-{PARENT_ID}-01",
    f" 00-{TRACE_ID}-{PARENT_ID}-01",
    f"00-{TRACE_ID}-{PARENT_ID}-01\n",
    f"cc-{TRACE_ID}-{PARENT_ID}-01-a\r\nx-injected: 1",
]


@pytest.mark.parametrize("traceparent", MALFORMED)
def test_a_malformed_traceparent_is_ignored_and_its_tracestate_too(traceparent: str, dead_end: Tracing) -> None:
    assert Tracing().start_request("request", traceparent, "vendor=opaque") is NO_TRACE

    trace = dead_end.start_request("request", traceparent, "vendor=opaque")
    assert trace.sampled
    assert trace.trace_id != TRACE_ID
    assert b"tracestate" not in trace.headers


@pytest.mark.parametrize(
    "tracestate",
    [
        "",
        "novalue",
        "a=b\r\nx-injected: 1",
        "A=b",
        "a=b,,",
        "a=é",
        ",".join(f"k{n}=v" for n in range(33)),
        "a=" + "v" * 2000,
        ",".join(f"k{n}={'v' * 200}" for n in range(10)),
    ],
)
def test_a_malformed_tracestate_is_dropped_alone(tracestate: str) -> None:
    trace = Tracing().start_request("request", SAMPLED, tracestate)

    assert trace.headers == f"traceparent: {SAMPLED}\r\n".encode()


def test_a_later_version_s_traceparent_is_understood_and_passed_on_unchanged(dead_end: Tracing) -> None:
    later = f"cc-{TRACE_ID}-{PARENT_ID}-01-what-the-future-holds"

    assert Tracing().start_request("request", later, None).headers == f"traceparent: {later}\r\n".encode()
    continued = dead_end.start_request("request", later, None)
    assert continued.trace_id == TRACE_ID
    assert continued.headers.startswith(f"traceparent: 00-{TRACE_ID}-".encode())


@settings(deadline=None)
@given(
    traceparent=st.text() | st.from_regex(tracing._TRACEPARENT),
    tracestate=st.text() | st.from_regex(tracing._TRACESTATE),
)
def test_no_header_of_a_client_injects_a_line(traceparent: str, tracestate: str) -> None:
    lines = Tracing().start_request("request", traceparent, tracestate).headers.split(b"\r\n")

    assert [line.partition(b": ")[0] for line in lines] in (
        [b""],
        [b"traceparent", b""],
        [b"traceparent", b"tracestate", b""],
    )
    assert not any(line and not line.decode("ascii").isprintable() for line in lines)


def test_what_comes_after_the_end_is_ignored(dead_end: Tracing, monkeypatch: pytest.MonkeyPatch) -> None:
    exported: list[ReadableSpan] = []
    monkeypatch.setattr(RecordedTrace, "export", lambda self, span: exported.append(span))
    span = dead_end.start_request("request", None, None).start("chat", "client", {"a": 1})
    span.end()
    span.set("late", 1)
    span.event("late")
    span.end("timeout")

    (only,) = exported
    assert not span.recording
    assert dict(only.attributes or {}) == {"a": 1}
    assert only.events == ()
    assert only.status.is_unset


def test_constant_attributes_may_be_shared_between_spans(dead_end: Tracing) -> None:
    constant = {"gen_ai.request.model": "qwen"}
    dead_end.start_request("request", None, None, constant).root.set("more", 1)

    assert constant == {"gen_ai.request.model": "qwen"}


def test_a_span_of_another_kind_as_parent_means_the_root(dead_end: Tracing, monkeypatch: pytest.MonkeyPatch) -> None:
    exported: list[ReadableSpan] = []
    monkeypatch.setattr(RecordedTrace, "export", lambda self, span: exported.append(span))
    trace = dead_end.start_request("request", None, None)
    trace.start("chat", "client", {}, NO_SPAN).end()
    trace.root.end()

    call, root = exported
    assert call.parent == root.context


async def test_shutdown_gives_up_in_time_when_the_receiver_hangs(collector: Collector) -> None:
    collector.held = asyncio.Event()
    tracing = Tracing(collector.url)
    tracing.start_request("request", None, None).root.end()

    assert not await asyncio.to_thread(tracing.shutdown, 0.2)
    collector.held.set()


async def test_a_failing_receiver_disturbs_nobody(collector: Collector, caplog: pytest.LogCaptureFixture) -> None:
    collector.status = 400
    tracing = Tracing(collector.url)
    use(tracing.start_request("request", None, None))

    assert await asyncio.to_thread(tracing.shutdown, FLUSH)
    assert "Failed to export" in caplog.text


def test_the_queue_is_bounded_by_the_spans_of_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[dict[str, object]] = []

    class Processor:
        def __init__(self, exporter: object, **kwargs: object) -> None:
            sizes.append(kwargs)

    monkeypatch.setattr(tracing, "BatchSpanProcessor", Processor)
    Tracing("http://127.0.0.1:9", spans_per_request=8)
    Tracing("http://127.0.0.1:9", spans_per_request=500)
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "600")
    Tracing("http://127.0.0.1:9")

    assert [size["max_queue_size"] for size in sizes] == [8192, 32768, None]


def test_no_thread_is_left_behind() -> None:
    before = set(threading.enumerate())
    assert Tracing("http://127.0.0.1:9").shutdown(FLUSH)

    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("endpoint", ["collector:4318", "", "ftp://collector", "http://"])
def test_an_endpoint_that_is_no_url_is_refused(endpoint: str) -> None:
    with pytest.raises(ValueError, match="write a base such as http://collector:4318"):
        Tracing(endpoint)


@pytest.mark.parametrize("percent", [-0.1, 100.1, float("nan")])
def test_a_percentage_out_of_range_is_refused(percent: float) -> None:
    with pytest.raises(ValueError, match="sampling_percent must be between 0 and 100"):
        Tracing("http://127.0.0.1:9", sampling_percent=percent)


def test_a_process_that_forgets_to_shut_down_still_ends() -> None:
    code = "from moa_router.telemetry.tracing import Tracing; Tracing('http://127.0.0.1:9'); print('{\"done\": 1}')"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)

    assert json.loads(result.stdout) == {"done": 1}
