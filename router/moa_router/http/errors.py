"""Errors on the wire."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import orjson

from moa_router.fusion.errors import APIError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from moa_router.telemetry.names import RequestOutcome

#: The request's fault; anything else is an upstream's, or ours.
_CLIENT_ERRORS = range(400, 500)


def error_body(error: APIError) -> bytes:
    """The body of an error response, in OpenAI's shape."""
    return orjson.dumps(error.body())


def error_headers(error: APIError) -> Mapping[str, str]:
    """Headers that belong to an error."""
    headers = {}
    if error.retry_after is not None:
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after)))
    if error.status == 401:  # noqa: PLR2004
        # RFC 9110, 15.5.2: without it a 401 is none
        headers["www-authenticate"] = "Bearer"
    return headers


def outcome_of(error: APIError) -> RequestOutcome:
    """How a request that ended with this error is counted."""
    if error.code == "overloaded":
        return "rejected"
    if error.status in {408, 504}:
        return "timeout"
    if error.status in _CLIENT_ERRORS and error.code != "rate_limit_exceeded":
        return "client_error"
    return "upstream_error"


def internal_error() -> APIError:
    """What a client is told of a defect of ours: nothing but the fact."""
    return APIError(500, "The router failed to serve this request; its log has the details.", code="internal_error")
