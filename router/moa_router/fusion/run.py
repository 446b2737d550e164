"""One request on its way: what every stage needs to know, and every call made for it."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING

from moa_router.telemetry import names
from moa_router.upstream.client import Call

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moa_router.fusion.plan import Plan
    from moa_router.fusion.request import ChatRequest
    from moa_router.telemetry.names import CancelReason, DegradedReason, Mode, Stage
    from moa_router.telemetry.tracing import Span, Trace
    from moa_router.upstream.client import Patience, Receiver, Site


class PanelCount:
    """How a panel went, for headers and the `moa` object."""

    __slots__ = ("answered", "asked", "quorum")

    def __init__(self) -> None:
        self.asked = 0
        self.answered = 0
        self.quorum = 0


class Run:
    """The scope of one request: its deadline, its calls, and what fell short.

    Whoever makes a run must `close` it in a `finally`: that cancels every call still under way.

    Args:
        plan: the compiled profile it runs on; stays the same through a reload.
        request: what the client asked.
        mode: the mode served.
        answer_id: `id` of the answer.
        created: creation time of the answer, Unix seconds.
        headers: header lines every upstream call carries.
        deadline: when the request ends, on the event loop's clock.
        trace: its trace.
    """

    __slots__ = (
        "answer_id",
        "calls",
        "created",
        "deadline",
        "degraded",
        "first_token",
        "headers",
        "loop",
        "mode",
        "panel",
        "plan",
        "request",
        "sampled",
        "seed",
        "started",
        "strategy",
        "timings",
        "trace",
        "workflow",
    )

    def __init__(
        self,
        plan: Plan,
        request: ChatRequest,
        mode: Mode,
        *,
        answer_id: str,
        created: int,
        headers: bytes,
        deadline: float,
        trace: Trace,
        started: float,
    ) -> None:
        self.plan = plan
        self.request = request
        self.mode = mode
        self.strategy: str | None = None
        self.answer_id = answer_id
        self.created = created
        self.sampled = trace.sampled
        self.headers = headers if self.sampled else headers + trace.headers
        self.deadline = deadline
        self.trace = trace
        self.workflow: Span = trace.root
        self.loop = asyncio.get_running_loop()
        self.started = started
        self.first_token = 0.0
        self.calls: list[Call] = []
        self.degraded: list[DegradedReason] = []
        self.panel: PanelCount | None = None
        self.seed = 0
        self.timings: list[tuple[Stage, float]] = []

    def call(
        self,
        site: Site,
        body: Sequence[bytes],
        receiver: Receiver,
        *,
        deadline: float,
        patience: Patience,
        streamed: bool,
        parent: Span,
        layer: int = 0,
        choices: int = 1,
    ) -> Call:
        """Make a call to an upstream, to be ended with this request at the latest.

        The call may be over when this returns (its receiver has heard of it then).
        """
        call = Call(site, body, receiver, streamed=streamed, layer=layer, choices=choices)
        self.calls.append(call)
        if self.sampled:
            call.span = self._call_span(site, parent, streamed=streamed, choices=choices)
        call.start(self.headers, deadline, patience)
        return call

    def stage_span(self, stage: Stage, layer: int = 0) -> Span:
        """Open the span around a stage."""
        if not self.sampled:
            return self.workflow
        attributes = {names.MOA_STAGE: stage, names.MOA_LAYER: layer}
        return self.trace.start(names.stage_span(stage), "internal", attributes, self.workflow)

    def degrade(self, reason: DegradedReason) -> None:
        """Note that the answer falls short of what the profile promises."""
        if reason not in self.degraded:
            self.degraded.append(reason)
            self.plan.metrics.degraded.labels(self.plan.name, reason).inc()
            self.workflow.event(names.EVENT_DEGRADED, {names.MOA_REASON: reason})

    def saw_first_token(self) -> None:
        """Note when the first token of the answer came."""
        if self.first_token == 0.0:
            self.first_token = monotonic()

    def close(self, reason: CancelReason) -> None:
        """Cancel every call that is still under way."""
        for call in self.calls:
            call.cancel(reason)

    def _call_span(self, site: Site, parent: Span, *, streamed: bool, choices: int) -> Span:
        upstream = site.upstream
        return self.trace.start(
            names.call_span("chat", upstream.model),
            "client",
            {
                names.GEN_AI_OPERATION_NAME: "chat",
                names.GEN_AI_PROVIDER_NAME: names.GEN_AI_PROVIDER,
                names.GEN_AI_REQUEST_MODEL: upstream.model,
                names.GEN_AI_REQUEST_CHOICE_COUNT: choices,
                names.GEN_AI_REQUEST_STREAM: streamed,
                names.SERVER_ADDRESS: upstream.address,
                names.SERVER_PORT: upstream.port,
                names.MOA_STAGE: site.stage,
                names.MOA_UPSTREAM: upstream.name,
            },
            parent,
        )
