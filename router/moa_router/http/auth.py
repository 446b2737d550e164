"""Who asks: API keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moa_router.fusion.errors import APIError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from moa_router.profiles import KeyRing


def authenticate(headers: Mapping[str, str], keys: KeyRing | None) -> str | None:
    """The tenant a request comes from; None where the profile asks for no key.

    The key is a bearer token (RFC 6750).

    Raises:
        APIError: 401 without a valid key; 503 while the profile's Secret holds no key at all.
    """
    if keys is None:
        return None
    if keys.empty:
        raise APIError(503, "No API key is configured for this profile yet.", code="auth_unavailable")
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise APIError(401, "An API key is needed: send it as 'Authorization: Bearer KEY'.", code="missing_api_key")
    tenant = keys.tenant_of(key.strip())
    if tenant is None:
        raise APIError(401, "The API key is not valid.", code="invalid_api_key")
    return tenant
