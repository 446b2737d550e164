"""Calls to the API server, each with a deadline, tried again where that may help, and counted.

The official client knows how to connect and to authenticate; what is sent and read here is plain JSON, because its
models would drop every field they do not know.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import Final, Literal, TypeVar

import aiohttp
from kubernetes.aio.client import ApiClient
from pydantic import Field, ValidationError

from moa_api.fields import JSONObject
from moa_operator.backoff import Backoff
from moa_operator.kube.errors import KubeError, Refused, Unreachable
from moa_operator.kube.objects import FIELD_MANAGER, KubeModel, Live
from moa_operator.metrics import Metrics
from moa_operator.resources import Resource

T = TypeVar("T")

Verb = Literal["get", "list", "create", "apply", "update", "patch", "delete", "discover"]
"""What a call does; metrics carry it."""

READ_SECONDS: Final = 10.0
"""Time a read may take."""

WRITE_SECONDS: Final = 3.0
"""Time a write may take; the API server is told and gives up by itself, so that no write of ours comes later."""

_LATE: Final = 0.5
_TRIES: Final = 4
_BACKOFF: Final = Backoff(base=0.2, cap=2.0)
_LONGEST_WAIT: Final = 5.0
_PAGE: Final = 250

_METHODS: Final[Mapping[Verb, str]] = {
    "get": "GET",
    "list": "GET",
    "discover": "GET",
    "create": "POST",
    "apply": "PATCH",
    "patch": "PATCH",
    "update": "PUT",
    "delete": "DELETE",
}
_READS: Final[frozenset[Verb]] = frozenset({"get", "list", "discover"})
_CONTENT_TYPES: Final[Mapping[Verb, str]] = {
    "apply": "application/apply-patch+yaml",
    "patch": "application/merge-patch+json",
}
_METADATA_ONLY: Final = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"


class _Status(KubeModel):
    reason: str = ""
    message: str = ""


class _ListMeta(KubeModel):
    continue_: str = Field(default="", alias="continue")


class _Page(KubeModel):
    metadata: _ListMeta = _ListMeta()
    items: list[JSONObject] = Field(default_factory=list)


class _APIResource(KubeModel):
    name: str


class _APIResources(KubeModel):
    resources: list[_APIResource] = Field(default_factory=list)


class Kube:
    """An API server, spoken to under one identity.

    Every call raises `Refused` or `Unreachable` (both `KubeError`) where it came to nothing after a few tries.

    Args:
        api: The official client, connected.
        metrics: Where calls are counted.
    """

    def __init__(self, api: ApiClient, metrics: Metrics) -> None:
        self._api = api
        self._metrics = metrics

    async def get(self, resource: Resource, namespace: str, name: str) -> Live | None:
        """Returns an object; None if there is none, or its kind is not served."""
        return await self._get(resource, namespace, name, "application/json")

    async def get_metadata(self, resource: Resource, namespace: str, name: str) -> Live | None:
        """Returns an object's metadata alone, for those whose content need not travel."""
        return await self._get(resource, namespace, name, _METADATA_ONLY)

    async def list_all(
        self, resource: Resource, namespace: str | None, label_selector: str = ""
    ) -> AsyncIterator[Live]:
        """Yields the objects of a collection, fetched in chunks.

        A list that expires half-way starts again from its beginning, so an object may come twice.

        Args:
            resource: Their kind.
            namespace: Where to look; None for all namespaces.
            label_selector: Which objects; all where empty.
        """
        query = {"limit": str(_PAGE)} | ({"labelSelector": label_selector} if label_selector else {})
        token = ""
        while True:
            try:
                content = await self._call("list", resource, resource.path(namespace), query | _continued(token))
            except Refused as refusal:
                if not (refusal.expired and token):
                    raise
                token = ""
                continue
            page = _Page.model_validate_json(content)
            for item in page.items:
                yield Live(item)
            token = page.metadata.continue_
            if not token:
                return

    async def apply(
        self,
        resource: Resource,
        manifest: JSONObject,
        *,
        manager: str = FIELD_MANAGER,
        subresource: str | None = None,
    ) -> Live:
        """Applies a manifest on the server, taking over fields that others hold; returns the object as it is then.

        Args:
            resource: Its kind.
            manifest: Every field that `manager` wants to own, and no other.
            manager: Name of the field manager.
            subresource: Part of the object to apply, such as ``status``.
        """
        meta = Live(manifest).meta
        content = await self._call(
            "apply",
            resource,
            resource.path(meta.namespace, meta.name, subresource),
            {"fieldManager": manager, "force": "true"},
            body=manifest,
        )
        return Live(json.loads(content))

    async def patch(self, resource: Resource, live: Live, patch: JSONObject) -> Live:
        """Merges a patch (RFC 7386) into an object; a `Refused` that is a conflict says that it has changed since."""
        path = resource.path(live.meta.namespace, live.meta.name)
        query = {"fieldManager": FIELD_MANAGER}
        expected: JSONObject = {"resourceVersion": live.meta.resource_version}
        return Live(json.loads(await self._call("patch", resource, path, query, body={**patch, "metadata": expected})))

    async def create(self, resource: Resource, manifest: JSONObject) -> Live:
        """Creates an object; a `Refused` that is a conflict says that it exists."""
        path = resource.path(Live(manifest).meta.namespace)
        query = {"fieldManager": FIELD_MANAGER}
        return Live(json.loads(await self._call("create", resource, path, query, body=manifest)))

    async def update(self, resource: Resource, manifest: JSONObject) -> Live:
        """Replaces an object; a `Refused` that is a conflict says that its resource version is not the latest."""
        meta = Live(manifest).meta
        path = resource.path(meta.namespace, meta.name)
        query = {"fieldManager": FIELD_MANAGER}
        return Live(json.loads(await self._call("update", resource, path, query, body=manifest)))

    async def delete(self, resource: Resource, live: Live) -> None:
        """Deletes an object as it was read: not one that took its place or has changed since."""
        preconditions: JSONObject = {"uid": live.meta.uid, "resourceVersion": live.meta.resource_version}
        body: JSONObject = {"preconditions": preconditions, "propagationPolicy": "Background"}
        path = resource.path(live.meta.namespace, live.meta.name)
        try:
            await self._call("delete", resource, path, {}, body=body)
        except Refused as refusal:
            if not refusal.absent:
                raise

    async def serves(self, resource: Resource) -> bool:
        """Whether the API server has a kind."""
        try:
            content = await self._call("discover", resource, resource.root, {})
        except Refused as refusal:
            if refusal.absent:
                return False
            raise
        return any(each.name == resource.plural for each in _APIResources.model_validate_json(content).resources)

    async def _get(self, resource: Resource, namespace: str, name: str, accept: str) -> Live | None:
        try:
            content = await self._call("get", resource, resource.path(namespace, name), {}, accept=accept)
        except Refused as refusal:
            if refusal.absent:
                return None
            raise
        return Live(json.loads(content))

    async def _call(
        self,
        verb: Verb,
        resource: Resource,
        path: str,
        query: Mapping[str, str],
        *,
        body: JSONObject | None = None,
        accept: str = "application/json",
    ) -> bytes:
        for failures in range(1, _TRIES + 1):
            try:
                attempt = self._attempt(verb, resource, path, query, body, accept)
                return await (attempt if verb in _READS else _to_its_end(attempt))
            except KubeError as error:
                if failures == _TRIES or not _may_work_later(verb, error):
                    raise
                wait = max(_BACKOFF.delay(failures), _asked_wait(error))
                if wait > _LONGEST_WAIT:
                    raise
            await asyncio.sleep(wait)
        raise AssertionError("the last try returns or raises")

    async def _attempt(
        self,
        verb: Verb,
        resource: Resource,
        path: str,
        query: Mapping[str, str],
        body: JSONObject | None,
        accept: str,
    ) -> bytes:
        is_write = verb not in _READS
        seconds = WRITE_SECONDS if is_write else READ_SECONDS
        parameters = {**query, "timeout": f"{seconds:g}s"} if is_write else query
        headers = {"Accept": accept, "Content-Type": _CONTENT_TYPES.get(verb, "application/json")}
        deadline = aiohttp.ClientTimeout(total=seconds + _LATE)
        with self._counted(verb, resource) as outcome, _reaching(path):
            method, url, headers, _, _ = await self._api.param_serialize(
                _METHODS[verb], path, query_params=parameters, header_params=headers, auth_settings=["BearerToken"]
            )
            response = await self._api.call_api(method, url, headers, body, _request_timeout=deadline)
            content = bytes(await response.read())  # type: ignore[no-untyped-call] # theirs
            outcome.append(str(response.status))
        if response.status >= HTTPStatus.BAD_REQUEST:
            raise _refusal(response.status, content, response.headers.get("Retry-After"))
        return content

    @contextmanager
    def _counted(self, verb: Verb, resource: Resource) -> Iterator[list[str]]:
        outcome: list[str] = []
        started = time.perf_counter()
        try:
            yield outcome
        finally:
            self._metrics.api_requests.labels(verb, resource.kind, outcome[0] if outcome else "none").inc()
            self._metrics.api_request_seconds.labels(verb).observe(time.perf_counter() - started)


