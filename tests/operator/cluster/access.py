"""How tests see and change a cluster: as its administrator, by plain JSON, under the name of somebody else's tool."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar, cast

from moa_operator.reconcile.conditions import Condition
from moa_operator.resources import BUILT_IN_CHILDREN, DEPLOYMENTS, PROFILES, SERVICES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from kubernetes.aio.client import ApiClient

    from moa_api.fields import JSONObject
    from moa_operator.resources import Resource

T = TypeVar("T")

DEADLINE = 40.0

COLLECTION_SECONDS = 150.0
"""The garbage collector looks for new kinds every half minute, and collects nothing of those it does not know."""

MERGE = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
APPLY = "application/apply-patch+yaml"


class Refusal(Exception):  # noqa: N818 - what it says is an outcome
    """The API server said no."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status
        self.message = message


async def eventually(read: Callable[[], Awaitable[T]], check: Callable[[T], object], within: float = DEADLINE) -> T:
    """What `read` gives, as soon as `check` likes it."""
    last: T | None = None
    try:
        async with asyncio.timeout(within):
            while True:
                last = await read()
                if check(last):
                    return last
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"not within {within:g} s; the last seen was {json.dumps(last, default=str)}") from None


@dataclass(frozen=True)
class Access:
    """A namespace of a cluster."""

    api: ApiClient
    namespace: str

    async def call(
        self,
        method: str,
        path: str,
        body: object = None,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> JSONObject:
        """One request, as it is."""
        headers = {"Content-Type": content_type, "Accept": "application/json"}
        method, url, headers, _, _ = await self.api.param_serialize(
            method, path, query_params=dict(query or {}), header_params=headers, auth_settings=["BearerToken"]
        )
        response = await self.api.call_api(method, url, headers, body)
        content = await response.read()  # type: ignore[no-untyped-call] # theirs
        if response.status >= 400:
            raise Refusal(response.status, _message(content))
        return cast("JSONObject", json.loads(content))

    async def get(self, resource: Resource, name: str) -> JSONObject | None:
        """An object, if there is one."""
        try:
            return await self.call("GET", resource.path(self.namespace, name))
        except Refusal as refusal:
            if refusal.status == 404:
                return None
            raise

    async def create(self, resource: Resource, body: Mapping[str, object]) -> JSONObject:
        """A new object."""
        envelope = {"apiVersion": resource.api_version, "kind": resource.kind, **body}
        return await self.call("POST", resource.path(self.namespace), envelope)

    async def edit(self, resource: Resource, name: str, patch: object) -> JSONObject:
        """A change by somebody who does not know whose the object is: a merge patch, or operations of a JSON patch."""
        content_type = JSON_PATCH if isinstance(patch, list) else MERGE
        path = resource.path(self.namespace, name)
        return await self.call("PATCH", path, patch, {"fieldManager": "kubectl-edit"}, content_type)

    async def delete(self, resource: Resource, name: str) -> None:
        """Away with it."""
        await self.call("DELETE", resource.path(self.namespace, name), {"propagationPolicy": "Background"})

    async def profile(self, document: Mapping[str, object]) -> JSONObject:
        """What `kubectl apply` of a profile does."""
        metadata = {**cast("Mapping[str, object]", document["metadata"]), "namespace": self.namespace}
        path = PROFILES.path(self.namespace, str(metadata["name"]))
        query = {"fieldManager": "kubectl", "force": "true", "fieldValidation": "Strict"}
        return await self.call("PATCH", path, {**document, "metadata": metadata}, query, APPLY)

    async def service(self, name: str, port: int) -> None:
        """A Service with nobody behind it."""
        ports = [{"port": port, "protocol": "TCP"}]
        await self.create(SERVICES, {"metadata": {"name": name}, "spec": {"ports": ports}})

    async def conditions(self, name: str) -> dict[str, Condition]:
        """A profile's conditions, by type."""
        found = at(await self.get(PROFILES, name), "status", "conditions")
        read = [Condition.model_validate(each) for each in found] if isinstance(found, list) else []
        return {condition.type: condition for condition in read}

    async def until(self, name: str, within: float = DEADLINE, **states: str) -> dict[str, Condition]:
        """Waits for conditions: `Ready="True"`, or `Ready="False/Starting"` with a reason."""

        def reached(conditions: dict[str, Condition]) -> bool:
            return all(
                kind in conditions and f"{conditions[kind].status}/{conditions[kind].reason}".startswith(state)
                for kind, state in states.items()
            )

        return await eventually(lambda: self.conditions(name), reached, within)

    async def child(self, resource: Resource, profile: str = "research") -> JSONObject:
        """A child that there has to be."""
        found = await self.get(resource, f"{profile}-moa")
        assert found is not None, f"there is no {resource.kind}"
        return found

    async def versions(self, profile: str = "research") -> dict[str, str]:
        """Resource versions of a profile and its children, by kind: writes change them, and nothing else does."""
        found = {"MoAProfile": await self.get(PROFILES, profile)}
        for resource in BUILT_IN_CHILDREN:
            found[resource.kind] = await self.get(resource, f"{profile}-moa")
        return {kind: str(at(each, "metadata", "resourceVersion")) for kind, each in found.items() if each is not None}

    async def settled(self, profile: str = "research") -> dict[str, str]:
        """Waits until a Deployment's rollout is complete; returns the versions then."""

        def complete(found: JSONObject | None) -> bool:
            if found is None or at(found, "metadata", "generation") != at(found, "status", "observedGeneration"):
                return False
            wanted = at(found, "spec", "replicas")
            names = ("replicas", "updatedReplicas", "readyReplicas")
            return all((at(found, "status", name) or 0) == wanted for name in names)

        await eventually(lambda: self.get(DEPLOYMENTS, f"{profile}-moa"), complete)

        async def twice() -> tuple[dict[str, str], dict[str, str]]:
            before = await self.versions(profile)
            await asyncio.sleep(0.5)
            return before, await self.versions(profile)

        return (await eventually(twice, lambda pair: pair[0] == pair[1]))[1]


def _message(content: bytes) -> str:
    try:
        return str(at(json.loads(content), "message"))
    except ValueError:
        return content.decode()


def at(value: object, *path: str | int) -> object:
    """Something inside of something; None where it is not there."""
    for step in path:
        if isinstance(value, dict) and isinstance(step, str):
            value = value.get(step)
        elif isinstance(value, list) and isinstance(step, int) and step < len(value):
            value = value[step]
        else:
            return None
    return value
