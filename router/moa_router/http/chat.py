"""`POST /v1/chat/completions`."""

from __future__ import annotations

import asyncio
import logging
import time
from time import monotonic
from typing import TYPE_CHECKING, cast

import orjson

from moa_router.fusion import engine
from moa_router.fusion.admission import InUse
from moa_router.fusion.chunks import ChunkWriter
from moa_router.fusion.errors import APIError, bad_request, model_not_found
from moa_router.fusion.report import headers as report_headers
from moa_router.fusion.report import waiting_seconds
from moa_router.fusion.request import parse_chat
from moa_router.fusion.run import Run
from moa_router.fusion.stages.final import StreamBrokenError
from moa_router.http.access import FACTS
from moa_router.http.auth import authenticate
from moa_router.http.body import read_body
from moa_router.http.errors import error_body, error_headers, internal_error, outcome_of
from moa_router.http.ids import random_id, request_id
from moa_router.http.wire import BytesResponse, EventStream, StreamedResponse, encode_headers
from moa_router.telemetry import names
from moa_router.telemetry.tracing import NO_TRACE

if TYPE_CHECKING:
    from aiohttp import web

    from moa_router.fusion.plan import Plan
    from moa_router.fusion.request import ChatRequest
    from moa_router.profiles import KeyRing, Registry, Target
    from moa_router.telemetry.metrics import Metrics
    from moa_router.telemetry.names import CancelReason, RequestOutcome
    from moa_router.telemetry.names import Mode as ServedMode
    from moa_router.telemetry.tracing import Trace

logger = logging.getLogger(__name__)

ROUTE = "/v1/chat/completions"
#: Seconds a request may take beyond its deadline, to end in good order.
OVERTIME = 5.0


class Exchange:
    """What is known of one request while it is served, for its end: whoever serves it fills this in."""

    __slots__ = ("cut", "mode", "outcome", "profile", "request_id", "run", "started", "stream", "trace")

    def __init__(self, request_id: str, started: float) -> None:
        self.request_id = request_id
        self.started = started
        self.profile: str = names.UNRESOLVED
        self.mode: str = names.UNRESOLVED
        self.outcome: RequestOutcome = "ok"
        self.cut = False
        self.run: Run | None = None
        self.stream: EventStream | None = None
        self.trace: Trace = NO_TRACE