async def together(calls: Iterable[Coroutine[None, None, T]]) -> list[T]:
    """Makes calls at the same time and returns their answers, in order.

    Raises:
        KubeError: That of the first call to fail; the others are cancelled.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(call) for call in calls]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]


async def _to_its_end(write: Coroutine[None, None, bytes]) -> bytes:
    """Waits for a write, even when cancelled: a lease must not be handed over with a write of ours under way."""
    task = asyncio.ensure_future(write)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise


@contextmanager
def _reaching(path: str) -> Iterator[None]:
    try:
        yield
    except (aiohttp.ClientError, OSError) as error:  # a TimeoutError is an OSError
        raise Unreachable(f"{path}: {str(error) or type(error).__name__}") from error


def _refusal(status: int, content: bytes, retry_after: str | None) -> Refused:
    try:
        said = _Status.model_validate_json(content)
    except ValidationError:  # a proxy's page, not an API server's Status
        said = _Status(message=HTTPStatus(status).phrase)
    return Refused(status, said.reason, said.message, _seconds(retry_after))


def _seconds(retry_after: str | None) -> float | None:
    """Reads Retry-After, of whose two forms API servers use the number."""
    return float(retry_after) if retry_after is not None and retry_after.isdecimal() else None


def _may_work_later(verb: Verb, error: KubeError) -> bool:
    # An apply names no version, so its conflicts are between the API server and others who write at the same time.
    return error.transient or (verb == "apply" and isinstance(error, Refused) and error.conflict)


def _asked_wait(error: KubeError) -> float:
    return error.retry_after or 0.0 if isinstance(error, Refused) else 0.0


def _continued(token: str) -> dict[str, str]:
    return {"continue": token} if token else {}
