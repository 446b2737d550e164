"""Reading request bodies within bounds of size and time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aiohttp.http import HttpVersion11

from moa_router.fusion.errors import APIError

if TYPE_CHECKING:
    from aiohttp import web

#: Seconds a client may take to send its body.
BODY_TIMEOUT = 30.0


async def read_body(request: web.BaseRequest, limit: int) -> bytes:
    """Read a request's body.

    Args:
        request: whose body it is.
        limit: bytes at which it is refused, whatever length it claims to have.

    Raises:
        APIError: 413 when it is too large, 408 when it does not come, 400 when it breaks off, 415-like refusals of
            compressed bodies as 400.
    """
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise APIError(400, "Compressed bodies are not taken: send the body as it is.", code="unsupported_encoding")
    length = request.content_length
    if length is not None and length > limit:
        raise _too_large(limit)
    content = request.content
    if content.is_eof() and length is not None:
        return content.read_nowait()
    _let_come(request)
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            return await _read_all(request, limit)
    except TimeoutError:
        raise APIError(
            408, f"The body did not arrive within {BODY_TIMEOUT:.0f} seconds.", code="body_timeout"
        ) from None


def _let_come(request: web.BaseRequest) -> None:
    """Tell a client that asked first (RFC 9110, 10.1.1) to send its body: what is too large has been refused by now."""
    transport = request.transport
    asks = request.headers.get("expect", "").lower() == "100-continue"
    if asks and request.version >= HttpVersion11 and transport is not None:
        transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


async def _read_all(request: web.BaseRequest, limit: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while data := await request.content.readany():
        size += len(data)
        if size > limit:
            raise _too_large(limit)
        parts.append(data)
    return b"".join(parts)


def _too_large(limit: int) -> APIError:
    return APIError(413, f"The body is larger than {limit} bytes.", code="body_too_large")
