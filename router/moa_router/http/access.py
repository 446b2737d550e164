"""The access log: one line for each request, if asked for.

It says how a request went, in facts of ours. aiohttp's own line would quote the client's headers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web
from aiohttp.abc import AbstractAccessLogger

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Mapping

#: What a handler knows of its request, asked for when the line is written.
FACTS: web.RequestKey[Callable[[], Mapping[str, object]]] = web.RequestKey("facts")


class AccessLog(AbstractAccessLogger):
    """Writes the line.

    Args:
        logger: where it goes.
        log_format: aiohttp's; there is nothing to format.
    """

    def __init__(self, logger: logging.Logger, log_format: str = "") -> None:
        super().__init__(logger, log_format)

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        """Write it: method, path, status, bytes of the body, seconds, and what the handler knows."""
        facts = request.get(FACTS)
        self.logger.info(
            "request",
            extra={
                "method": request.method,
                "path": request.path,
                "status": response.status,
                "bytes": response.body_length,
                "seconds": round(time, 6),
                **(facts() if facts is not None else {}),
            },
        )
