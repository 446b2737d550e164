"""From what went wrong upstream to what the client is told."""

import pytest

from moa_router.fusion.failures import Failed, as_error
from moa_router.upstream.failure import Failure

TIMEOUT = Failure("timeout", "timed out")
RESET = Failure("reset", "closed the connection")
BUSY = Failure("rate_limited", "answered 429 (rate limited)", 429)
BROKEN = Failure("server_error", "answered 503", 503, retry_after=90)
REFUSED = Failure("client_error", "answered 400", 400, param="top_k")
OVERFLOW = Failure("client_error", "cannot hold the prompt in its context window", 400, context_overflow=True)


def named(*failures: Failure) -> list[Failed]:
    return [(f"member {name}", failure) for name, failure in zip("abcd", failures, strict=False)]


@pytest.mark.parametrize(
    ("failures", "status", "code", "kind"),
    [
        ((TIMEOUT, TIMEOUT), 504, "upstream_timeout", "timeout_error"),
        ((BUSY, BUSY), 429, "rate_limit_exceeded", "rate_limit_error"),
        ((OVERFLOW, OVERFLOW), 400, "context_length_exceeded", "invalid_request_error"),
        ((OVERFLOW, REFUSED), 400, "context_length_exceeded", "invalid_request_error"),
        ((REFUSED,), 400, "upstream_refused", "invalid_request_error"),
        ((BROKEN,), 502, "upstream_error", "api_error"),
        ((RESET, TIMEOUT), 502, "upstream_error", "api_error"),
        ((BUSY, TIMEOUT), 502, "upstream_error", "api_error"),
        ((REFUSED, BROKEN), 502, "upstream_error", "api_error"),
        ((OVERFLOW, TIMEOUT), 502, "upstream_error", "api_error"),
    ],
)
def test_the_status_says_whose_fault_it_was(failures: tuple[Failure, ...], status: int, code: str, kind: str) -> None:
    error = as_error(named(*failures))
    assert (error.status, error.code, error.type) == (status, code, kind)


def test_the_message_says_who_failed_and_how() -> None:
    error = as_error(named(TIMEOUT, RESET, BUSY), what="Nobody answered")
    assert error.message == (
        "Nobody answered: member a timed out; member b closed the connection; member c answered 429 (rate limited)."
    )


def test_the_same_is_said_once() -> None:
    assert as_error([("member a", TIMEOUT)] * 3).message == "No model answered: member a timed out."


def test_asks_to_wait_as_long_as_the_longest() -> None:
    waits = [Failure("rate_limited", "busy", 429, retry_after=seconds) for seconds in (2.0, 30.0, None)]
    assert as_error(named(*waits)).retry_after == 30.0
    assert as_error(named(BUSY)).retry_after == 1.0


def test_names_the_field_an_upstream_refused_if_it_is_the_clients() -> None:
    assert as_error(named(REFUSED), fields={"top_k"}).param == "top_k"
    assert as_error(named(REFUSED), fields={"top_p"}).param is None
    deep = Failure("client_error", "answered 400", 400, param="tools[0].function.name")
    assert as_error(named(deep), fields={"tools"}).param == "tools[0].function.name"
    of_ours = Failure("client_error", "answered 400", 400, param="messages[1].content")
    assert as_error(named(of_ours)).param == "messages[1].content"
    assert as_error(named(OVERFLOW)).param == "messages"
    assert as_error(named(BROKEN)).param is None
