"""The process that owns a local cluster: it starts the components, keeps them, and leaves nothing behind.

It is the parent of everything that the cluster runs. The kernel kills the children if it dies, whatever the reason; it
ends by itself when the last process that holds the cluster has gone, so that a killed test run cleans up too.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from tests.cluster import binaries, control, controlplane, credentials
from tests.cluster.components import Components
from tests.cluster.errors import ClusterError
from tests.cluster.kube import KubeClient, eventually_ok
from tests.cluster.locking import try_lock
from tests.cluster.processes import Identity, resident_bytes
from tests.cluster.stage import Stage
from tests.cluster.state import State

if TYPE_CHECKING:
    from io import FileIO
    from pathlib import Path

    from tests.cluster.state import Spec

READY = "ready"
START_DEADLINE = 180.0

_READY_DEADLINE = 60.0
_ABANDONED_CHECK = 0.5
# TEST-NET-1 (RFC 5737): without nodes nobody connects to it, and the server insists on an address that is not loopback.
_UNREACHABLE = "192.0.2.1"
_DEFAULT_ACCOUNT = "/api/v1/namespaces/default/serviceaccounts/default"


def main(directory: Path, announce_fd: int) -> int:
    """Run a cluster until it is told to stop or abandoned.

    Args:
        directory: The cluster's state, with its spec in it.
        announce_fd: A pipe's writing end; gets `ready`, or the reason why not, and is closed.

    Returns:
        The exit status.
    """
    return asyncio.run(_supervise(State(directory), announce_fd))


async def _supervise(state: State, announce_fd: int) -> int:
    with os.fdopen(announce_fd, "wb", buffering=0) as announcement:
        return await _until_told(state, announcement)


async def _until_told(state: State, announcement: FileIO) -> int:
    spec = state.spec()
    if spec is None:
        _announce(announcement, f"{state.directory} holds no cluster")
        return 1
    state.claim(Identity.of_self())
    serving = asyncio.create_task(_serve(state, spec, announcement), name="serve")
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, serving.cancel)
    try:
        await serving
    except asyncio.CancelledError:
        return 0
    except (ClusterError, OSError, TimeoutError) as error:
        _announce(announcement, str(error))
        return 1
    finally:
        state.remove()
    return 0


async def _serve(state: State, spec: Spec, announcement: FileIO) -> None:
    async with AsyncExitStack() as owned:
        reservation = owned.enter_context(_reserve("127.0.0.1"))
        address, port = reservation.getsockname()
        cluster = LocalCluster(state, controlplane.Endpoint(address, port, advertised=_UNREACHABLE))
        owned.push_async_callback(cluster.components.stop_all)
        await cluster.start()
        if spec.stage:
            stage = Stage(await owned.enter_async_context(cluster.client()))
            await owned.enter_async_context(stage)
        await owned.enter_async_context(control.serving(state.control_socket, cluster.handle))
        _announce(announcement, READY)
        await _abandoned(state, kept=spec.kept)


class LocalCluster:
    """The components of one control plane in the order of their needs."""

    def __init__(self, state: State, endpoint: controlplane.Endpoint) -> None:
        self.components = Components(state)
        self._state = state
        self._endpoint = endpoint
        programs = binaries.cached()
        self._pki_tool = programs.path("pki")
        self._controllers = state.pki / "controller-manager.kubeconfig"
        self._commands = {
            controlplane.ETCD: controlplane.etcd(programs),
            controlplane.API_SERVER: controlplane.kube_apiserver(programs, state, endpoint),
            controlplane.CONTROLLER_MANAGER: controlplane.kube_controller_manager(programs, state, self._controllers),
        }

    def client(self) -> KubeClient:
        """An administrator's connection."""
        return KubeClient.from_pki(self._endpoint.url, self._state.pki, "admin")

    async def start(self) -> None:
        """Everything, until pods can be created.

        Raises:
            ClusterError: A component ended or did not become ready; says which, with the end of its log.
        """
        state, url = self._state, self._endpoint.url
        wanted = controlplane.certificates(self._endpoint)
        credentials.issue(self._pki_tool, state.pki, f"{state.name}-ca", wanted)
        credentials.write_kubeconfig(state.kubeconfig, url, state.pki, "admin", f"moa-{state.name}")
        credentials.write_kubeconfig(self._controllers, url, state.pki, "controller-manager", state.name)
        await self._start(controlplane.ETCD)
        await self._start(controlplane.API_SERVER)
        # Started before the API server is ready they meet missing roles and back off for seconds.
        await self._start(controlplane.CONTROLLER_MANAGER)

    async def handle(self, request: control.Request) -> control.Answer:
        """Do what a control request says."""
        if request.verb == "report":
            pids = self.components.pids() | {"supervisor": os.getpid()}
            found = {name: control.Process(pid=pid, resident_bytes=resident_bytes(pid)) for name, pid in pids.items()}
            return control.Answer(processes=found)
        if request.component not in self._commands:
            raise ClusterError(f"no component {request.component!r}; there are {', '.join(self._commands)}")
        if request.verb == "stop":
            await self.components.stop(request.component)
        else:
            await self._start(request.component)
        return control.Answer()

    async def _start(self, name: str) -> None:
        await self.components.start(name, self._commands[name])
        works = {controlplane.API_SERVER: "/readyz", controlplane.CONTROLLER_MANAGER: _DEFAULT_ACCOUNT}.get(name)
        if works is not None:
            await self._until_works(name, works)

    async def _until_works(self, name: str, path: str) -> None:
        async with self.client() as client:
            ready = asyncio.create_task(eventually_ok(client, path, _READY_DEADLINE), name=f"{name} ready")
            ended = asyncio.create_task(self.components.ended(name), name=f"{name} ended")
            try:
                await asyncio.wait({ready, ended}, return_when=asyncio.FIRST_COMPLETED)
                if ended.done():
                    raise ClusterError(f"{name} ended with status {ended.result()}:\n{self._state.log_tail(name)}")
                await ready
            except TimeoutError as error:
                raise ClusterError(f"{name}: {error}\n{self._state.log_tail(name)}") from error
            finally:
                ready.cancel()
                ended.cancel()
                await asyncio.gather(ready, ended, return_exceptions=True)


def _reserve(address: str) -> socket.socket:
    # Bound and never listening: connections go to the API server, and nobody else is given the port while it is down.
    reservation = socket.socket()
    reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    reservation.bind((address, 0))
    return reservation


async def _abandoned(state: State, *, kept: bool) -> None:
    while True:
        await asyncio.sleep(_ABANDONED_CHECK)
        if kept or state.held():
            continue
        # Held until this process has gone, so that nobody takes hold of a cluster that is about to end.
        lock = try_lock(state.directory.parent / ".lock")
        if lock is not None and not state.held():
            return
        if lock is not None:
            os.close(lock)


def _announce(announcement: FileIO, text: str) -> None:
    if announcement.closed:
        print(text, file=sys.stderr)
        return
    try:
        announcement.write(text.encode())
    except BrokenPipeError:
        print(f"nobody waits to hear: {text}", file=sys.stderr)
    finally:
        announcement.close()
