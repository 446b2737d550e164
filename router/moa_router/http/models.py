"""`GET /v1/models` and `GET /v1/models/{id}`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import orjson

from moa_router.fusion.errors import APIError, model_not_found
from moa_router.http.auth import authenticate
from moa_router.http.errors import error_body, error_headers
from moa_router.http.wire import BytesResponse, encode_headers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aiohttp import web

    from moa_router.profiles import Registry, Served


ROUTE = "/v1/models"


class Models:
    """Lists what a client may name as `model`: profiles, their modes, and the upstreams behind them.

    Args:
        registry: the profiles.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._created = int(time.time())

    async def index(self, request: web.BaseRequest) -> web.StreamResponse:
        """All models of the profiles that the client's key opens."""
        try:
            data = [model for served in self._open_to(request) for model in self._models(served)]
        except APIError as error:
            return _refuse(request, error)
        return _respond(request, {"object": "list", "data": list({model["id"]: model for model in data}.values())})

    async def get(self, request: web.BaseRequest) -> web.StreamResponse:
        """One model."""
        name = request.path.removeprefix(f"{ROUTE}/")
        try:
            models = [model for served in self._open_to(request) for model in self._models(served)]
        except APIError as error:
            return _refuse(request, error)
        found = next((model for model in models if model["id"] == name), None)
        return _respond(request, found) if found is not None else _refuse(request, model_not_found(name))

    def _open_to(self, request: web.BaseRequest) -> list[Served]:
        """Profiles open to this client.

        Raises:
            APIError: 401 or 503, in the words of the first profile, when there is none.
        """
        found, refusal = [], None
        for served in self._registry.served:
            try:
                authenticate(request.headers, served.keys)
            except APIError as error:
                refusal = refusal or error
            else:
                found.append(served)
        if refusal is not None and not found:
            raise refusal
        return found

    def _models(self, served: Served) -> Iterator[dict[str, object]]:
        plan = served.plan
        for name in plan.names:
            yield self._model(name, plan.name, modes=list(plan.modes))
            for mode in plan.modes:
                yield self._model(f"{name}:{mode}", plan.name, mode=mode)
        for key, site in (*plan.by_name.items(), *plan.by_model.items()):
            window = site.upstream.context_length
            yield self._model(key, plan.name, **({"max_model_len": window} if window is not None else {}))

    def _model(self, name: str, profile: str, **more: object) -> dict[str, object]:
        return {"id": name, "object": "model", "created": self._created, "owned_by": f"moa:{profile}", **more}


def _respond(request: web.BaseRequest, body: object) -> web.StreamResponse:
    return BytesResponse(200, orjson.dumps(body), b"", keep_alive=request.keep_alive)


def _refuse(request: web.BaseRequest, error: APIError) -> web.StreamResponse:
    headers = encode_headers(error_headers(error))
    return BytesResponse(error.status, error_body(error), headers, keep_alive=request.keep_alive)
