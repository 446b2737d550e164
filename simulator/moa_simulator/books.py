"""The books: what was asked, what was produced for it, and how it ended."""

import asyncio
import hashlib
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import TypedDict

from moa_simulator.wire.request import Request


@dataclass(slots=True)
class CallRecord:
    """One call, from its last request byte to its end.

    Attributes:
        id: Running number, from 1.
        connection: Running number of the connection it came by.
        path: Request path.
        model: The model it named, known or not.
        stream: Whether it streamed.
        n: How many choices it asked for.
        headers: Request headers by lower-case name; of a credential only the scheme and a hash.
        body: Raw request body.
        start: When its request was complete (`time.monotonic`, seconds).
        first_token: When its first token was produced.
        end: When it ended.
        outcome: `ok`, `cancelled` (the client left first), `rejected` (refused by the server), `fault:<kind>`, or
            `running`.
        status: Status sent; 0 when no head was.
        prompt_tokens: Length of the prompt.
        cached_tokens: How much of it the prefix cache had.
        completion_tokens: Tokens really produced, of all choices, reasoning included.
        reasoning_tokens: How many of them were reasoning.
        sent_tokens: How many of them were put on the wire.
        usage_sent: Whether the client was told the final usage.
    """

    id: int
    connection: int
    path: str
    model: str = ""
    stream: bool = False
    n: int = 1
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    start: float = 0.0
    first_token: float | None = None
    end: float | None = None
    outcome: str = "running"
    status: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    sent_tokens: int = 0
    usage_sent: bool = False

    @property
    def text(self) -> str:
        """The request body as text."""
        return self.body.decode(errors="replace")

    def as_dict(self) -> dict[str, object]:
        """Gives the record as JSON values, `body` as text."""
        return {**asdict(self), "body": self.text}


class Totals(TypedDict):
    """Sums over a model's calls since the last reset."""

    calls: int
    ok: int
    cancelled: int
    rejected: int
    faults: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    sent_tokens: int


class Books:
    """Keeps records (bounded) and totals (complete).

    Args:
        record: Keep records; totals are kept in any case.
        max_calls: How many records are kept.
    """

    def __init__(self, *, record: bool, max_calls: int) -> None:
        self._record = record
        self._calls: deque[CallRecord] = deque(maxlen=max_calls)
        self._totals: dict[str, Totals] = {}
        self._last_id = 0
        self._waiters: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []

    @property
    def calls(self) -> list[CallRecord]:
        """The records kept, oldest first; those of running calls included."""
        return list(self._calls)

    @property
    def totals(self) -> dict[str, Totals]:
        """Totals of ended calls by the model they named."""
        return self._totals

    def open(self, request: Request, connection: int, now: float) -> CallRecord:
        """Starts a call's record."""
        self._last_id += 1
        call = CallRecord(id=self._last_id, connection=connection, path=request.path, start=now)
        if self._record:
            call.headers = _presentable(request.headers)
            call.body = request.body
            self._calls.append(call)
            self._look_again()
        return call

    def close(self, call: CallRecord, now: float) -> None:
        """Ends a call's record and adds it up."""
        call.end = now
        totals = self._totals.get(call.model)
        if totals is None:
            totals = self._totals[call.model] = _zero()
        totals["calls"] += 1
        match call.outcome:
            case "ok":
                totals["ok"] += 1
            case "cancelled":
                totals["cancelled"] += 1
            case "rejected":
                totals["rejected"] += 1
            case _:
                totals["faults"] += 1
        totals["prompt_tokens"] += call.prompt_tokens
        totals["cached_tokens"] += call.cached_tokens
        totals["completion_tokens"] += call.completion_tokens
        totals["reasoning_tokens"] += call.reasoning_tokens
        totals["sent_tokens"] += call.sent_tokens
        self._look_again()

    def clear(self) -> None:
        """Forgets all records and totals."""
        self._calls.clear()
        self._totals.clear()

    async def until(self, predicate: Callable[[], bool], deadline: float) -> None:
        """Waits until something is true of the books; looks whenever a call begins or ends.

        Raises:
            TimeoutError: It was not within `deadline` seconds.
        """
        if predicate():
            return
        future = asyncio.get_running_loop().create_future()
        waiter = (predicate, future)
        self._waiters.append(waiter)
        try:
            await asyncio.wait_for(future, deadline)
        finally:
            self._waiters.remove(waiter)

    def _look_again(self) -> None:
        for predicate, future in self._waiters:
            if not future.done() and predicate():
                future.set_result(None)


def _zero() -> Totals:
    return Totals(
        calls=0,
        ok=0,
        cancelled=0,
        rejected=0,
        faults=0,
        prompt_tokens=0,
        cached_tokens=0,
        completion_tokens=0,
        reasoning_tokens=0,
        sent_tokens=0,
    )


def _presentable(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    shown: dict[str, str] = {}
    for raw_name, raw_value in headers:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        if name in ("authorization", "proxy-authorization"):
            value = _fingerprint(value)
        shown[name] = f"{shown[name]}, {value}" if name in shown else value
    return shown


def _fingerprint(credential: str) -> str:
    scheme, _, secret = credential.partition(" ")
    return f"{scheme} sha256:{hashlib.sha256(secret.encode('latin-1')).hexdigest()[:12]}"
