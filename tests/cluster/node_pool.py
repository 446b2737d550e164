"""The nodes of a local cluster, as the supervisor runs them."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING

import aiohttp
from tests.cluster import cgroups, dns, images, nodes
from tests.cluster.credentials import write_kubeconfig
from tests.cluster.errors import ClusterError
from tests.cluster.kube import APPLY, ApiError, KubeModel

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.cluster.binaries import Binaries
    from tests.cluster.components import Components
    from tests.cluster.fabric import Fabric
    from tests.cluster.kube import KubeClient
    from tests.cluster.state import State

_READY_DEADLINE = 120.0
_CGROUPS_DEADLINE = 10.0
_POLL = 0.2
_APPLIED = {"fieldManager": "cluster", "force": "true"}


class _Conditions(KubeModel):
    class Condition(KubeModel):
        type: str
        status: str

    conditions: tuple[Condition, ...] = ()


class _Node(KubeModel):
    status: _Conditions


class _Deployment(KubeModel):
    class Status(KubeModel):
        available_replicas: int = 0

    status: Status


class NodePool:
    """A fixed number of nodes on one fabric."""

    def __init__(self, state: State, fabric: Fabric, count: int, programs: Binaries, components: Components) -> None:
        self.certificates = nodes.certificates(fabric.network, count)
        self._state = state
        self._fabric = fabric
        self._numbers = range(1, count + 1)
        self._programs = programs
        self._components = components

    async def start(self, url: str) -> None:
        """Start every node; they wait for `allow` before they talk to the API server.

        Args:
            url: The API server's.

        Raises:
            ClusterError: A node ended at once, or could not be connected.
        """
        archives = tuple([await asyncio.to_thread(images.ensure, self._programs, image) for image in images.ALL])
        for user in ("kube-proxy", *self._names()):
            write_kubeconfig(self._state.pki / f"{user}.kubeconfig", url, self._state.pki, user, self._state.name)
        for number in self._numbers:
            plan = nodes.plan(
                self._state,
                self._fabric.network,
                number,
                len(self._numbers),
                binaries=self._programs.directory,
                images=archives,
            )
            plan.directory.mkdir(mode=0o700)
            file = plan.directory / "plan.json"
            file.write_text(plan.model_dump_json(), encoding="utf-8")
            await self._components.start(plan.name, nodes.command(file))
            await self._fabric.connect(number, plan.name)

    def allow(self) -> None:
        """Tell the nodes that the API server is ready."""
        (self._state.directory / "api-ready").touch()

    async def until_ready(self, client: KubeClient) -> None:
        """Wait until every node is ready and the cluster's DNS answers.

        Raises:
            ClusterError: Not within two minutes, or a node ended; says which, with the end of its log.
        """
        for name in self._names():
            ready = _eventually(f"{name} is ready", partial(_node_ready, client, name))
            await self._components.until(name, ready)
        # Only now, so that its pods are spread.
        network = self._fabric.network
        for path, manifest in dns.manifests(str(network.dns), replicas=min(2, len(self._numbers))).items():
            await client.call("PATCH", path, manifest, query=_APPLIED, content_type=APPLY)
        await _eventually("the cluster's DNS is available", lambda: _dns_available(client))

    def _names(self) -> list[str]:
        return [nodes.component(number) for number in self._numbers]


def remove_leftovers(state: State) -> None:
    """Remove what outlives the nodes' processes; nothing happens where there were no nodes.

    Raises:
        ClusterError: Processes of the nodes are still there.
    """
    if not cgroups.remove(nodes.cgroup_prefix(state), _CGROUPS_DEADLINE):
        raise ClusterError(f"control groups of cluster {state.name} still have processes in them")


async def _eventually(what: str, check: Callable[[], Awaitable[bool]]) -> None:
    deadline = time.monotonic() + _READY_DEADLINE
    while not await check():
        if time.monotonic() >= deadline:
            raise TimeoutError(f"{_READY_DEADLINE:.0f} s were not enough until {what}")
        await asyncio.sleep(_POLL)


async def _node_ready(client: KubeClient, name: str) -> bool:
    try:
        node = _Node.model_validate_json(await client.call("GET", f"/api/v1/nodes/{name}"))
    except (ApiError, aiohttp.ClientError):
        return False
    return any(condition.type == "Ready" and condition.status == "True" for condition in node.status.conditions)


async def _dns_available(client: KubeClient) -> bool:
    try:
        deployment = _Deployment.model_validate_json(await client.call("GET", dns.DEPLOYMENT))
    except (ApiError, aiohttp.ClientError):
        return False
    return deployment.status.available_replicas > 0
