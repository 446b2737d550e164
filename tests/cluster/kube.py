"""A few calls to an API server, small enough to start in no time; what tests themselves use is the official client."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import aiohttp
from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter
from pydantic.alias_generators import to_camel

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path
    from typing import Self

JsonObject: TypeAlias = dict[str, JsonValue]

STRATEGIC_MERGE = "application/strategic-merge-patch+json"
APPLY = "application/apply-patch+yaml"

_CALL_DEADLINE = 15.0
_WATCH_SECONDS = 300
_WATCH_SILENCE = 330.0
_PAGE = 500

_object = TypeAdapter(JsonObject)


class KubeModel(BaseModel):
    """The part of a Kubernetes object that we read; everything else in it is ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_camel, populate_by_name=True)


class ListMeta(KubeModel):
    """Where a list or a watch stands."""

    resource_version: str = ""
    continue_: str = Field(default="", alias="continue")


class ApiError(Exception):
    """The API server said no."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class Stale(Exception):  # noqa: N818 - not an error of anybody's: watches expire
    """The watch cannot go on from where it stands (410 Gone); list again."""


@dataclass(frozen=True)
class Event:
    """One change that a watch reports."""

    type: Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]
    object: JsonObject


class _Page(KubeModel):
    metadata: ListMeta
    items: tuple[JsonObject, ...] = ()


class _Line(KubeModel):
    type: Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR"]
    object: JsonObject


class _Status(KubeModel):
    code: int = 0
    message: str = ""


class KubeClient:
    """One API server and one identity. Use as an async context manager."""

    def __init__(self, url: str, tls: ssl.SSLContext) -> None:
        self._url = url
        self._tls = tls
        self._exit = contextlib.AsyncExitStack()

    @classmethod
    def from_pki(cls, url: str, pki: Path, user: str) -> KubeClient:
        """With the certificates that `credentials.issue` wrote."""
        tls = ssl.create_default_context(cafile=str(pki / "ca.crt"))
        tls.load_cert_chain(pki / f"{user}.crt", pki / f"{user}.key")
        return cls(url, tls)

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(ssl=self._tls, limit=32)
        timeout = aiohttp.ClientTimeout(total=_CALL_DEADLINE)
        self._session = await self._exit.enter_async_context(
            aiohttp.ClientSession(self._url, connector=connector, timeout=timeout)
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._exit.aclose()

    async def call(
        self,
        method: str,
        path: str,
        body: JsonObject | None = None,
        *,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> bytes:
        """One request; the answer's bytes.

        Raises:
            ApiError: The server refused.
            aiohttp.ClientError: It was not reached, or went away.
            TimeoutError: It took more than 15 s.
        """
        data = None if body is None else json.dumps(body)
        headers = {"Content-Type": content_type}
        async with self._session.request(method, path, data=data, params=query, headers=headers) as response:
            content = await response.read()
            if response.status >= 400:
                raise ApiError(response.status, _message(content))
            return content

    async def list(self, path: str, query: Mapping[str, str]) -> tuple[list[JsonObject], str]:
        """Every object of a collection, and the version to watch from.

        Raises:
            ApiError: The server refused.
            aiohttp.ClientError: It was not reached, or went away.
            TimeoutError: A page took more than 15 s.
        """
        objects: list[JsonObject] = []
        page = {**query, "limit": str(_PAGE)}
        while True:
            answer = _Page.model_validate_json(await self.call("GET", path, query=page))
            objects.extend(answer.items)
            if not answer.metadata.continue_:
                return objects, answer.metadata.resource_version
            page["continue"] = answer.metadata.continue_

    async def watch(self, path: str, query: Mapping[str, str], version: str) -> AsyncIterator[Event]:
        """Changes after `version`, until the server ends the stream.

        Raises:
            Stale: List again.
            aiohttp.ClientError: The server was not reached, or went away.
            TimeoutError: It said nothing for longer than it had promised.
        """
        parameters = {
            **query,
            "watch": "1",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(_WATCH_SECONDS),
        }
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CALL_DEADLINE, sock_read=_WATCH_SILENCE)
        async with self._session.get(path, params=parameters, timeout=timeout) as response:
            if response.status >= 400:
                raise Stale(_message(await response.read()))
            rest = b""
            async for chunk in response.content.iter_any():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    yield _event(line)


async def eventually_ok(client: KubeClient, path: str, wait: float) -> None:
    """Ask for `path` until it answers.

    Raises:
        TimeoutError: It did not within `wait` seconds; says what came instead.
    """
    last: Exception | None = None
    try:
        async with asyncio.timeout(wait):
            while True:
                try:
                    await client.call("GET", path)
                except (ApiError, aiohttp.ClientError, TimeoutError) as error:
                    last = error
                else:
                    return
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise TimeoutError(f"{path} did not answer within {wait:.0f} s: {last}") from last


def _event(line: bytes) -> Event:
    read = _Line.model_validate_json(line)
    if read.type == "ERROR":
        raise Stale(_Status.model_validate(read.object).message)
    return Event(read.type, read.object)


def _message(content: bytes) -> str:
    try:
        return _Status.model_validate(_object.validate_json(content)).message
    except ValueError:
        return content[:200].decode(errors="replace")
