"""A node without a kubelet: binds pods, shows them running and ready, and confirms their deletion.

Nothing runs in these pods. It is the smallest thing that lets Deployments, PodDisruptionBudgets and EndpointSlices
behave as on a real node, and that can fail on request: a ConfigMap made by `stage_pods.rule_manifest` tells it how.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import time
from datetime import UTC, datetime
from itertools import count
from typing import TYPE_CHECKING, TypeAlias

import aiohttp
from pydantic import ValidationError
from tests.cluster.kube import APPLY, STRATEGIC_MERGE, ApiError, Stale
from tests.cluster.stage_pods import NODE, RULE_LABEL, Bind, Confirm, Meta, Outcome, Pod, Rule, next_step, rule_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from typing import Self

    from tests.cluster.kube import Event, JsonObject, KubeClient
    from tests.cluster.stage_pods import Step

Key: TypeAlias = tuple[str, str]

_WORKERS = 4
_RETRY = 0.5
_HEARTBEAT = 300.0
_FIRST_ADDRESS = ipaddress.IPv4Address("10.244.0.1")
_APPLIED = {"fieldManager": "stage", "force": "true"}


class Stage:
    """The stage of one cluster. Use as an async context manager: it plays while the context is open."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client
        self._pods: dict[Key, Pod] = {}
        self._rules: dict[Key, Rule] = {}
        self._started: dict[str, float] = {}
        self._addresses: dict[str, str] = {}
        self._next_address = count(int(_FIRST_ADDRESS))
        self._queues: list[asyncio.Queue[Key]] = [asyncio.Queue() for _ in range(_WORKERS)]
        self._exit = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._report_node()
        await self._exit.enter_async_context(self._playing())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._exit.aclose()

    @contextlib.asynccontextmanager
    async def _playing(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._report_node_again(), name="stage heartbeat"),
                group.create_task(self._follow("/api/v1/pods", {}, self._see_pods, self._see_pod), name="stage pods"),
                group.create_task(
                    self._follow("/api/v1/configmaps", {"labelSelector": RULE_LABEL}, self._see_rules, self._see_rule),
                    name="stage rules",
                ),
                *(group.create_task(self._work(queue), name="stage worker") for queue in self._queues),
            ]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()

    async def _follow(
        self,
        path: str,
        query: Mapping[str, str],
        replace: Callable[[list[JsonObject]], None],
        change: Callable[[Event], None],
    ) -> None:
        while True:
            try:
                objects, version = await self._client.list(path, query)
                replace(objects)
                while True:
                    async for event in self._client.watch(path, query, version):
                        version = _meta(event.object).resource_version
                        if event.type != "BOOKMARK":
                            change(event)
            except Stale:
                pass
            except (ApiError, aiohttp.ClientError, TimeoutError) as error:
                print(f"stage: watch of {path} broke: {error!r}", flush=True)
            await asyncio.sleep(_RETRY)

    def _see_pods(self, objects: list[JsonObject]) -> None:
        pods = [Pod.model_validate(item) for item in objects]
        self._pods = {_key(pod.metadata): pod for pod in pods}
        known = {pod.metadata.uid for pod in pods}
        self._addresses = {uid: address for uid, address in self._addresses.items() if uid in known}
        self._started = {uid: moment for uid, moment in self._started.items() if uid in known}
        self._look_at(None)

    def _see_pod(self, event: Event) -> None:
        pod = Pod.model_validate(event.object)
        key = _key(pod.metadata)
        if event.type == "DELETED":
            self._pods.pop(key, None)
            self._addresses.pop(pod.metadata.uid, None)
            self._started.pop(pod.metadata.uid, None)
        else:
            self._pods[key] = pod
            self._enqueue(key)

    def _see_rules(self, objects: list[JsonObject]) -> None:
        rules = [rule for item in objects if (rule := _rule(item)) is not None]
        self._rules = {_key(rule.metadata): rule for rule in rules}
        self._look_at(None)

    def _see_rule(self, event: Event) -> None:
        meta = _meta(event.object)
        self._rules.pop(_key(meta), None)
        rule = None if event.type == "DELETED" else _rule(event.object)
        if rule is not None:
            self._rules[_key(meta)] = rule
        self._look_at(meta.namespace)

    def _look_at(self, namespace: str | None) -> None:
        for key in self._pods:
            if namespace in {None, key[0]}:
                self._enqueue(key)

    def _enqueue(self, key: Key) -> None:
        # One pod, one worker: no two writes about it are ever in flight together.
        self._queues[hash(key) % _WORKERS].put_nowait(key)

    async def _work(self, queue: asyncio.Queue[Key]) -> None:
        while True:
            key = await queue.get()
            pod = self._pods.get(key)
            if pod is not None:
                await self._attend(key, pod)

    async def _attend(self, key: Key, pod: Pod) -> None:
        step = next_step(pod, self._outcome(key, pod), self._address(pod), _now())
        try:
            if step is not None:
                await self._take(step, pod.metadata)
        except ApiError as error:
            if error.status not in {404, 409}:  # the pod has moved on; its next event tells
                print(f"stage: pod {key[0]}/{key[1]}: {error}", flush=True)
                self._enqueue_later(_RETRY, key)
        except (aiohttp.ClientError, TimeoutError):
            self._enqueue_later(_RETRY, key)

    def _outcome(self, key: Key, pod: Pod) -> Outcome:
        rule = rule_for(pod, self._rules.values())
        if rule.outcome is not Outcome.READY or not rule.ready_after or not pod.spec.node_name:
            return rule.outcome
        started = self._started.setdefault(pod.metadata.uid, time.monotonic())
        missing = started + rule.ready_after - time.monotonic()
        if missing <= 0:
            return Outcome.READY
        self._enqueue_later(missing, key)
        return Outcome.NOT_READY

    def _enqueue_later(self, delay: float, key: Key) -> None:
        asyncio.get_running_loop().call_later(delay, self._enqueue, key)

    def _address(self, pod: Pod) -> str:
        if pod.status.pod_ip:
            return pod.status.pod_ip
        known = self._addresses.get(pod.metadata.uid)
        if known is None:
            known = self._addresses[pod.metadata.uid] = str(ipaddress.IPv4Address(next(self._next_address)))
        return known

    async def _take(self, step: Step, meta: Meta) -> None:
        path = f"/api/v1/namespaces/{meta.namespace}/pods/{meta.name}"
        match step:
            case Bind():
                target: JsonObject = {"apiVersion": "v1", "kind": "Node", "name": NODE}
                named: JsonObject = {"name": meta.name, "uid": meta.uid}
                binding: JsonObject = {"apiVersion": "v1", "kind": "Binding", "metadata": named, "target": target}
                await self._client.call("POST", f"{path}/binding", binding)
            case Confirm():
                options: JsonObject = {"gracePeriodSeconds": 0, "preconditions": {"uid": meta.uid}}
                await self._client.call("DELETE", path, options)
            case _:
                patch: JsonObject = {"metadata": {"uid": meta.uid}, "status": step.status}
                await self._client.call("PATCH", f"{path}/status", patch, content_type=STRATEGIC_MERGE)

    async def _report_node(self) -> None:
        path = f"/api/v1/nodes/{NODE}"
        await self._client.call("PATCH", path, _node(), query=_APPLIED, content_type=APPLY)
        status = _node_status(_now())
        await self._client.call("PATCH", f"{path}/status", status, query=_APPLIED, content_type=APPLY)

    async def _report_node_again(self) -> None:
        while True:
            await asyncio.sleep(_HEARTBEAT)
            with contextlib.suppress(ApiError, aiohttp.ClientError, TimeoutError):
                await self._report_node()


def _node() -> JsonObject:
    labels: JsonObject = {"kubernetes.io/hostname": NODE, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE, "labels": labels}}


def _node_status(now: str) -> JsonObject:
    room: JsonObject = {"cpu": "10000", "memory": "100Ti", "pods": "100000"}
    ready: JsonObject = {
        "type": "Ready",
        "status": "True",
        "reason": "StageReady",
        "message": "nothing runs here",
        "lastHeartbeatTime": now,
    }
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": NODE},
        "status": {"capacity": room, "allocatable": room, "conditions": [ready]},
    }


def _rule(item: JsonObject) -> Rule | None:
    try:
        return Rule.model_validate(item)
    except ValidationError as error:
        meta = _meta(item)
        print(f"stage: rule {meta.namespace}/{meta.name} is ignored: {error}", flush=True)
        return None


def _meta(item: JsonObject) -> Meta:
    # A bookmark's object has a version and no name.
    return (
        Meta.model_validate({"name": "", **found}) if isinstance(found := item.get("metadata"), dict) else Meta(name="")
    )


def _key(meta: Meta) -> Key:
    return (meta.namespace, meta.name)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
