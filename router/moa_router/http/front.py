"""The client port: aiohttp's low-level server with a table of routes.

An application's router, middlewares and signals cost a fifth of what a relayed request costs in all, and there are a
handful of fixed paths to serve. What aiohttp would refuse by itself (a request that is not HTTP, no such route, a
wrong method) is refused here in the shape of every other error.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from aiohttp import web

from moa_router.fusion.errors import APIError
from moa_router.http.access import AccessLog
from moa_router.http.errors import error_body
from moa_router.http.ids import request_id
from moa_router.http.wire import BytesResponse, encode_headers

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

logger = logging.getLogger(__name__)


class Front(web.Server):
    """Serves a table of routes.

    Args:
        routes: handlers by path and method. A path that ends with `/` takes everything below it that has no entry
            of its own.
        options: options of aiohttp's request handler: limits, time-outs, access log.
    """

    def __init__(self, routes: Mapping[str, Mapping[str, Handler]], **options: Any) -> None:  # noqa: ANN401 - aiohttp's
        # bodies are taken as they come: nobody gets to unpack a bomb in here
        self._options = {**options, "access_log_class": AccessLog, "auto_decompress": False}
        super().__init__(self._dispatch, handler_cancellation=True, **self._options)
        self._routes = {path: dict(methods) for path, methods in routes.items()}
        self._prefixes = [path for path in routes if path.endswith("/")]

    def __call__(self) -> web.RequestHandler:
        """Make the protocol of a new connection."""
        return _Connection(self, loop=self._loop, **self._options)

    async def _dispatch(self, request: web.BaseRequest) -> web.StreamResponse:
        methods = self._routes.get(request.raw_path) or self._find(request.path)
        if methods is None:
            return _refuse(request, APIError(404, f"There is no {request.path[:128]!r} here.", code="not_found"))
        handler = methods.get(request.method)
        if handler is None:
            message = f"{request.path[:128]!r} does not take {request.method[:32]}."
            allow = f"allow: {', '.join(methods)}\r\n".encode()
            return _refuse(request, APIError(405, message, code="method_not_allowed"), allow)
        return await handler(request)

    def _find(self, path: str) -> Mapping[str, Handler] | None:
        prefix = next((prefix for prefix in self._prefixes if path.startswith(prefix) and path != prefix), None)
        return self._routes.get(path if prefix is None else prefix)


class _Connection(web.RequestHandler):
    """A client's connection."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer a request that is not HTTP, or that met a defect of ours, and close the connection."""
        del message
        logger.debug("not a request", extra={"status": status, "error": type(exc).__name__})
        text = "The request is not valid HTTP." if status < 500 else "The router failed to serve this request."  # noqa: PLR2004
        return _refuse(request, APIError(status, text, code="invalid_http" if status < 500 else "internal_error"))  # noqa: PLR2004


def _refuse(request: web.BaseRequest, error: APIError, headers: bytes = b"") -> web.StreamResponse:
    keep_alive = request.keep_alive and error.status in {404, 405}
    # RFC 9110, 9.3.2: there is no body behind the answer to HEAD, and a client would take it for the next answer
    body = b"" if request.method == "HEAD" else error_body(error)
    identified = encode_headers({"x-request-id": request_id(request.headers)}) + headers
    return BytesResponse(error.status, body, identified, keep_alive=keep_alive)
