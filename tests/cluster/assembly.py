"""A local cluster put together: its components in the order of their needs, and what may be asked of them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tests.cluster import binaries, control, controlplane, credentials
from tests.cluster.errors import ClusterError
from tests.cluster.kube import KubeClient, eventually_ok
from tests.cluster.node_pool import NodePool
from tests.cluster.processes import resident_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cluster.components import Components
    from tests.cluster.fabric import Fabric
    from tests.cluster.state import Spec, State

_READY_DEADLINE = 60.0
_WORKS = {
    controlplane.API_SERVER: "/readyz",
    # Made by a controller for every namespace; no pod is admitted before it is there.
    controlplane.CONTROLLER_MANAGER: "/api/v1/namespaces/default/serviceaccounts/default",
}


class LocalCluster:
    """The components of one cluster."""

    def __init__(
        self,
        state: State,
        spec: Spec,
        components: Components,
        endpoint: controlplane.Endpoint,
        fabric: Fabric | None,
    ) -> None:
        programs = binaries.cached()
        self.nodes = NodePool(state, fabric, spec.nodes, programs, components) if fabric else None
        self._components = components
        self._state = state
        self._endpoint = endpoint
        self._pki_tool = programs.path("pki")
        real = self.nodes is not None
        self._commands = {
            controlplane.ETCD: controlplane.etcd(programs),
            controlplane.API_SERVER: controlplane.kube_apiserver(programs, state, endpoint, nodes=real),
            controlplane.CONTROLLER_MANAGER: controlplane.kube_controller_manager(
                programs, state, self._kubeconfig("controller-manager"), nodes=real
            ),
        }
        if real:
            self._commands[controlplane.SCHEDULER] = controlplane.kube_scheduler(
                programs, self._kubeconfig("scheduler")
            )

    def client(self) -> KubeClient:
        """An administrator's connection."""
        return KubeClient.from_pki(self._endpoint.url, self._state.pki, "admin")

    async def start(self) -> None:
        """Everything, until pods can be created, and run where there are nodes.

        Raises:
            ClusterError: A component ended or did not become ready; says which, with the end of its log.
        """
        self._issue()
        if self.nodes is not None:
            await self.nodes.start(self._endpoint.url)
        # In this order: those that come before the API server is ready meet missing roles, and back off for seconds.
        for name in self._commands:
            await self._start(name)
        if self.nodes is not None:
            self.nodes.allow()
            async with self.client() as client:
                await self.nodes.until_ready(client)

    async def handle(self, request: control.Request) -> control.Answer:
        """Do what a control request says."""
        if request.verb == "report":
            pids = self._components.pids() | {"supervisor": os.getpid()}
            found = {name: control.Process(pid=pid, resident_bytes=resident_bytes(pid)) for name, pid in pids.items()}
            return control.Answer(processes=found)
        if request.component not in self._commands:
            raise ClusterError(f"no component {request.component!r}; there are {', '.join(self._commands)}")
        if request.verb == "stop":
            await self._components.stop(request.component)
        else:
            await self._start(request.component)
        return control.Answer()

    def _issue(self) -> None:
        state, url = self._state, self._endpoint.url
        wanted = [*controlplane.certificates(self._endpoint), *(self.nodes.certificates if self.nodes else ())]
        credentials.issue(self._pki_tool, state.pki, f"{state.name}-ca", wanted)
        credentials.write_kubeconfig(state.kubeconfig, url, state.pki, "admin", f"moa-{state.name}")
        for user in ("controller-manager", *(("scheduler",) if self.nodes else ())):
            credentials.write_kubeconfig(self._kubeconfig(user), url, state.pki, user, state.name)

    def _kubeconfig(self, user: str) -> Path:
        return self._state.pki / f"{user}.kubeconfig"

    async def _start(self, name: str) -> None:
        await self._components.start(name, self._commands[name])
        path = _WORKS.get(name)
        if path is not None:
            async with self.client() as client:
                await self._components.until(name, eventually_ok(client, path, _READY_DEADLINE))
