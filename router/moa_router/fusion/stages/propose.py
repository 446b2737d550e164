"""The panel: ask every member, stop when enough have answered."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

import orjson

from moa_api.v1alpha1 import required_quorum
from moa_router.fusion.drafts import Draft, carries_token, note_usage, read_choice, read_chunk
from moa_router.fusion.plan import encode_fields, stream_fields
from moa_router.fusion.request import PROMPT_FIELDS
from moa_router.telemetry import names
from moa_router.upstream.event_stream import DONE, data_of
from moa_router.upstream.failure import Failure

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping, Sequence

    from moa_router.fusion.candidates import Candidate
    from moa_router.fusion.plan import Proposer, Seat
    from moa_router.fusion.run import Run
    from moa_router.fusion.stages.present import Presenter
    from moa_router.telemetry.names import CancelReason
    from moa_router.telemetry.tracing import Span
    from moa_router.upstream.client import Call, Upstream
    from moa_router.upstream.failure import Feature

#: How long an answer that is whole may take to report its usage, once enough have answered.
SETTLE_SECONDS = 0.05


class _Asked:
    """A call under way, which seats it is to fill and what it has written; the `Receiver` of the call."""

    __slots__ = ("_panel", "drafts", "first", "proposer", "seats", "tests_choices", "with_tools", "with_usage")

    def __init__(
        self,
        panel: Panel,
        proposer: Proposer,
        seats: Sequence[Seat],
        first: int,
        *,
        with_tools: bool,
        with_usage: bool,
        tests_choices: bool,
    ) -> None:
        self._panel = panel
        self.proposer = proposer
        self.seats = seats
        self.first = first
        self.with_tools = with_tools
        self.with_usage = with_usage
        self.tests_choices = tests_choices
        self.drafts: dict[int, Draft] = {}

    def on_event(self, call: Call, event: bytes) -> None:
        """A chunk of a streamed answer."""
        self._panel.on_event(call, self, event)

    def on_done(self, call: Call) -> None:
        """The call has ended."""
        self._panel.on_done(call, self)


class Panel:
    """One layer of the panel at work.

    Reaching the quorum starts the grace time; after it the rest is cancelled. Without a quorum the panel ends when
    every call has ended, at the latest at its deadline.

    Args:
        run: the request it works for.
        proposers: whom to ask; those that cannot take the request have been left out.
        layer: its number, from 1.
        instruction: what a later layer's members are told beside their own words; empty in the first.
        deadline: when it must be over, on the event loop's clock.
        race: stop at the first candidate, and let the calls carry the client's own fields: they write the answer.
        presenter: shows candidates as they are written.

    Attributes:
        asked: how many candidates were asked for.
        required: how many of them make a quorum.
        candidates: those that came.
        failures: whose did not come, and why.
    """

    def __init__(
        self,
        run: Run,
        proposers: Sequence[Proposer],
        *,
        layer: int,
        instruction: str,
        deadline: float,
        race: bool,
        presenter: Presenter | None,
    ) -> None:
        self._run = run
        self._proposers = proposers
        self._layer = layer
        self._instruction = instruction
        self._deadline = deadline
        self._race = race
        self._presenter = presenter
        self._asked: dict[Call, _Asked] = {}
        self._launching = 0
        self._grace: asyncio.TimerHandle | None = None
        self._settled: CancelReason | None = None
        self._finished: asyncio.Future[None] = run.loop.create_future()
        self._reason: CancelReason = "client_gone"
        self._span: Span = run.workflow
        self.asked = sum([len(proposer.seats) for proposer in proposers])
        self.required = self._required()
        self.candidates: list[Candidate] = []
        self.failures: list[tuple[str, Failure]] = []
        self._fields = self._client_fields()

    def _required(self) -> int:
        return min(1, self.asked) if self._race else required_quorum(self._run.plan.panel.quorum, self.asked)

    @property
    def met(self) -> bool:
        """Whether the quorum is reached."""
        return self.asked > 0 and len(self.candidates) >= self.required

    async def gather(self) -> None:
        """Ask everybody and wait for the quorum and its grace, or for everybody."""
        self._span = self._run.stage_span("panel", self._layer)
        started = monotonic()
        try:
            self._launch()
            self._check()
            await self._finished
        finally:
            if self._grace is not None:
                self._grace.cancel()
            for call in tuple(self._asked):
                self._let_go(call)
            self._run.timings.append(("panel", monotonic() - started))
            if self._run.sampled:
                self._end_span()

    # -- asking -----------------------------------------------------------------------------------------------------

    def _launch(self) -> None:
        # a call may end while it is being started; the panel must not look finished before the last one is out
        self._launching += 1
        for proposer in self._proposers:
            # in a race every seat runs for itself, to be cancelled by itself
            if proposer.together and not self._race and proposer.site.upstream.can("MultipleChoices"):
                self._ask(proposer, proposer.seats, 0)
            else:
                self._ask_apart(proposer, proposer.seats, 0)
        self._launching -= 1

    def _ask_apart(self, proposer: Proposer, seats: Sequence[Seat], first: int, *, tests_choices: bool = False) -> None:
        self._launching += 1
        for offset, seat in enumerate(seats):
            self._ask(proposer, (seat,), first + offset, tests_choices=tests_choices)
        self._launching -= 1

    def _ask(
        self,
        proposer: Proposer,
        seats: Sequence[Seat],
        first: int,
        *,
        with_tools: bool | None = None,
        tests_choices: bool = False,
    ) -> None:
        upstream = proposer.site.upstream
        tools = upstream.can("Tools") if with_tools is None else with_tools
        streamed = self._presenter is not None or (len(seats) > 1 and self.required < self.asked)
        usage = streamed and upstream.can("UsageStream")
        asked = _Asked(self, proposer, seats, first, with_tools=tools, with_usage=usage, tests_choices=tests_choices)
        if streamed:
            asked.drafts = {index: Draft(seat) for index, seat in enumerate(seats)}
        call = self._run.call(
            proposer.site,
            self._body(asked, streamed=streamed),
            asked,
            deadline=self._deadline,
            patience=proposer.patience,
            streamed=streamed,
            parent=self._span,
            layer=self._layer,
            choices=len(seats),
        )
        if not call.done:
            self._asked[call] = asked

    def _body(self, asked: _Asked, *, streamed: bool) -> tuple[bytes, ...]:
        proposer = asked.proposer
        tail = f"{self._instruction}\n\n{proposer.instruction}".strip("\n")
        messages = self._run.request.conversation.with_tail(tail)
        if not self._fields and proposer.seed is None and not streamed and len(asked.seats) == 1:
            return (proposer.head, *messages, proposer.tail)
        own: dict[str, object] = {}
        if proposer.seed is not None and "seed" not in proposer.sampling:
            own["seed"] = proposer.seed + asked.first
        if len(asked.seats) > 1:
            own["n"] = len(asked.seats)
        fields = b"".join(
            text
            for name, text in self._fields.items()
            if name not in proposer.sampling and name not in own and (asked.with_tools or name not in _TOOL_FIELDS)
        )
        rest = fields + encode_fields(own) + stream_fields(stream=streamed, running_usage=asked.with_usage) + b"}"
        return (proposer.head, *messages, proposer.encoded + rest)

    def _client_fields(self) -> Mapping[str, bytes]:
        fields = self._run.request.fields
        kept = [name for name in fields if name != "n"] if self._race else [n for n in PROMPT_FIELDS if n in fields]
        return {name: b"," + orjson.dumps(name) + b":" + fields[name] for name in kept}

    # -- hearing ----------------------------------------------------------------------------------------------------

    def on_event(self, call: Call, asked: _Asked, event: bytes) -> None:
        """A chunk of a streamed answer."""
        data = data_of(event)
        if data is None:
            return
        if data == DONE:
            call.complete()
            return
        chunk = read_chunk(call, data)
        if chunk is not None:
            self._on_chunk(call, asked, chunk)

    def on_done(self, call: Call, asked: _Asked) -> None:
        """A call has ended."""
        self._asked.pop(call, None)
        if call.failure is not None:
            self._on_failure(call, asked, call.failure)
            self._check()
            return
        if asked.tests_choices:
            asked.proposer.site.upstream.unlearn("MultipleChoices")
        if not call.streamed:
            self._on_answer(call, asked)
        else:
            # a streamed answer is whole: ask again for the choices it did not bring
            self._ask_again(asked, sum(draft.finish is not None for draft in asked.drafts.values()))
        self._check()

    def _on_chunk(self, call: Call, asked: _Asked, chunk: Mapping[str, object]) -> None:
        choices = chunk.get("choices")
        choices = choices if isinstance(choices, list) else []
        for choice in choices:
            if isinstance(choice, dict):
                self._on_choice(call, asked, choice)
        if chunk.get("usage") is not None:
            note_usage(call, chunk["usage"], choices, asked.drafts)
        if choices:
            call.whole = all(draft.finish is not None for draft in asked.drafts.values())
            self._check()

    def _on_choice(self, call: Call, asked: _Asked, choice: Mapping[str, object]) -> None:
        index, delta, finish = choice.get("index", 0), choice.get("delta"), choice.get("finish_reason")
        draft = asked.drafts.get(index) if isinstance(index, int) else None
        if draft is None or draft.finish is not None:
            return
        if isinstance(delta, dict) and carries_token(delta):
            call.deltas += 1
            if call.first_token == 0.0:
                call.saw_token()
            text = draft.add(delta)
            if text and self._presenter is not None:
                self._presenter.add(draft, draft.seat.member, text)
        if isinstance(finish, str):
            draft.finish = finish
        elif draft.size > self._run.plan.limits.max_candidate_bytes:
            draft.finish = "length"
        if draft.finish is not None:
            self._seat(draft.candidate(self._run.plan.limits.max_candidate_bytes))
            if self._presenter is not None:
                self._presenter.end(draft)

    def _on_answer(self, call: Call, asked: _Asked) -> None:
        choices = call.answer["choices"]
        limit = self._run.plan.limits.max_candidate_bytes
        found = choices if isinstance(choices, list) else []
        for seat, choice in zip(asked.seats, found, strict=False):
            candidate = read_choice(seat, choice, limit)
            candidate.answer, candidate.choice = call.answer, choice
            self._seat(candidate)
        self._ask_again(asked, len(found))

    def _ask_again(self, asked: _Asked, found: int) -> None:
        missing = asked.seats[found:]
        if not missing:
            return
        if len(asked.seats) > 1 and not self._finished.done():
            asked.proposer.site.upstream.unlearn("MultipleChoices")
            self._ask_apart(asked.proposer, missing, asked.first + found)
        else:
            self._fail(missing, Failure("invalid", "sent no choice"))

    def _on_failure(self, call: Call, asked: _Asked, failure: Failure) -> None:
        upstream, proposer, seats = asked.proposer.site.upstream, asked.proposer, asked.seats
        if self._presenter is not None:
            for draft in asked.drafts.values():
                self._presenter.end(draft)
        finished = {index for index, draft in asked.drafts.items() if draft.finish is not None}
        left = [seat for index, seat in enumerate(seats) if index not in finished]
        request = self._run.request
        if self._finished.done() or failure.status is None or call.deltas:
            self._fail(left, failure)
        elif failure.refused == "UsageStream" and asked.with_usage and _lacks(upstream, "UsageStream"):
            self._ask(proposer, seats, asked.first, with_tools=asked.with_tools)
        elif failure.refused == "Vision" and request.conversation.has_images and _lacks(upstream, "Vision"):
            # it was never fit to be asked
            self.asked -= len(seats)
            self.required = self._required()
        elif failure.refused == "Tools" and asked.with_tools and request.has_tools and _lacks(upstream, "Tools"):
            if self._race:
                # an answer that could not have called a tool is not the answer asked for
                self._fail(left, failure)
                return
            self._ask(proposer, seats, asked.first, with_tools=False)
        elif len(seats) > 1 and failure.outcome == "client_error" and not failure.context_overflow:
            # whether several choices were at fault shows when they are asked for one by one
            self._ask_apart(proposer, seats, asked.first, tests_choices=True)
        else:
            self._fail(left, failure)

    def _fail(self, seats: Sequence[Seat], failure: Failure) -> None:
        self.failures.extend((seat.member, failure) for seat in seats)

    def _seat(self, candidate: Candidate) -> None:
        if candidate.empty:
            self.failures.append((candidate.member, Failure("invalid", "answered with nothing")))
        elif not self._finished.done():
            self.candidates.append(candidate)

    # -- enough? ----------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        if self._finished.done() or self._launching:
            return
        if not self._asked:
            self._finish("failed")
        elif self._settled is not None:
            self._settle(self._settled)
        elif self.met and self._grace is None:
            self._span.event(names.EVENT_QUORUM_REACHED)
            grace = 0.0 if self._race else self._run.plan.panel.grace
            if grace > 0:
                self._grace = self._run.loop.call_later(grace, self._grace_over)
            else:
                self._settle("decided" if self._race else "quorum")

    def _grace_over(self) -> None:
        self._span.event(names.EVENT_GRACE_OVER)
        self._settle("quorum")

    def _settle(self, reason: CancelReason) -> None:
        """Enough have answered; an answer that lacks no more than its usage is waited for, a moment."""
        if not any(call.whole and call.usage is None for call in self._asked):
            self._finish(reason)
        elif self._settled is None:
            self._settled = reason
            self._grace = self._run.loop.call_later(SETTLE_SECONDS, self._finish, reason)

    def _let_go(self, call: Call) -> None:
        if call.whole:
            call.complete()
        else:
            call.cancel(self._reason)

    def _finish(self, reason: CancelReason) -> None:
        if not self._finished.done():
            self._reason = reason
            self._finished.set_result(None)

    def _end_span(self) -> None:
        self._span.set(names.MOA_PANEL_ASKED, self.asked)
        self._span.set(names.MOA_PANEL_ANSWERED, len(self.candidates))
        self._span.set(names.MOA_PANEL_QUORUM, self.required)
        self._span.end()


_TOOL_FIELDS = frozenset({"tools", "tool_choice", "parallel_tool_calls", "functions", "function_call"})


def _lacks(upstream: Upstream, feature: Feature) -> bool:
    """Unlearn a feature; False where the profile insists that the upstream has it."""
    upstream.unlearn(feature)
    return not upstream.can(feature)
