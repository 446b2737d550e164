"""One call to one upstream: deadlines, ends, and the books it keeps, against a scripted route."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal

import orjson
import pytest

from moa_router.telemetry.metrics import Metrics
from moa_router.telemetry.names import CancelReason
from moa_router.upstream import client
from moa_router.upstream.client import Call, Patience, Prices, Site, Upstream
from moa_router.upstream.event_stream import DONE, data_of
from moa_router.upstream.slots import Slots
from moa_router.upstream.transport import Sink, TransportError
from moa_router.upstream.usage import Usage, parse_usage

JSON: Mapping[str, str] = {"content-type": "application/json"}
EVENTS: Mapping[str, str] = {"content-type": "text/event-stream; charset=utf-8"}
USAGE = {"prompt_tokens": 10, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 8}}
ANSWER = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "two words"}}], "usage": USAGE}
PATIENT = Patience(None, None, None)
SOON = 0.02
LONG = 60.0


class Sent:
    """A request on the scripted route; the upstream's side of it, and its `Exchange`."""

    def __init__(self, headers: bytes, body: bytes, sink: Sink) -> None:
        self.headers = headers
        self.body = body
        self.sink = sink
        self.cancelled = 0
        self.ended = False
        self.paused = False

    def cancel(self) -> None:
        # as with the real one, an exchange that is over cannot be cancelled
        if not self.ended:
            self.cancelled += 1

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def answer(self, body: object = ANSWER, status: int = 200, headers: Mapping[str, str] = JSON) -> None:
        data = body if isinstance(body, bytes) else orjson.dumps(body)
        self.sink.on_head(status, headers)
        if data:
            self.sink.on_body(data)
        self.end()

    def end(self) -> None:
        self.ended = True
        self.sink.on_end()

    def reset(self) -> None:
        self.ended = True
        self.sink.on_error(TransportError("reset", "gone"))

    def stream(self, *events: object) -> None:
        self.sink.on_head(200, EVENTS)
        self.events(*events)

    def events(self, *events: object) -> None:
        for event in events:
            data = event if isinstance(event, bytes) else orjson.dumps(event)
            self.sink.on_body(b"data: " + data + b"\n\n")


class ScriptedRoute:
    """A route whose upstream is the test; `on_send` may answer within `send` itself."""

    def __init__(self) -> None:
        self.sent: list[Sent] = []
        self.on_send: Callable[[Sent], None] = lambda _: None

    def send(self, headers: bytes, body: Sequence[bytes], sink: Sink) -> Sent:
        sent = Sent(headers, b"".join(body), sink)
        self.sent.append(sent)
        self.on_send(sent)
        return sent


class Heard:
    """A receiver that writes down what it hears, and reads streams as a stage does."""

    def __init__(self) -> None:
        self.events: list[bytes] = []
        self.done = 0
        self.over = asyncio.Event()

    def on_event(self, call: Call, event: bytes) -> None:
        data = data_of(event)
        assert data is not None
        self.events.append(data)
        if data == DONE:
            call.complete()
            return
        chunk = orjson.loads(data)
        if chunk.get("error"):
            call.fail_with(chunk["error"])
            return
        call.usage = parse_usage(chunk.get("usage")) or call.usage
        if chunk.get("choices"):
            call.deltas += 1
            if call.first_token == 0.0:
                call.saw_token()
            call.whole = chunk["choices"][0].get("finish_reason") is not None

    def on_done(self, _: Call) -> None:
        self.done += 1
        self.over.set()


def delta(text: str, finish: str | None = None) -> dict[str, object]:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]}


class Bench:
    """An upstream behind a scripted route, and the counters of its site."""

    def __init__(self, *, limit: int | None = None, line: int = 8, prices: Prices | None = None) -> None:
        self.route = ScriptedRoute()
        self.metrics = Metrics("0")
        self.upstream = Upstream("up", "m", self.route, slots=Slots(limit, line), prices=prices)
        self.site = Site(self.metrics, "p", "panel", self.upstream)

    def call(
        self,
        *,
        streamed: bool = False,
        patience: Patience = PATIENT,
        seconds: float = LONG,
        choices: int = 1,
    ) -> tuple[Call, Heard]:
        heard = Heard()
        call = Call(self.site, (b'{"a":', b"1}"), heard, streamed=streamed, choices=choices)
        call.start(b"x-request-id: r\r\n", asyncio.get_running_loop().time() + seconds, patience)
        return call, heard

    def counted(self, outcome: str) -> float:
        return self.metrics.upstream_requests.labels("p", "up", outcome).value

    def tokens(self, kind: str) -> float:
        return self.metrics.stage_tokens.labels("p", "panel", "up", "m", kind).value

    def cancelled(self, reason: CancelReason) -> float:
        return self.metrics.cancelled_calls.labels("p", "panel", reason).value

    @property
    def last(self) -> Sent:
        return self.route.sent[-1]


