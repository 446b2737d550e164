"""Errors a client sees, in OpenAI's shape."""

from __future__ import annotations

from typing import Literal

ErrorType = Literal[
    "invalid_request_error",
    "authentication_error",
    "permission_error",
    "not_found_error",
    "rate_limit_error",
    "api_error",
    "timeout_error",
    "service_unavailable_error",
]

_TYPES: dict[int, ErrorType] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    429: "rate_limit_error",
    503: "service_unavailable_error",
    504: "timeout_error",
}


class APIError(Exception):
    """An error to be told to the client.

    Args:
        status: the HTTP status.
        message: what is wrong and what to do about it, in our words.
        code: a short machine-readable word.
        param: the request field at fault.
        retry_after: seconds after which trying again makes sense.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.retry_after = retry_after

    @property
    def type(self) -> ErrorType:
        """OpenAI's class of the error."""
        return _TYPES.get(self.status) or ("api_error" if self.status >= 500 else "invalid_request_error")  # noqa: PLR2004

    def body(self) -> dict[str, object]:
        """The error object, as it goes on the wire."""
        return {"error": {"message": self.message, "type": self.type, "code": self.code, "param": self.param}}


def model_not_found(name: str) -> APIError:
    """A 404 for a model that nobody here answers to."""
    return APIError(404, f"The model {name[:128]!r} does not exist.", code="model_not_found", param="model")


def bad_request(message: str, param: str | None = None, code: str | None = None) -> APIError:
    """A 400 that names the field at fault."""
    return APIError(400, message, param=param, code=code)
