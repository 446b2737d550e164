"""What can go wrong between us and the API server."""

from http import HTTPStatus

_TRANSIENT = frozenset(
    {
        HTTPStatus.REQUEST_TIMEOUT,
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.INTERNAL_SERVER_ERROR,
        HTTPStatus.BAD_GATEWAY,
        HTTPStatus.SERVICE_UNAVAILABLE,
        HTTPStatus.GATEWAY_TIMEOUT,
    }
)


class KubeError(Exception):
    """A call came to nothing."""

    transient: bool
    """Whether the same call may work a little later."""


class Unreachable(KubeError):  # noqa: N818 - what it says is a state
    """The API server was not reached, went away or did not answer in time."""

    transient = True


class Refused(KubeError):  # noqa: N818 - what it says is an outcome
    """The API server answered, and the answer is no.

    Attributes:
        status: HTTP status.
        reason: Kubernetes' word for it, such as ``AlreadyExists``; empty where the server gave none.
        message: What the server said.
        retry_after: Seconds it asks to wait before another try; None where it does not.
    """

    def __init__(self, status: int, reason: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after = retry_after

    @property
    def transient(self) -> bool:  # type: ignore[override] # it follows from the status
        """Whether the same call may work a little later."""
        return self.status in _TRANSIENT

    @property
    def absent(self) -> bool:
        """Whether there is no such object, or no such kind."""
        return self.status == HTTPStatus.NOT_FOUND

    @property
    def conflict(self) -> bool:
        """Whether the object has changed since it was read, or exists already."""
        return self.status == HTTPStatus.CONFLICT

    @property
    def expired(self) -> bool:
        """Whether a list has to start again from its beginning."""
        return self.status == HTTPStatus.GONE

    @property
    def forbidden(self) -> bool:
        """Whether the operator lacks a right."""
        return self.status == HTTPStatus.FORBIDDEN