async def over(heard: Heard) -> None:
    await asyncio.wait_for(heard.over.wait(), LONG)


class TestWhole:
    async def test_an_answer_is_read_and_counted(self) -> None:
        bench = Bench()
        call, heard = bench.call()
        assert (bench.last.headers, bench.last.body) == (b"x-request-id: r\r\n", b'{"a":1}')
        assert bench.upstream.slots.in_use == 1
        bench.last.answer()
        assert (heard.done, call.failure, call.outcome) == (1, None, "ok")
        assert call.answer == ANSWER
        assert call.usage == Usage(10, 8, 4)
        assert (bench.tokens("input"), bench.tokens("cached_input"), bench.tokens("output")) == (10, 8, 4)
        assert bench.counted("ok") == 1
        assert bench.upstream.slots.in_use == 0

    async def test_may_come_in_pieces(self) -> None:
        bench = Bench()
        call, heard = bench.call()
        bench.last.sink.on_head(200, JSON)
        for byte in orjson.dumps(ANSWER):
            bench.last.sink.on_body(bytes([byte]))
        assert heard.done == 0
        bench.last.end()
        assert (heard.done, call.answer) == (1, ANSWER)

    async def test_may_be_there_before_send_returns(self) -> None:
        bench = Bench()
        bench.route.on_send = Sent.answer
        call, heard = bench.call()
        assert (heard.done, call.outcome, bench.upstream.slots.in_use) == (1, "ok", 0)

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"{",
            b"[]",
            b"null",
            {},
            {"choices": None},
            {"choices": {}},
            {"choices": [None]},
            {"choices": [{}]},
            {"choices": [{"message": "hello"}]},
        ],
    )
    async def test_what_is_no_chat_completion_is_invalid(self, body: object) -> None:
        bench = Bench()
        call, heard = bench.call()
        bench.last.answer(body)
        assert (heard.done, call.outcome, bench.counted("invalid")) == (1, "invalid", 1)

    @pytest.mark.parametrize("error", [{"message": "died", "code": 500}, "died"])
    async def test_an_error_inside_a_200_is_a_servers_error(self, error: object) -> None:
        bench = Bench()
        call, _ = bench.call()
        bench.last.answer({"error": error})
        assert call.outcome == "server_error"

    @pytest.mark.parametrize(
        ("headers", "outcome"),
        [
            (EVENTS, "invalid"),
            ({"content-type": "text/html"}, "invalid"),
            ({}, "invalid"),
            ({**JSON, "content-encoding": "gzip"}, "invalid"),
            ({**JSON, "content-encoding": "identity"}, "ok"),
            ({"content-type": "application/json; charset=utf-8"}, "ok"),
        ],
    )
    async def test_the_head_must_announce_json(self, headers: Mapping[str, str], outcome: str) -> None:
        bench = Bench()
        call, heard = bench.call()
        bench.last.answer(headers=headers)
        assert (heard.done, call.outcome) == (1, outcome)

    async def test_an_answer_without_end_is_given_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(client, "MAX_ANSWER_BYTES", 1000)
        bench = Bench()
        call, heard = bench.call()
        bench.last.sink.on_head(200, JSON)
        for _ in range(20):
            bench.last.sink.on_body(b" " * 100)
        assert (heard.done, call.outcome, bench.last.cancelled) == (1, "invalid", 1)

    async def test_a_refusal_of_any_size_is_known_by_its_status(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(client, "MAX_ERROR_BYTES", 1000)
        bench = Bench()
        call, heard = bench.call()
        bench.last.sink.on_head(503, {"content-type": "text/html", "retry-after": "9"})
        for _ in range(20):
            bench.last.sink.on_body(b"<br>" * 25)
        assert (heard.done, call.outcome, bench.last.cancelled) == (1, "server_error", 1)
        assert call.failure is not None
        assert call.failure.retry_after == 9

    async def test_a_refusal_used_nothing_and_that_is_no_estimate(self) -> None:
        bench = Bench()
        call, _ = bench.call()
        bench.last.answer({"error": {"message": "busy"}}, status=429)
        assert call.outcome == "rate_limited"
        assert call.usage == Usage()

    async def test_a_broken_connection_is_an_estimate_of_nothing(self) -> None:
        bench = Bench()
        call, heard = bench.call()
        bench.last.reset()
        assert (heard.done, call.outcome) == (1, "reset")
        assert call.usage == Usage(estimated=True)
        assert bench.last.cancelled == 0

    async def test_without_a_report_words_are_counted_and_marked(self) -> None:
        bench = Bench()
        call, _ = bench.call()
        bench.last.answer({"choices": ANSWER["choices"]})
        assert call.usage == Usage(output=2, estimated=True)
        assert bench.metrics.estimated_usage.labels("p", "panel", "up").value == 1

    async def test_a_report_of_one_choice_for_several_is_mended_and_marked(self) -> None:
        """llama.cpp reports the last choice alone."""
        bench = Bench()
        call, _ = bench.call(choices=3)
        choices = [{"index": index, "message": {"content": "three words here"}} for index in range(3)]
        bench.last.answer({"choices": choices, "usage": {"prompt_tokens": 10, "completion_tokens": 4}})
        assert call.usage == Usage(input=10, output=9, estimated=True)


class TestStream:
    async def test_is_whole_with_done(self) -> None:
        bench = Bench()
        call, heard = bench.call(streamed=True)
        bench.last.stream(delta("a"), delta("b", "stop"), {"choices": [], "usage": USAGE}, b"[DONE]")
        assert (heard.done, call.outcome, call.usage) == (1, "ok", Usage(10, 8, 4))
        assert bench.upstream.slots.in_use == 0
        bench.last.end()
        assert (heard.done, bench.last.cancelled) == (1, 0)

    async def test_that_lingers_behind_its_end_is_dropped(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(client, "LINGER_SECONDS", SOON)
        bench = Bench()
        bench.call(streamed=True)
        bench.last.stream(delta("a", "stop"), b"[DONE]")
        assert bench.last.cancelled == 0
        await asyncio.sleep(SOON * 3)
        assert bench.last.cancelled == 1

    async def test_without_done_is_whole_if_its_answer_is(self) -> None:
        bench = Bench()
        call, heard = bench.call(streamed=True)
        bench.last.stream(delta("a", "stop"))
        bench.last.end()
        assert (heard.done, call.outcome) == (1, "ok")

    async def test_that_ends_in_the_middle_is_broken(self) -> None:
        bench = Bench()
        call, heard = bench.call(streamed=True)
        bench.last.stream(delta("a"), delta("b"))
        bench.last.end()
        assert (heard.done, call.outcome) == (1, "reset")
        assert call.usage == Usage(output=2, estimated=True)

    async def test_an_error_ends_it(self) -> None:
        bench = Bench()
        call, heard = bench.call(streamed=True)
        bench.last.stream(delta("a"), {"error": {"message": "died", "code": 500}})
        assert (heard.done, call.outcome, bench.last.cancelled) == (1, "server_error", 1)

    @pytest.mark.parametrize(
        ("error", "outcome"),
        [
            ({"code": 429}, "rate_limited"),
            ({"code": 400, "message": "x"}, "client_error"),
            ({"code": "400"}, "server_error"),
            ({"code": 200}, "server_error"),
            ("died", "server_error"),
        ],
    )
    async def test_an_errors_code_is_believed_if_it_is_a_status(self, error: object, outcome: str) -> None:
        bench = Bench()
        call, _ = bench.call(streamed=True)
        bench.last.stream({"error": error})
        assert call.outcome == outcome

    async def test_an_event_without_end_is_given_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(client, "MAX_EVENT_BYTES", 1000)
        bench = Bench()
        call, heard = bench.call(streamed=True)
        bench.last.sink.on_head(200, EVENTS)
        for _ in range(20):
            bench.last.sink.on_body(b"x" * 100)
        assert (heard.done, call.outcome, bench.last.cancelled) == (1, "invalid", 1)

    async def test_nothing_is_heard_behind_the_end(self) -> None:
        bench = Bench()
        call, heard = bench.call(streamed=True)
        bench.last.sink.on_head(200, EVENTS)
        bench.last.sink.on_body(b"data: [DONE]\n\ndata: {}\n\n")
        bench.last.events(delta("late"))
        bench.last.reset()
        assert (heard.events, heard.done, call.outcome) == ([DONE], 1, "ok")

    async def test_an_answer_that_is_not_streamed_is_invalid(self) -> None:
        bench = Bench()
        call, heard = bench.call(streamed=True)
        bench.last.answer()
        assert (heard.done, call.outcome) == (1, "invalid")

    async def test_usage_so_far_is_what_a_cancelled_call_used(self) -> None:
        bench = Bench()
        call, _ = bench.call(streamed=True)
        bench.last.stream(delta("a"), {**delta("b"), "usage": {"prompt_tokens": 10, "completion_tokens": 2}})
        call.cancel("quorum")
        assert call.usage == Usage(input=10, output=2)

    async def test_usage_kept_raw_is_read_at_the_end(self) -> None:
        bench = Bench()
        call, _ = bench.call(streamed=True)
        call.usage_raw = orjson.dumps(USAGE)
        call.cancel("quorum")
        assert call.usage == Usage(10, 8, 4)


class TestCancel:
    @pytest.mark.parametrize("streamed", [True, False])
    async def test_ends_the_exchange_once_and_is_not_heard(self, streamed: bool) -> None:
        bench = Bench(limit=1)
        call, heard = bench.call(streamed=streamed)
        call.cancel("quorum")
        call.cancel("client_gone")
        assert bench.last.cancelled == 1
        assert (heard.done, call.outcome, bench.counted("cancelled")) == (0, "cancelled", 1)
        assert (bench.cancelled("quorum"), bench.cancelled("client_gone")) == (1, 0)
        assert bench.upstream.slots.in_use == 0

    async def test_of_an_ended_call_is_nothing(self) -> None:
        bench = Bench()
        call, _ = bench.call()
        bench.last.answer()
        call.cancel("quorum")
        assert (call.outcome, bench.last.cancelled, bench.cancelled("quorum")) == ("ok", 0, 0)

    async def test_of_one_in_line_steps_out_of_it(self) -> None:
        bench = Bench(limit=1)
        first, _ = bench.call()
        second, heard = bench.call()
        assert second.waiting
        second.cancel("quorum")
        first.cancel("quorum")
        assert len(bench.route.sent) == 1
        assert (bench.upstream.slots.in_use, bench.upstream.slots.waiting, heard.done) == (0, 0, 0)
        assert second.usage == Usage()

    async def test_inside_an_event_is_obeyed_at_once(self) -> None:
        bench = Bench()

        class Impatient(Heard):
            def on_event(self, call: Call, event: bytes) -> None:
                super().on_event(call, event)
                call.cancel("decided")

        heard = Impatient()
        call = Call(bench.site, (b"{}",), heard, streamed=True)
        call.start(b"", asyncio.get_running_loop().time() + LONG, PATIENT)
        bench.last.sink.on_head(200, EVENTS)
        bench.last.sink.on_body(b'data: {"choices":[{}]}\n\n' * 3)
        assert (len(heard.events), heard.done, bench.last.cancelled) == (1, 0, 1)


class TestLine:
    async def test_a_call_is_sent_when_its_turn_comes(self) -> None:
        bench = Bench(limit=1)
        bench.call()
        waiting, _ = bench.call()
        assert (waiting.waiting, len(bench.route.sent)) == (True, 1)
        bench.last.answer()
        assert (waiting.waiting, len(bench.route.sent)) == (False, 2)
        assert bench.upstream.slots.in_use == 1

    async def test_a_full_line_refuses(self) -> None:
        bench = Bench(limit=1, line=0)
        bench.call()
        call, heard = bench.call()
        assert (heard.done, call.outcome, len(bench.route.sent)) == (1, "rate_limited", 1)
        assert call.usage == Usage()
        assert bench.upstream.slots.in_use == 1

    async def test_the_deadline_counts_in_line_too(self) -> None:
        bench = Bench(limit=1)
        bench.call()
        call, heard = bench.call(seconds=SOON)
        await over(heard)
        assert (heard.done, call.outcome, len(bench.route.sent)) == (1, "timeout", 1)
        assert (bench.upstream.slots.in_use, bench.upstream.slots.waiting) == (1, 0)

    async def test_time_in_line_is_not_the_upstreams(self) -> None:
        """The first token's time begins when the call is sent, and is kept from then on."""
        bench = Bench(limit=1)
        first, _ = bench.call()
        call, heard = bench.call(streamed=True, patience=Patience(None, SOON, LONG))
        await asyncio.sleep(SOON * 2)
        assert not call.done
        first.cancel("quorum")
        assert len(bench.route.sent) == 2
        await over(heard)
        assert (call.outcome, call.failure and call.failure.reason) == ("timeout", "sent no first token in time")


class TestTime:
    @pytest.mark.parametrize("streamed", [True, False])
    async def test_the_stages_deadline_ends_it(self, streamed: bool) -> None:
        bench = Bench()
        call, heard = bench.call(streamed=streamed, seconds=SOON)
        await over(heard)
        assert (call.outcome, call.failure and call.failure.reason) == ("timeout", "timed out")
        assert bench.last.cancelled == 1

    async def test_its_own_time_may_be_shorter(self) -> None:
        bench = Bench()
        call, heard = bench.call(patience=Patience(SOON, None, None))
        await over(heard)
        assert call.outcome == "timeout"

    async def test_a_deadline_that_has_passed_ends_it_soon(self) -> None:
        bench = Bench()
        call, heard = bench.call(seconds=-1.0)
        await over(heard)
        assert call.outcome == "timeout"

    async def test_the_first_token_must_come_in_time(self) -> None:
        bench = Bench()
        call, heard = bench.call(streamed=True, patience=Patience(None, SOON, LONG))
        bench.last.stream()
        await over(heard)
        assert call.failure is not None
        assert call.failure.reason == "sent no first token in time"

    async def test_an_unstreamed_answer_has_no_first_token(self) -> None:
        bench = Bench()
        call, heard = bench.call(patience=Patience(None, SOON, SOON))
        await asyncio.sleep(SOON * 3)
        assert (heard.done, call.done) == (0, False)

    async def test_silence_in_the_middle_ends_it(self) -> None:
        """Also where more time was left for the first token than for silence."""
        bench = Bench()
        call, heard = bench.call(streamed=True, patience=Patience(None, LONG, SOON))
        bench.last.stream(delta("a"))
        await over(heard)
        assert call.failure is not None
        assert call.failure.reason == "stopped sending in the middle"
        assert call.usage == Usage(output=1, estimated=True)

    async def test_a_stream_that_keeps_coming_is_left_alone(self) -> None:
        bench = Bench()
        call, heard = bench.call(streamed=True, patience=Patience(None, None, SOON * 10))
        bench.last.stream(delta("a"))
        for _ in range(10):
            await asyncio.sleep(SOON * 2)
            bench.last.events(delta("b"))
        assert not call.done
        await over(heard)
        assert call.deltas == 11

    async def test_a_reader_that_pauses_is_not_the_upstreams_silence(self) -> None:
        bench = Bench()
        call, heard = bench.call(streamed=True, patience=Patience(None, None, SOON))
        bench.last.stream(delta("a"))
        call.pause()
        await asyncio.sleep(SOON * 4)
        assert (bench.last.paused, call.done) == (True, False)
        call.resume()
        assert (bench.last.paused, call.done) == (False, False)
        await over(heard)
        assert call.failure is not None
        assert call.failure.reason == "stopped sending in the middle"


class TestBooks:
    PRICES = Prices(input_=Decimal(2), cached_input=Decimal(1), output=Decimal(10), reasoning=Decimal(5))

    async def test_cost_is_counted_once(self) -> None:
        bench = Bench(prices=self.PRICES)
        call, _ = bench.call()
        bench.last.answer()
        call.cancel("quorum")
        assert call.cost == Decimal(2 * 2 + 8 * 1 + 4 * 10)
        assert bench.metrics.stage_cost.labels("p", "panel", "up").value == 52

    async def test_a_call_without_tokens_costs_nothing(self) -> None:
        bench = Bench(prices=self.PRICES)
        call, _ = bench.call()
        bench.last.answer(b"", status=503)
        assert call.cost == 0

    async def test_without_prices_there_is_no_cost(self) -> None:
        bench = Bench()
        call, _ = bench.call()
        bench.last.answer()
        assert call.cost is None


class TestCapabilities:
    def test_are_assumed_and_unlearned(self) -> None:
        upstream = Bench().upstream
        assert upstream.can("Vision")
        upstream.unlearn("Vision")
        assert not upstream.can("Vision")
        assert upstream.can("Tools")

    def test_declared_ones_are_all_there_is_and_stay(self) -> None:
        upstream = Upstream("up", "m", ScriptedRoute(), capabilities=frozenset({"Tools"}))
        upstream.unlearn("Tools")
        assert upstream.can("Tools")
        assert not upstream.can("Vision")

    def test_usage_in_streams_is_no_capability_to_declare(self) -> None:
        upstream = Upstream("up", "m", ScriptedRoute(), capabilities=frozenset())
        assert upstream.can("UsageStream")
        upstream.unlearn("UsageStream")
        assert not upstream.can("UsageStream")
