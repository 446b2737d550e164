"""The server: paths, models, books and rules together."""

import asyncio
import hmac
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count
from types import TracebackType
from typing import Final, Self, TypeVar

from pydantic import TypeAdapter, ValidationError

from moa_simulator import vocabulary
from moa_simulator.api import CHAT, COMPLETIONS, EMBEDDINGS, Endpoint
from moa_simulator.books import Books, CallRecord, Totals
from moa_simulator.config import SimulatorConfig
from moa_simulator.engine import Engine
from moa_simulator.exchange import PLAIN, Exchange
from moa_simulator.faults import strike_early, strikes_early
from moa_simulator.metrics import exposition
from moa_simulator.protocol.answer import encode_json
from moa_simulator.protocol.errors import RefusalError, error_body, overloaded, unknown_model
from moa_simulator.protocol.requests import (
    Asked,
    EmbeddingRequest,
    Sampling,
    TokenizeRequest,
    glance,
    parse,
    tokenize_decoder,
)
from moa_simulator.rules import Action, Facts, Rule, Rulebook
from moa_simulator.template import render
from moa_simulator.tokens import token_ids, tokenize
from moa_simulator.wire.connection import Answering, Connection, Handler, send
from moa_simulator.wire.request import Request

VERSION: Final = "0.12.0"
"""The vLLM version that `/version` claims."""

_Body = TypeVar("_Body", bound=Sampling | EmbeddingRequest)
_rules_adapter: TypeAdapter[list[Rule]] = TypeAdapter(list[Rule])
_OWN_PATHS: Final = "/sim/"
_METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_TEXT_TYPE: Final = "text/plain; charset=utf-8"


