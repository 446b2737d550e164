"""`GET /v1/models` and `GET /v1/models/{id}`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import orjson

from moa_router.fusion.errors import APIError, model_not_found
from moa_router.http.auth import authenticate
from moa_router.http.errors import error_body, error_headers
from moa_router.http.ids import request_id
from moa_router.http.wire import BytesResponse, encode_headers

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from aiohttp import web

    from moa_router.fusion.plan import Plan
    from moa_router.profiles import Registry, Served
    from moa_router.upstream.client import Upstream


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
            models = self._open_models(request)
        except APIError as error:
            return _refuse(request, error)
        return _respond(request, {"object": "list", "data": list(models.values())})

    async def get(self, request: web.BaseRequest) -> web.StreamResponse:
        """One model."""
        name = request.path.removeprefix(f"{ROUTE}/")
        try:
            found = self._open_models(request).get(name)
        except APIError as error:
            return _refuse(request, error)
        return _respond(request, found) if found is not None else _refuse(request, model_not_found(name))

    def _open_models(self, request: web.BaseRequest) -> Mapping[str, Mapping[str, object]]:
        """What this client may name; of several that share a name, the one that a request would find."""
        open_to = self._open_to(request)
        models: dict[str, Mapping[str, object]] = {}
        for list_of in (_profile_models, _upstream_names, _upstream_models):
            for served in open_to:
                for name, facts in list_of(served.plan):
                    models.setdefault(name, self._model(name, served.plan.name, facts))
        return models

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

    def _model(self, name: str, profile: str, facts: Mapping[str, object]) -> Mapping[str, object]:
        return {"id": name, "object": "model", "created": self._created, "owned_by": f"moa:{profile}", **facts}


def _profile_models(plan: Plan) -> Iterator[tuple[str, Mapping[str, object]]]:
    for name in plan.names:
        yield name, {"modes": list(plan.modes)}
        for mode in plan.modes:
            yield f"{name}:{mode}", {"mode": mode}


def _upstream_names(plan: Plan) -> Iterator[tuple[str, Mapping[str, object]]]:
    for name, site in plan.by_name.items():
        yield name, _window(site.upstream)


def _upstream_models(plan: Plan) -> Iterator[tuple[str, Mapping[str, object]]]:
    for model, site in plan.by_model.items():
        yield model, _window(site.upstream)


def _window(upstream: Upstream) -> Mapping[str, object]:
    return {} if upstream.context_length is None else {"max_model_len": upstream.context_length}


def _respond(request: web.BaseRequest, body: object) -> web.StreamResponse:
    headers = encode_headers({"x-request-id": request_id(request.headers)})
    return BytesResponse(200, orjson.dumps(body), headers, keep_alive=request.keep_alive)


def _refuse(request: web.BaseRequest, error: APIError) -> web.StreamResponse:
    headers = encode_headers({"x-request-id": request_id(request.headers), **error_headers(error)})
    return BytesResponse(error.status, error_body(error), headers, keep_alive=request.keep_alive)
