"""What became of an upstream call, in our words.

Nothing an upstream wrote leaves this module: its error text is read to tell a context overflow from a refused
parameter, and then dropped.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Literal

import orjson

if TYPE_CHECKING:
    from collections.abc import Mapping

    from moa_router.telemetry.names import CallOutcome
    from moa_router.upstream.transport import TransportError

#: What an upstream may turn out not to be able to do, beside the capabilities a profile can declare.
Feature = Literal["Vision", "Tools", "StructuredOutput", "MultipleChoices", "UsageStream"]

MAX_RETRY_AFTER = 3600.0

_CONTEXT = re.compile(
    r"context.length|context size|context window|maximum.{0,20}tokens|max_model_len|exceed_context|too many tokens"
    r"|(?:prompt|input|messages?) (?:is|are) too long|`inputs`(?: tokens \+|.{0,20}less than \d+ tokens)",
    re.IGNORECASE,
)
_REFUSALS: tuple[tuple[Feature, re.Pattern[str]], ...] = (
    ("UsageStream", re.compile(r"stream_options|continuous_usage_stats", re.IGNORECASE)),
    ("Vision", re.compile(r"\bimages?\b|image_url|multi-?modal|\bvision\b", re.IGNORECASE)),
    ("Tools", re.compile(r"\btools?\b|tool[_-]choice|tool-call", re.IGNORECASE)),
    ("StructuredOutput", re.compile(r"response_format|json_schema|structured|guided|grammar", re.IGNORECASE)),
    (
        "MultipleChoices",
        re.compile(
            r"(?:^|[\s'\"`(])n(?:$|[\s'\"`)=>:])|number of (?:choices|completions)|one completion choice|best_of",
            re.IGNORECASE,
        ),
    ),
)
#: llama.cpp of 2025 says this with a 500.
_OVERFLOW_TYPE = "exceed_context_size_error"
_PARAM = re.compile(r"^[A-Za-z_][A-Za-z0-9_.\[\]]{0,63}$")
#: llama.cpp takes as many choices as it has slots: more than one is no missing capability.
_TOO_MANY_CHOICES = re.compile(r"value <= (?!1\b)\d+")
#: llama.cpp names the field in its message alone.
_NAMED_FIELD = re.compile(r"Field '([^']*)': ")


@dataclass(slots=True, frozen=True)
class Failure:
    """Why a call gave no answer.

    Attributes:
        outcome: the class it is counted under.
        reason: a few words of ours for error messages and logs ("timed out", "answered 503").
        status: the HTTP status the upstream sent, if it got that far.
        retry_after: seconds the upstream asked us to stay away.
        param: the request field the upstream objected to, by its own word.
        context_overflow: the prompt does not fit the model's context window.
        refused: the feature it seems to lack.
        unsent: the request did not reach the upstream.
    """

    outcome: CallOutcome
    reason: str
    status: int | None = None
    retry_after: float | None = None
    param: str | None = None
    context_overflow: bool = False
    refused: Feature | None = None
    unsent: bool = False


def from_transport(error: TransportError) -> Failure:
    """Say what a broken exchange means for its call."""
    match error.kind:
        case "connect_timeout":
            return Failure("timeout", "could not be reached in time", unsent=True)
        case "connect" | "tls":
            reason = "could not be reached" if error.kind == "connect" else "failed its TLS handshake"
            return Failure("reset", reason, unsent=True)
        case "invalid":
            return Failure("invalid", "sent something that is not HTTP")
        case _:
            return Failure("reset", "closed the connection")


def from_response(status: int, headers: Mapping[str, str], body: bytes) -> Failure:
    """Classify an HTTP response that is not a 200.

    The wording of vLLM, llama.cpp, SGLang, TGI and OpenAI is known; anything else falls back on the status alone.
    """
    return from_error(status, _error_object(body), parse_retry_after(headers.get("retry-after")))


def from_error(status: int, error: Mapping[str, object], retry_after: float | None = None) -> Failure:
    """Classify an OpenAI error object, from a response's body or from an event inside a stream."""
    reason = f"answered {status}"
    if status == 429:  # noqa: PLR2004 - HTTP's own numbers read better than names here
        return Failure("rate_limited", "answered 429 (rate limited)", status, retry_after)
    text = " ".join(str(error.get(key) or "") for key in ("message", "code", "type"))
    refused = next((feature for feature, pattern in _REFUSALS if pattern.search(text)), None)
    if refused == "MultipleChoices" and _TOO_MANY_CHOICES.search(text):
        refused = None
    if status not in {400, 413, 422} and error.get("type") != _OVERFLOW_TYPE:
        # llama.cpp refuses images and tools with a 500
        return Failure("server_error", reason, status, retry_after, refused=refused)
    overflow = status == 413 or _CONTEXT.search(text) is not None  # noqa: PLR2004
    param = error.get("param") or _named_field(error)
    return Failure(
        "client_error",
        "cannot hold the prompt in its context window" if overflow else reason,
        status,
        param=param if isinstance(param, str) and _PARAM.match(param) else None,
        context_overflow=overflow,
        refused=None if overflow else refused,
    )


def _named_field(error: Mapping[str, object]) -> str | None:
    named = _NAMED_FIELD.match(str(error.get("message")))
    return named[1] if named is not None else None


def parse_retry_after(value: str | None) -> float | None:
    """Seconds of a `Retry-After` header (RFC 9110 10.2.3), as a number or a date; None if absent or senseless."""
    if value is None:
        return None
    try:
        seconds = float(value) if not value.endswith("GMT") else _seconds_until(value)
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(seconds, 0.0), MAX_RETRY_AFTER) if seconds == seconds else None  # noqa: PLR0124 - not a number


def _seconds_until(date: str) -> float:
    import time  # noqa: PLC0415 - only dates need the wall clock

    return parsedate_to_datetime(date).timestamp() - time.time()


def _error_object(body: bytes) -> Mapping[str, object]:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {"message": body[:2048].decode("utf-8", "replace")}
    if not isinstance(document, dict):
        return {}
    error = document.get("error", document)
    if isinstance(error, dict):
        return error if "message" in error or "detail" not in error else {"message": error["detail"]}
    return {"message": error}
