"""From what went wrong upstream to what the client is told. Nothing an upstream wrote is in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moa_router.fusion.errors import APIError

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

    from moa_router.upstream.failure import Failure

#: Who failed, in words ("member a", "upstream qwen"), and how.
Failed = tuple[str, "Failure"]


def as_error(failed: Sequence[Failed], *, what: str = "No model answered", fields: Container[str] = ()) -> APIError:
    """The error for a request whose every call failed.

    Args:
        failed: who failed and how, in the order it happened; not empty.
        what: how the message begins.
        fields: the fields the client sent, of which the error may name one.
    """
    outcomes = {failure.outcome for _, failure in failed}
    details = "; ".join(dict.fromkeys(f"{who} {failure.reason}" for who, failure in failed))
    message = f"{what}: {details}."
    if outcomes == {"rate_limited"}:
        return APIError(429, message, code="rate_limit_exceeded", retry_after=_longest_wait(failed))
    if any(failure.context_overflow for _, failure in failed) and outcomes == {"client_error"}:
        return APIError(400, message, code="context_length_exceeded", param="messages")
    if outcomes == {"client_error"}:
        param = next((param for _, failure in failed if (param := field_at_fault(failure, fields))), None)
        return APIError(400, message, code="upstream_refused", param=param)
    if outcomes == {"timeout"}:
        return APIError(504, message, code="upstream_timeout")
    return APIError(502, message, code="upstream_error")


def field_at_fault(failure: Failure, fields: Container[str]) -> str | None:
    """The field an upstream objected to, if it is one of the client's; any other name is the upstream's own affair."""
    if failure.param is None:
        return None
    root = failure.param.split(".", 1)[0].split("[", 1)[0]
    return failure.param if root == "messages" or root in fields else None


def _longest_wait(failed: Sequence[Failed]) -> float:
    return max((failure.retry_after or 1.0 for _, failure in failed), default=1.0)
