"""Scripts and faults: which calls a rule is for, and what it does to them."""

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Final, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, model_validator


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(slots=True, frozen=True)
class Facts:
    """What rules look at.

    Attributes:
        path: The request's path.
        body: Its raw body.
        generates: Whether the path generates.
        model: The model it names.
        stream: Whether it wants a stream.
        n: How many choices it wants.
    """

    path: str
    body: bytes
    generates: bool
    model: str = ""
    stream: bool = False
    n: int = 1


class Match(_Strict):
    """The calls that a rule is for; whatever is left out matches everything.

    Attributes:
        model: The requested model's name.
        stream: Whether the call streams.
        contains: Text that occurs in the raw request body.
        path: The request's path; left out, every path that generates.
        n_gt: The call asks for more than this many choices.
    """

    model: str | None = None
    stream: bool | None = None
    contains: str | None = None
    path: str | None = None
    n_gt: int | None = None

    def accepts(self, call: Facts) -> bool:
        """Says whether a call is one of them."""
        return (
            self.model in (None, call.model)
            and self.stream in (None, call.stream)
            and (call.generates if self.path is None else self.path == call.path)
            and (self.n_gt is None or call.n > self.n_gt)
            and (self.contains is None or self.contains.encode() in call.body)
        )


class Status(_Strict):
    """Answers with a status and no generation; without a body, an error as vLLM words it."""

    code: int = Field(ge=200, le=599)
    body: JsonValue = None
    headers: dict[str, str] = {}


class After(_Strict):
    """When a fault strikes.

    Attributes:
        after: None: before the response's head. 0: right after the head. k: after k events of a stream; an unstreamed
            answer stops half-way through its body instead.
    """

    after: int | None = Field(default=None, ge=0)


class AfterEvents(_Strict):
    """When a fault inside a stream strikes: after so many events; an unstreamed answer is spoilt as a whole."""

    after: int = Field(default=0, ge=0)


class ErrorEvent(AfterEvents):
    """An error inside a response whose status was 200; the stream ends there."""

    message: str = "The engine died"
    code: int = 500


class Garbage(AfterEvents):
    """An event that is not JSON; the stream goes on after it."""

    text: str = '{"id": "chatcmpl-'


class Drip(_Strict):
    """The response, `size` bytes every `interval` seconds; with `head`, its head too."""

    interval: float = Field(default=0.01, gt=0)
    size: int = Field(default=1, ge=1)
    head: bool = False


class Piece(_Strict):
    """Exact bytes, as text or base64, and how long to wait after them."""

    text: str = ""
    base64: str = ""
    sleep: float = Field(default=0.0, ge=0)

    def data(self) -> bytes:
        """Gives the bytes."""
        return base64.b64decode(self.base64) if self.base64 else self.text.encode()


class Raw(_Strict):
    """Exact bytes on the connection instead of a response, which is then closed unless `keep_open`."""

    pieces: tuple[Piece, ...] = Field(min_length=1)
    keep_open: bool = False


class ScriptedCall(_Strict):
    """A tool call to answer with."""

    name: str
    arguments: str = "{}"


class Reply(_Strict):
    """The answer's exact words.

    Attributes:
        text: What every choice says.
        texts: What each choice says, by index, from the start again when there are more choices.
        tool_calls: The tools every choice calls.
        reasoning: What every choice thinks first.
    """

    text: str | None = None
    texts: tuple[str, ...] = ()
    tool_calls: tuple[ScriptedCall, ...] = ()
    reasoning: str = ""

    def words(self, index: int) -> str:
        """Gives the text of one choice."""
        if self.texts:
            return self.texts[index % len(self.texts)]
        return self.text or ""


def _short(field: str) -> BeforeValidator:
    """Lets `status: 503` stand for `status: {code: 503}`, and `reset: true` for `reset: {}`."""

    def expand(value: object) -> object:
        if value is True:
            return {}
        return {field: value} if isinstance(value, int | float | str) else value

    return BeforeValidator(expand)


class Huge(_Strict):
    """An answer of this size in one piece (one event of a stream)."""

    megabytes: float = Field(gt=0, le=512)


class Redirect(_Strict):
    """Sends the client elsewhere (RFC 9110, 307)."""

    location: str
    code: int = Field(default=307, ge=300, le=399)


class Action(_Strict):
    """What happens to a call. Scripts may be combined freely, and with one fault.

    Scripts are `reply`, `delay` (extra seconds before the first token) and `inter_token`; the rest are faults.
    `no_done`, `missing_usage`, `fewer_choices` (how many are returned), `content_type` and `gzip` change an otherwise
    whole answer and may be combined too.
    """

    reply: Annotated[Reply | None, _short("text")] = None
    delay: float = Field(default=0.0, ge=0)
    inter_token: float | None = Field(default=None, ge=0)
    no_done: bool = False
    missing_usage: bool = False
    fewer_choices: int | None = Field(default=None, ge=0)
    content_type: str | None = None
    gzip: bool = False
    huge: Annotated[Huge | None, _short("megabytes")] = None
    status: Annotated[Status | None, _short("code")] = None
    redirect: Annotated[Redirect | None, _short("location")] = None
    raw: Raw | None = None
    reset: Annotated[After | None, _short("after")] = None
    hang: Annotated[After | None, _short("after")] = None
    drip: Annotated[Drip | None, _short("interval")] = None
    garbage: Annotated[Garbage | None, _short("after")] = None
    cut: Annotated[AfterEvents | None, _short("after")] = None
    error_event: Annotated[ErrorEvent | None, _short("after")] = None

    @model_validator(mode="after")
    def _one_fault(self) -> Self:
        faults = [name for name in _EXCLUSIVE if getattr(self, name) is not None]
        if len(faults) > 1:
            raise ValueError(f"{' and '.join(faults)} exclude each other; write one rule for each")
        return self

    @property
    def fault(self) -> str | None:
        """Name of the fault this action commits, if it commits one."""
        return next((name for name in _FAULTS if getattr(self, name) not in (None, False)), None)


_EXCLUSIVE: Final = ("status", "redirect", "raw", "reset", "hang", "drip", "garbage", "cut", "error_event")
_FAULTS: Final = (*_EXCLUSIVE, "huge", "no_done", "missing_usage", "fewer_choices", "content_type", "gzip")


class Rule(_Strict):
    """One line of the script.

    Attributes:
        match: The calls it is for.
        times: How many of them it is for before it is spent; None is all.
        action: What happens to them.
    """

    match: Match = Match()
    times: int | None = Field(default=None, ge=1)
    action: Action


class Rulebook:
    """The rules in force. The first that matches and is not spent decides, alone."""

    __slots__ = ("_left", "_rules")

    def __init__(self, rules: Iterable[Rule | Mapping[str, object]] = ()) -> None:
        self.replace(rules)

    def __bool__(self) -> bool:
        return bool(self._rules)

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The rules, spent ones included."""
        return self._rules

    def replace(self, rules: Iterable[Rule | Mapping[str, object]]) -> None:
        """Puts other rules in force.

        Raises:
            pydantic.ValidationError: A rule does not fit; the old ones stay.
        """
        self._rules = tuple(Rule.model_validate(rule) for rule in rules)
        self._left = [rule.times for rule in self._rules]

    def take(self, call: Facts) -> Action | None:
        """Finds what happens to a call and uses the rule up by one."""
        for position, rule in enumerate(self._rules):
            left = self._left[position]
            if left == 0 or not rule.match.accepts(call):
                continue
            if left is not None:
                self._left[position] = left - 1
            return rule.action
        return None
