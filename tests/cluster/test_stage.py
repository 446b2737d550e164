"""The stage on a real API server: Deployments live through what they would on a node."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from kubernetes.aio import client
from tests.cluster.kube import KubeClient, KubeModel
from tests.cluster.stage_pods import Outcome, Pod

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from tests.cluster.clusters import Cluster
    from tests.cluster.fixtures import Play

DEADLINE = 60.0


def deployment(image: str = "web:1", replicas: int = 2) -> client.V1Deployment:
    labels = {"app": "web"}
    return client.V1Deployment(
        metadata=client.V1ObjectMeta(name="web"),
        spec=client.V1DeploymentSpec(
            replicas=replicas,
            selector=client.V1LabelSelector(match_labels=labels),
            template=client.V1PodTemplateSpec(
                metadata=client.V1ObjectMeta(labels=labels),
                spec=client.V1PodSpec(
                    containers=[client.V1Container(name="web", image=image)],
                    init_containers=[
                        client.V1Container(name="once", image=image),
                        client.V1Container(name="sidecar", image=image, restart_policy="Always"),
                    ],
                ),
            ),
        ),
    )


class Observed(KubeModel):
    """A Deployment's progress."""

    class Metadata(KubeModel):
        generation: int

    class Spec(KubeModel):
        replicas: int

    class Status(KubeModel):
        observed_generation: int = 0
        replicas: int = 0
        updated_replicas: int = 0
        available_replicas: int = 0

    metadata: Metadata
    spec: Spec
    status: Status


async def eventually(check: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(DEADLINE):
        reached = await check()
        while not reached:
            await asyncio.sleep(0.1)
            reached = await check()


class Web:
    """The Deployment of these tests and what can be seen of it."""

    def __init__(self, api: client.ApiClient, small: KubeClient, namespace: str) -> None:
        self.apps = client.AppsV1Api(api)
        self.small = small
        self.namespace = namespace

    async def create(self, replicas: int = 2) -> None:
        await self.apps.create_namespaced_deployment(self.namespace, deployment(replicas=replicas))

    async def pods(self) -> list[Pod]:
        found, _ = await self.small.list(f"/api/v1/namespaces/{self.namespace}/pods", {})
        return [Pod.model_validate(pod) for pod in found]

    async def observed(self) -> Observed:
        path = f"/apis/apps/v1/namespaces/{self.namespace}/deployments/web"
        return Observed.model_validate_json(await self.small.call("GET", path))

    async def all_ready(self) -> bool:
        web = await self.observed()
        status, wanted = web.status, web.spec.replicas
        counts = (status.updated_replicas, status.available_replicas, status.replicas)
        return status.observed_generation == web.metadata.generation and counts == (wanted,) * 3

    async def none_available(self) -> bool:
        return (await self.observed()).status.available_replicas == 0

    async def waiting_for(self, reason: str) -> bool:
        states = [container.state for pod in await self.pods() for container in pod.status.container_statuses]
        return bool(states) and all(state.waiting and state.waiting.reason == reason for state in states)


@pytest.fixture
async def web(cluster: Cluster, api: client.ApiClient, namespace: str, play: Play) -> AsyncIterator[Web]:
    assert cluster.state is not None, "`play` has skipped the test where the cluster is not ours"
    async with KubeClient.from_pki(api.configuration.host, cluster.state.pki, "admin") as small:
        yield Web(api, small, namespace)


async def test_a_deployment_becomes_ready_and_its_pods_have_addresses(web: Web) -> None:
    await web.create()
    await eventually(web.all_ready)

    pods = await web.pods()
    assert {pod.spec.node_name for pod in pods} == {"stage-0"}
    assert len({pod.status.pod_ip for pod in pods}) == 2


async def test_a_deployment_rolls(web: Web) -> None:
    await web.create()
    await eventually(web.all_ready)
    before = {pod.metadata.uid for pod in await web.pods()}

    changed = {"spec": {"template": {"spec": {"containers": [{"name": "web", "image": "web:2"}]}}}}
    await web.apps.patch_namespaced_deployment("web", web.namespace, changed)

    async def rolled() -> bool:
        pods = await web.pods()
        images = {pod.spec.containers[0].image for pod in pods}
        return await web.all_ready() and images == {"web:2"} and len(pods) == 2

    await eventually(rolled)
    assert before.isdisjoint({pod.metadata.uid for pod in await web.pods()})


async def test_deleted_pods_go_at_once_whatever_grace_they_were_given(web: Web) -> None:
    await web.create(replicas=1)
    await eventually(web.all_ready)
    await web.apps.delete_namespaced_deployment("web", web.namespace)

    async def gone() -> bool:
        return not await web.pods()

    await eventually(gone)


async def test_pods_fail_as_they_are_told_and_recover(web: Web, play: Play) -> None:
    await play(Outcome.IMAGE_PULL, {"app": "web"})
    await web.create()
    await eventually(lambda: web.waiting_for("ImagePullBackOff"))
    assert {pod.status.phase for pod in await web.pods()} == {"Pending"}

    await play(Outcome.CRASH_LOOP, {"app": "web"})
    await eventually(lambda: web.waiting_for("CrashLoopBackOff"))
    await eventually(web.none_available)

    await play(Outcome.READY, {"app": "web"})
    await eventually(web.all_ready)

    await play(Outcome.NOT_READY)
    await eventually(web.none_available)
    assert {pod.status.phase for pod in await web.pods()} == {"Running"}


async def test_a_rule_leaves_other_labels_alone(web: Web, play: Play) -> None:
    await play(Outcome.CRASH_LOOP, {"app": "another"})
    await web.create()
    await eventually(web.all_ready)


async def test_pods_that_fit_nowhere_say_so_until_they_do(web: Web, play: Play) -> None:
    await play(Outcome.UNSCHEDULABLE)
    await web.create(replicas=1)

    async def refused() -> bool:
        conditions = [condition for pod in await web.pods() for condition in pod.status.conditions]
        return [(condition.type, condition.reason) for condition in conditions] == [("PodScheduled", "Unschedulable")]

    await eventually(refused)
    await play(Outcome.READY)
    await eventually(web.all_ready)


async def test_readiness_can_take_its_time(web: Web, play: Play) -> None:
    await play(Outcome.READY, ready_after=1.5)
    await web.create(replicas=1)
    await eventually(web.all_ready)

    status = (await web.pods())[0].status
    ready = next(condition for condition in status.conditions if condition.type == "Ready")
    assert ready.last_transition_time is not None
    assert status.start_time is not None
    assert ready.last_transition_time > status.start_time


async def test_a_rule_that_makes_no_sense_is_ignored(web: Web, api: client.ApiClient) -> None:
    nonsense = client.V1ConfigMap(
        metadata=client.V1ObjectMeta(name="nonsense", labels={"stage.moa-operator.io/rule": "true"}),
        data={"outcome": "Splendid"},
    )
    await client.CoreV1Api(api).create_namespaced_config_map(web.namespace, nonsense)
    await web.create()
    await eventually(web.all_ready)
