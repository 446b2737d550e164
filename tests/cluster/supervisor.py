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

from tests.cluster import binaries, control, controlplane
from tests.cluster.assembly import LocalCluster
from tests.cluster.components import Components
from tests.cluster.errors import CannotProvide, ClusterError
from tests.cluster.fabric import Fabric
from tests.cluster.locking import try_lock
from tests.cluster.node_pool import remove_leftovers
from tests.cluster.processes import Identity
from tests.cluster.stage import Stage
from tests.cluster.state import State

if TYPE_CHECKING:
    from io import FileIO
    from pathlib import Path

    from tests.cluster.state import Spec

READY = "ready"
START_DEADLINE = 300.0

_ABANDONED_CHECK = 0.5
# TEST-NET-2 (RFC 5737): without nodes nobody connects to it, and the server insists on an address that is not loopback.
_UNREACHABLE = "198.51.100.1"


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
    except (CannotProvide, ClusterError, OSError, TimeoutError) as error:
        _announce(announcement, str(error))
        return 1
    finally:
        state.remove()
    return 0


async def _serve(state: State, spec: Spec, announcement: FileIO) -> None:
    async with AsyncExitStack() as owned:
        components = Components(state)
        owned.callback(remove_leftovers, state)
        owned.push_async_callback(components.stop_all)
        fabric = await Fabric.build(components, binaries.cached().path("pause")) if spec.nodes else None
        address = str(fabric.network.host) if fabric else "127.0.0.1"
        reservation = owned.enter_context(_reserve(address))
        cluster = LocalCluster(
            state, spec, components, _endpoint(address, reservation.getsockname()[1], fabric), fabric
        )
        await cluster.start()
        if spec.stage:
            await owned.enter_async_context(Stage(await owned.enter_async_context(cluster.client())))
        await owned.enter_async_context(control.serving(state.control_socket, cluster.handle))
        _announce(announcement, READY)
        await _abandoned(state, kept=spec.kept)


def _endpoint(address: str, port: int, fabric: Fabric | None) -> controlplane.Endpoint:
    if fabric is None:
        return controlplane.Endpoint(address, port, advertised=_UNREACHABLE)
    return controlplane.Endpoint(address, port, advertised=address, service_range=str(fabric.network.services))


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