class ChatCompletions:
    """Serves chat completions of every profile.

    Args:
        registry: the profiles.
        metrics: where requests are counted.
    """

    def __init__(self, registry: Registry, metrics: Metrics) -> None:
        self._registry = registry
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._running: dict[Exchange, asyncio.Task[object] | None] = {}
        self.draining = False
        self.in_use = InUse()

    def cut(self) -> None:
        """End every request under way because the process must end: clients are told, upstream calls cancelled."""
        for exchange, task in self._running.items():
            if task is None:
                continue
            exchange.cut = True
            if exchange.run is not None:
                exchange.run.close("shutdown")
            task.cancel()

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Serve one request; every outcome is a response, but for a client that has gone."""
        exchange = Exchange(request_id(request.headers), monotonic())
        task = self._running[exchange] = asyncio.current_task()
        request[FACTS] = lambda: _log_facts(exchange)
        with self.in_use:
            try:
                return await self._serve(request, exchange)
            except APIError as error:
                return self._refuse(request, exchange, error)
            except StreamBrokenError as broken:
                return self._refuse(request, exchange, broken.error)
            except asyncio.CancelledError:
                if task is None or not exchange.cut:
                    exchange.outcome = "cancelled"
                    raise
                task.uncancel()
                refusal = self._refuse(request, exchange, _shutting_down())
                exchange.outcome = "cancelled"
                return refusal
            except Exception:
                logger.exception("request failed", extra=_log_facts(exchange))
                return self._refuse(request, exchange, internal_error())
            finally:
                del self._running[exchange]
                self._finish(exchange)

    async def _serve(self, request: web.BaseRequest, exchange: Exchange) -> web.StreamResponse:
        registry = self._registry
        body = await read_body(request, registry.max_body_bytes)
        chat = parse_chat(body, registry.max_json_depth)
        target = self._find(request, chat)
        plan = target.served.plan
        exchange.profile = plan.name
        authenticate(request.headers, target.served.keys)
        if len(body) > plan.limits.max_body_bytes:
            raise APIError(413, f"The body is larger than {plan.limits.max_body_bytes} bytes.", code="body_too_large")
        mode = _mode(request, target)
        exchange.mode = mode
        timeout = _timeout(request, plan)
        exchange.trace = self._start_trace(request, exchange, plan)
        await plan.admission.enter(timeout)
        reason: CancelReason = "failed"
        try:
            with plan.in_use:
                return await self._run(request, exchange, chat, target, mode, timeout)
        except asyncio.CancelledError:
            reason = "client_gone"
            raise
        finally:
            if exchange.run is not None:
                exchange.run.close(reason)
            plan.admission.leave()

    async def _run(
        self,
        request: web.BaseRequest,
        exchange: Exchange,
        chat: ChatRequest,
        target: Target,
        mode: ServedMode,
        timeout: float,
    ) -> web.StreamResponse:
        plan = target.served.plan
        run = exchange.run = Run(
            plan,
            chat,
            mode,
            answer_id=f"chatcmpl-{random_id()}",
            created=int(time.time()),
            headers=b"x-request-id: %b\r\n" % exchange.request_id.encode(),
            deadline=exchange.started + timeout,
            trace=exchange.trace,
            started=exchange.started,
        )
        if target.upstream is None and mode != "single":
            run.strategy = {"first": "First", "synthesize": "Synthesize"}.get(mode, plan.strategy)
            engine.check(run)
        chunks = self._open_stream(request, exchange, run) if chat.stream else None
        if exchange.trace.sampled:
            run.workflow = exchange.trace.start(
                names.workflow_span(plan.name),
                "internal",
                {names.GEN_AI_OPERATION_NAME: "invoke_workflow", names.GEN_AI_WORKFLOW_NAME: plan.name},
            )
        # every call has its deadline; this one is for defects of ours, which must not make anybody wait for ever
        async with asyncio.timeout_at(self._loop.time() + timeout + OVERTIME):
            answer = await self._answer(run, target, mode, chunks)
        if run.degraded:
            exchange.outcome = "degraded"
        if answer is None:
            return StreamedResponse(cast("EventStream", exchange.stream))
        headers = {"x-request-id": exchange.request_id, **report_headers(run)}
        return BytesResponse(200, orjson.dumps(answer), encode_headers(headers), keep_alive=self._keep_alive(request))

    async def _answer(
        self, run: Run, target: Target, mode: ServedMode, chunks: ChunkWriter | None
    ) -> dict[str, object] | None:
        plan = run.plan
        if target.upstream is not None:
            return await engine.relay(run, target.upstream, plan.single_patience, chunks)
        if mode == "single":
            return await engine.relay(run, plan.single, plan.single_patience, chunks)
        return await engine.fuse(run, chunks)

    def _open_stream(self, request: web.BaseRequest, exchange: Exchange, run: Run) -> ChunkWriter:
        """Make the way out for a streamed answer.

        A fusion's headers leave at once: its client shall know that somebody works. Where one upstream is relayed they
        wait for it, so that its refusal still is an HTTP status.
        """
        headers = encode_headers({"x-request-id": exchange.request_id, "x-moa-mode": run.mode})
        stream = exchange.stream = EventStream(
            request, headers, heartbeat=run.plan.heartbeat, keep_alive=self._keep_alive(request)
        )
        if run.mode not in {"single", "passthrough"}:
            stream.open()
        return ChunkWriter(stream, run.answer_id, run.created, run.request.model)

    def _find(self, request: web.BaseRequest, chat: ChatRequest) -> Target:
        target = self._registry.find(chat.model)
        if target is not None:
            return target
        rings = [served.keys for served in self._registry.served]
        if rings and all(ring is not None for ring in rings):
            # who has no key at all does not learn which names there are
            _authenticate_any(request, [ring for ring in rings if ring is not None])
        raise model_not_found(chat.model)

    def _refuse(self, request: web.BaseRequest, exchange: Exchange, error: APIError) -> web.StreamResponse:
        """Tell the client of an error: as a response, or as the end of a stream that has begun."""
        exchange.outcome = outcome_of(error)
        stream = exchange.stream
        if stream is not None and stream.opened:
            stream.write(b"data: " + error_body(error) + b"\n\n")
            return StreamedResponse(stream)
        if stream is not None:
            stream.close()
        headers = {"x-request-id": exchange.request_id, **error_headers(error)}
        if exchange.run is not None:
            headers |= report_headers(exchange.run)
        whole = error.status not in {408, 413}
        return BytesResponse(
            error.status, error_body(error), encode_headers(headers), keep_alive=whole and self._keep_alive(request)
        )

    def _keep_alive(self, request: web.BaseRequest) -> bool:
        return request.keep_alive and not self.draining

    def _start_trace(self, request: web.BaseRequest, exchange: Exchange, plan: Plan) -> Trace:
        if not plan.tracing.enabled and "traceparent" not in request.headers:
            return NO_TRACE
        return plan.tracing.start_request(
            names.server_span("POST", ROUTE),
            request.headers.get("traceparent"),
            request.headers.get("tracestate"),
            {
                names.HTTP_REQUEST_METHOD: "POST",
                names.HTTP_ROUTE: ROUTE,
                names.MOA_PROFILE: plan.name,
                names.MOA_MODE: exchange.mode,
                names.MOA_REQUEST_ID: exchange.request_id,
            },
        )

    def _finish(self, exchange: Exchange) -> None:
        """Count a request that is over."""
        if exchange.stream is not None:
            exchange.stream.close()
        metrics, run = self._metrics, exchange.run
        metrics.requests.labels(exchange.profile, exchange.mode, exchange.outcome).inc()
        if run is None:
            return
        seconds = monotonic() - exchange.started
        labels = exchange.profile, exchange.mode
        metrics.request_duration.labels(*labels).observe(seconds)
        metrics.router_overhead.labels(*labels).observe(max(0.0, seconds - waiting_seconds(run.calls)))
        if run.first_token:
            metrics.time_to_first_token.labels(*labels).observe(run.first_token - exchange.started)
        if exchange.trace.sampled:
            _end_trace(exchange, run)


def _end_trace(exchange: Exchange, run: Run) -> None:
    failed = exchange.outcome not in {"ok", "degraded"}
    run.workflow.set(names.MOA_CALLS, len(run.calls))
    run.workflow.set(names.MOA_OUTCOME, exchange.outcome)
    if run.degraded:
        run.workflow.set(names.MOA_DEGRADED, list(run.degraded))
    for span in (run.workflow, exchange.trace.root):
        span.end(exchange.outcome if failed else None)


def _authenticate_any(request: web.BaseRequest, rings: list[KeyRing]) -> None:
    """Accept a key of any profile; otherwise refuse in the words of the first."""
    for ring in rings[1:]:
        try:
            authenticate(request.headers, ring)
        except APIError:
            continue
        return
    authenticate(request.headers, rings[0])


def _mode(request: web.BaseRequest, target: Target) -> ServedMode:
    """Which mode is wanted: suffix of the model name, over header, over query, over the profile's default.

    Raises:
        APIError: 400 for a mode that does not exist.
    """
    if target.upstream is not None:
        return "passthrough"
    if target.mode is not None:
        return target.mode
    plan = target.served.plan
    wanted = request.headers.get("x-moa-mode")
    if wanted is None and request.query_string:
        wanted = request.query.get("mode")
    if wanted is None:
        return plan.default_mode
    for mode in plan.modes:
        if mode == wanted:
            return mode
    raise bad_request(
        f"There is no mode {wanted[:64]!r}; choose one of {', '.join(plan.modes)}.", "mode", "unknown_mode"
    )


def _timeout(request: web.BaseRequest, plan: Plan) -> float:
    """Seconds this request may take: the profile's limit, or less if the client says so.

    Raises:
        APIError: 400 when the client says no number.
    """
    value = request.headers.get("x-request-timeout")
    if value is None:
        return plan.request_timeout
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise bad_request("'x-request-timeout' must be a number of seconds above 0.", "x-request-timeout")
    return min(seconds, plan.request_timeout)


def _shutting_down() -> APIError:
    return APIError(503, "The router is shutting down; ask again.", code="shutting_down", retry_after=1.0)


def _log_facts(exchange: Exchange) -> dict[str, object]:
    return {
        "request_id": exchange.request_id,
        "trace_id": exchange.trace.trace_id,
        "profile": exchange.profile,
        "mode": exchange.mode,
        "outcome": exchange.outcome,
    }