class Simulator:
    """A simulated vLLM server; an async context manager that serves while it is entered.

    Args:
        config: What it serves; one model named `sim` without one.
        host: Address to listen on.
        port: Port to listen on; 0 picks a free one.
    """

    def __init__(self, config: SimulatorConfig | None = None, host: str = "127.0.0.1", port: int = 0) -> None:
        self.config = config or SimulatorConfig()
        self._host = host
        self._port = port
        self._engines = {model.name: Engine(model) for model in self.config.models}
        self._books = Books(record=self.config.record, max_calls=self.config.max_calls)
        self._rulebook = Rulebook(self.config.rules)
        self._connections: set[Connection] = set()
        self._serial = count(1)
        self._created = int(time.time())
        self._server: asyncio.Server | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._generating: dict[tuple[str, str], Handler] = {
            ("POST", "/v1/chat/completions"): self._route(CHAT),
            ("POST", "/v1/completions"): self._route(COMPLETIONS),
            ("POST", "/v1/embeddings"): self._route(EMBEDDINGS),
        }
        self._plain: dict[tuple[str, str], Callable[[Request, Connection], None]] = {
            ("GET", "/v1/models"): self._models,
            ("POST", "/tokenize"): self._tokenize,
            ("GET", "/health"): self._healthy,
            ("GET", "/ping"): self._healthy,
            ("GET", "/version"): self._version,
            ("GET", "/metrics"): self._metrics,
            ("GET", "/sim/calls"): self._show_calls,
            ("GET", "/sim/books"): self._show_books,
            ("GET", "/sim/rules"): self._show_rules,
            ("POST", "/sim/rules"): self._replace_rules,
            ("POST", "/sim/reset"): self._reset,
        }

    # What tests hold in their hands.

    @property
    def port(self) -> int:
        """The port it listens on."""
        if self._server is None:
            raise RuntimeError("the simulator does not listen yet; enter it with `async with`")
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def url(self) -> str:
        """Its address, without `/v1`."""
        return f"http://{self._host}:{self.port}"

    @property
    def calls(self) -> list[CallRecord]:
        """Records of calls, oldest first, running ones included."""
        return self._books.calls

    @property
    def totals(self) -> Mapping[str, Totals]:
        """Totals of ended calls by model."""
        return self._books.totals

    @property
    def open_connections(self) -> int:
        """How many clients are connected."""
        return len(self._connections)

    def engine(self, model: str) -> Engine:
        """Gives a model's engine: its slots, its cache."""
        return self._engines[model]

    def set_rules(self, rules: Iterable[Rule | Mapping[str, object]]) -> None:
        """Puts other rules in force.

        Raises:
            pydantic.ValidationError: A rule does not fit; the old ones stay.
        """
        self._rulebook.replace(rules)

    def reset(self) -> None:
        """Forgets records, totals, rules and cached prefixes; running calls go on."""
        self._books.clear()
        self._rulebook.replace(())
        for engine in self._engines.values():
            engine.reset()

    async def until(self, predicate: Callable[[], bool], deadline: float = 10.0) -> None:
        """Waits until something is true of the books; looks whenever a call begins or ends.

        Raises:
            TimeoutError: It was not within `deadline` seconds.
        """
        await self._books.until(predicate, deadline)

    # Life.

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Begins to listen."""
        vocabulary.prepare()
        numbers = count(1)
        self._server = await asyncio.get_running_loop().create_server(
            lambda: Connection(next(numbers), self._handle, self._connections, self.config.max_body),
            self._host,
            self._port,
            backlog=1024,
        )
        self._sweep()

    async def stop(self) -> None:
        """Stops listening and drops every connection; what was being answered ends as cancelled."""
        if self._server is None:
            return
        self._server.close()
        if self._sweeper is not None:
            self._sweeper.cancel()
        await asyncio.gather(*(connection.abort() for connection in tuple(self._connections)))
        await self._server.wait_closed()
        self._server = None

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        oldest = loop.time() - self.config.keep_alive
        for connection in tuple(self._connections):
            if connection.idle_since is not None and connection.idle_since <= oldest:
                connection.close()
        self._sweeper = loop.call_later(max(0.01, self.config.keep_alive / 4), self._sweep)

    # Requests.

    def _handle(self, request: Request, connection: Connection) -> Answering:
        if self.config.api_key is not None and request.path.startswith("/v1") and not self._authorised(request):
            send(connection, 401, b'{"error":"Unauthorized"}')
            return None
        target = (request.method, request.path)
        if (generate := self._generating.get(target)) is not None:
            return generate(request, connection)
        if not request.path.startswith(_OWN_PATHS):
            script = self._script(request, Asked(), generates=False)
            if strikes_early(script):
                return strike_early(connection, script)
        if (show := self._plain.get(target)) is not None:
            show(request, connection)
        elif any(path == request.path for _, path in (*self._generating, *self._plain)):
            send(connection, 405, b'{"detail":"Method Not Allowed"}')
        else:
            send(connection, 404, b'{"detail":"Not Found"}')
        return None

    def _authorised(self, request: Request) -> bool:
        expected = f"Bearer {self.config.api_key}".encode()
        return hmac.compare_digest(request.header(b"authorization"), expected)

    def _route(self, endpoint: Endpoint[_Body]) -> Handler:
        def generate(request: Request, connection: Connection) -> Answering:
            call = self._books.open(request, connection.number, time.monotonic())
            try:
                return self._generate(endpoint, request, connection, call)
            except RefusalError as refusal:
                self._reject(connection, call, refusal)
                return None

        return generate

    def _generate(
        self, endpoint: Endpoint[_Body], request: Request, connection: Connection, call: CallRecord
    ) -> Answering:
        body = _read(endpoint, request.body)
        asked = glance(request.body) if isinstance(body, RefusalError) else _asked(body)
        call.model, call.stream, call.n = asked.model, asked.stream, asked.n
        script = self._script(request, asked, generates=True)
        if strikes_early(script):
            return self._strike_early(connection, call, script)
        if isinstance(body, RefusalError):
            raise body
        engine = self._engines.get(body.model)
        if engine is None:
            raise unknown_model(body.model)
        if engine.full:
            raise overloaded(engine.waiting)
        answer = endpoint.answer(engine.config, body, self._answer_id(endpoint, request), script)
        call.prompt_tokens = answer.generation.prompt_tokens
        exchange = Exchange(connection, engine=engine, books=self._books, call=call, answer=answer, script=script)
        return None if exchange.run_now() else exchange.run()

    def _script(self, request: Request, asked: Asked, *, generates: bool) -> Action:
        if not self._rulebook:
            return PLAIN
        facts = Facts(request.path, request.body, generates, asked.model, asked.stream, asked.n)
        return self._rulebook.take(facts) or PLAIN

    def _answer_id(self, endpoint: Endpoint[_Body], request: Request) -> str:
        given = request.header(b"x-request-id")
        return endpoint.id_prefix + (given.decode("latin-1") or f"{self._created:016x}{next(self._serial):016x}")

    def _reject(self, connection: Connection, call: CallRecord, refusal: RefusalError) -> None:
        send(connection, refusal.status, refusal.body())
        call.status, call.outcome = refusal.status, "rejected"
        self._books.close(call, time.monotonic())

    async def _strike_early(self, connection: Connection, call: CallRecord, script: Action) -> None:
        outcome = "cancelled"
        try:
            call.status = await strike_early(connection, script)
            outcome = f"fault:{script.fault}"
        finally:
            call.outcome = outcome
            self._books.close(call, time.monotonic())

    # The rest of vLLM's paths.

    def _models(self, _request: Request, connection: Connection) -> None:
        cards = [
            {
                "id": engine.config.name,
                "object": "model",
                "created": self._created,
                "owned_by": "vllm",
                "root": engine.config.name,
                "parent": None,
                "max_model_len": engine.config.max_model_len,
            }
            for engine in self._engines.values()
        ]
        send(connection, 200, encode_json({"object": "list", "data": cards}))

    def _tokenize(self, request: Request, connection: Connection) -> None:
        try:
            body = parse(tokenize_decoder, request.body)
            engine = self._engines.get(body.model) if body.model else next(iter(self._engines.values()))
            if engine is None:
                raise unknown_model(body.model)
        except RefusalError as refusal:
            send(connection, refusal.status, refusal.body())
            return
        tokens = _tokens_of(body, engine)
        answer = {
            "count": len(tokens),
            "max_model_len": engine.config.max_model_len,
            "tokens": token_ids(tokens),
            "token_strs": tokens if body.return_token_strs else None,
        }
        send(connection, 200, encode_json(answer))

    def _healthy(self, _request: Request, connection: Connection) -> None:
        send(connection, 200, b"")

    def _version(self, _request: Request, connection: Connection) -> None:
        send(connection, 200, encode_json({"version": VERSION}))

    def _metrics(self, _request: Request, connection: Connection) -> None:
        body = exposition({name: engine.metrics for name, engine in self._engines.items()})
        send(connection, 200, body, _METRICS_TYPE)

    # The simulator's own paths.

    def _show_calls(self, _request: Request, connection: Connection) -> None:
        send(connection, 200, encode_json([call.as_dict() for call in self._books.calls]))

    def _show_books(self, _request: Request, connection: Connection) -> None:
        send(connection, 200, encode_json(self._books.totals))

    def _show_rules(self, _request: Request, connection: Connection) -> None:
        send(connection, 200, _rules_adapter.dump_json(list(self._rulebook.rules), exclude_defaults=True))

    def _replace_rules(self, request: Request, connection: Connection) -> None:
        try:
            self._rulebook.replace(_rules_adapter.validate_json(request.body))
        except ValidationError as error:
            places = (".".join(map(str, ("rules", *problem["loc"]))) for problem in error.errors())
            problems = [f"{place}: {problem['msg']}" for place, problem in zip(places, error.errors(), strict=True)]
            send(connection, 400, error_body(400, "; ".join(problems), "BadRequestError"))
            return
        self._show_rules(request, connection)

    def _reset(self, _request: Request, connection: Connection) -> None:
        self.reset()
        send(connection, 200, b"", _TEXT_TYPE)


def _read(endpoint: Endpoint[_Body], raw: bytes) -> _Body | RefusalError:
    try:
        return parse(endpoint.decoder, raw)
    except RefusalError as refusal:
        return refusal


def _asked(body: Sampling | EmbeddingRequest) -> Asked:
    if isinstance(body, Sampling):
        return Asked(body.model, bool(body.stream), body.choices)
    return Asked(body.model)


def _tokens_of(body: TokenizeRequest, engine: Engine) -> Sequence[str]:
    if body.messages is not None:
        return render(body.messages, body.tools or (), engine.config.image_tokens)
    return tokenize(body.prompt or "")
