"""One call on its way from admission to the books, with whatever a rule does to it."""

import asyncio
import time
from typing import TYPE_CHECKING, Final

from moa_simulator.books import Books, CallRecord
from moa_simulator.engine import Engine
from moa_simulator.faults import forever
from moa_simulator.pacer import Pacer
from moa_simulator.protocol.answer import DONE, Answer
from moa_simulator.protocol.errors import error_body
from moa_simulator.rules import Action, After, AfterEvents, Drip
from moa_simulator.wire.connection import Connection, head, send
from moa_simulator.wire.framing import Framing, GzipFraming, gzipped

if TYPE_CHECKING:
    from moa_simulator.prefix_cache import Prefill

PLAIN: Final = Action()
"""What happens to a call that no rule is for."""

_JSON: Final = "application/json"
_EVENTS: Final = "text/event-stream; charset=utf-8"


async def sleep_until(moment: float) -> None:
    """Sleeps until a moment of the event loop's time."""
    delay = moment - asyncio.get_running_loop().time()
    if delay > 0:
        await asyncio.sleep(delay)


class Exchange:
    """A generation on its way to the client.

    Args:
        connection: The client's.
        engine: The model's.
        books: Where the call is closed.
        call: The call's record.
        answer: What is answered.
        script: What a rule does to it.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        engine: Engine,
        books: Books,
        call: CallRecord,
        answer: Answer,
        script: Action,
    ) -> None:
        self._connection = connection
        self._engine = engine
        self._books = books
        self._call = call
        self._answer = answer
        self._script = script
        self._interval = engine.config.inter_token if script.inter_token is None else script.inter_token
        self._first_at = 0.0
        self._prefills: list[Prefill] = []

    def run_now(self) -> bool:
        """Answers at once, without a task, if nothing takes time and no rule interferes; else does nothing."""
        config = self._engine.config
        takes_time = config.ttft or config.prefill_per_token or self._interval
        if takes_time or self._answer.streamed or self._script is not PLAIN or not self._engine.try_admit():
            return False
        self._prefill(0.0)
        self._first_token()
        self._produce(self._answer.generation.steps)
        send(self._connection, 200, self._answer.body())
        self._sent_whole()
        self._settle("ok", admitted=True)
        return True

    async def run(self) -> None:
        """Answers; to be cancelled when the client leaves."""
        outcome = "cancelled"
        admitted = False
        try:
            if self._answer.streamed:
                self._open_stream()
            await self._engine.admit()
            admitted = True
            self._prefill(asyncio.get_running_loop().time())
            await (self._stream() if self._answer.streamed else self._whole())
            fault = self._script.fault
            outcome = f"fault:{fault}" if fault else "ok"
        finally:
            self._settle(outcome, admitted=admitted)

    # The engine's side.

    def _prefill(self, now: float) -> None:
        generation, config = self._answer.generation, self._engine.config
        self._prefills = [self._engine.cache.admit(prompt) for prompt in generation.prompts]
        cached = sum(prefill.cached for prefill in self._prefills)
        generation.cached_tokens = self._call.cached_tokens = cached
        uncached = generation.prompt_tokens - cached
        self._first_at = now + config.ttft + self._script.delay + uncached * config.prefill_per_token
        metrics = self._engine.metrics
        metrics.prompt_tokens += generation.prompt_tokens
        metrics.cached_tokens += cached
        metrics.queue.observe(time.monotonic() - self._call.start)

    def _first_token(self) -> None:
        self._call.first_token = time.monotonic()
        self._engine.metrics.first_token.observe(self._call.first_token - self._call.start)

    def _produce(self, steps: int) -> None:
        self._call.completion_tokens, self._call.reasoning_tokens = self._answer.generation.produced(steps)

    def _settle(self, outcome: str, *, admitted: bool) -> None:
        call, metrics = self._call, self._engine.metrics
        call.outcome = outcome
        if admitted:
            self._engine.release()
            metrics.generation_tokens += call.completion_tokens
            if call.completion_tokens > 1:
                metrics.between_tokens.observe(self._interval, call.completion_tokens - 1)
        if outcome == "ok":
            for choice in self._answer.generation.choices:
                metrics.finished["length" if choice.finish_reason == "length" else "stop"] += 1
                self._engine.cache.extend(self._prefills[choice.prompt], choice.output())
        else:
            metrics.finished["abort" if outcome == "cancelled" else "error"] += 1
        now = time.monotonic()
        metrics.whole_request.observe(now - call.start)
        self._books.close(call, now)

    # An unstreamed answer.

    async def _whole(self) -> None:
        steps = self._answer.generation.steps
        try:
            await sleep_until(self._first_at)
            self._first_token()
            await sleep_until(self._first_at + (steps - 1) * self._interval)
        except asyncio.CancelledError:
            self._produce(self._steps_by(asyncio.get_running_loop().time()))
            raise
        self._produce(steps)
        body = self._spoilt(self._answer.body())
        await self._send_whole(gzipped(body) if self._script.gzip else body)

    def _steps_by(self, now: float) -> int:
        if now < self._first_at or not self._interval:
            return 0
        return int((now - self._first_at) / self._interval) + 1

    def _spoilt(self, body: bytes) -> bytes:
        script = self._script
        if script.garbage is not None:
            return script.garbage.text.encode()
        if script.error_event is not None:
            return error_body(script.error_event.code, script.error_event.message, "InternalServerError")
        return body

    async def _send_whole(self, body: bytes) -> None:
        script, connection = self._script, self._connection
        opening = head(200, self._headers(_JSON) | {"content-length": str(len(body))})
        self._call.status = 200
        if script.drip is not None:
            await self._drip(script.drip, opening, body)
        elif script.reset is not None or script.hang is not None or script.cut is not None:
            nothing = script.cut is None and self._moment_of_fault() == 0
            connection.write(opening if nothing else opening + body[: len(body) // 2])
            await self._break_off()
            return
        else:
            connection.write(opening + body)
            await connection.drain()
        self._sent_whole()

    async def _break_off(self) -> None:
        if self._script.reset is not None:
            self._connection.reset()
        elif self._script.hang is not None:
            await forever()
        else:
            self._connection.close()

    def _sent_whole(self) -> None:
        self._call.status = 200
        self._call.sent_tokens = self._call.completion_tokens
        self._call.usage_sent = self._answer.usage_sent

    # A stream.

    def _open_stream(self) -> None:
        self._call.status = 200
        if self._script.drip is None:
            self._connection.write(self._stream_head())

    def _stream_head(self) -> bytes:
        return head(200, self._headers(_EVENTS) | {"transfer-encoding": "chunked"})

    async def _stream(self) -> None:
        framing = GzipFraming() if self._script.gzip else Framing()
        await sleep_until(self._first_at)
        self._first_token()
        if self._script.drip is not None:
            await self._drip_stream(self._script.drip, framing)
            return
        pacer = Pacer(
            self._connection,
            events=self._answer.events(),
            frame=framing.frame,
            call=self._call,
            start=self._first_at,
            interval=self._interval,
        )
        moment = self._moment_of_fault()
        if moment is not None:
            await pacer.play(moment)
            if not await self._strike(framing):
                return
        await pacer.play()
        self._call.usage_sent = self._answer.usage_sent
        self._connection.write(self._stream_end(framing))
        await self._connection.drain()

    def _moment_of_fault(self) -> int | None:
        script = self._script
        faults: tuple[After | AfterEvents | None, ...] = (
            script.reset,
            script.hang,
            script.cut,
            script.garbage,
            script.error_event,
        )
        return next((fault.after for fault in faults if fault is not None), None)

    async def _strike(self, framing: Framing) -> bool:
        """Commits a fault inside a stream; tells whether the stream goes on."""
        script, connection = self._script, self._connection
        if script.garbage is not None:
            connection.write(framing.frame(f"data: {script.garbage.text}\n\n".encode()))
            return True
        if script.error_event is not None:
            error = error_body(script.error_event.code, script.error_event.message, "InternalServerError")
            connection.write(framing.frame(b"data: " + error + b"\n\n") + framing.end())
        elif script.cut is not None:
            connection.write(framing.end())
        else:
            await self._break_off()
        return False

    def _stream_end(self, framing: Framing) -> bytes:
        done = b"" if self._script.no_done else framing.frame(DONE)
        return done + framing.end()

    async def _drip_stream(self, drip: Drip, framing: Framing) -> None:
        body = b"".join(framing.frame(event.data) for event in self._answer.events())
        self._produce(self._answer.generation.steps)
        await self._drip(drip, self._stream_head(), body + self._stream_end(framing))
        self._sent_whole()

    # Both.

    async def _drip(self, drip: Drip, opening: bytes, body: bytes) -> None:
        connection = self._connection
        if drip.head:
            body = opening + body
        else:
            connection.write(opening)
        due = asyncio.get_running_loop().time()
        for start in range(0, len(body), drip.size):
            connection.write(body[start : start + drip.size])
            due += drip.interval
            await sleep_until(due)

    def _headers(self, content_type: str) -> dict[str, str]:
        headers = {"content-type": self._script.content_type or content_type}
        if self._script.gzip:
            headers["content-encoding"] = "gzip"
        return headers
