"""The wires between nodes: a network namespace with a bridge in it that plays the switch.

Everything hangs on the namespace of one process. When that ends, the kernel takes down the bridge, every link into it
and every route over them; there is nothing to clean up and nothing to forget.
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.cluster import network
from tests.cluster.errors import ClusterError

if TYPE_CHECKING:
    from tests.cluster.components import Components
    from tests.cluster.network import Network

SWITCH = "switch"

_COMMAND_DEADLINE = 20.0
_NAMESPACE_DEADLINE = 20.0
_POLL = 0.02


class Fabric:
    """The network of one cluster."""

    def __init__(self, components: Components, wires: Network) -> None:
        self.network = wires
        self._components = components

    @classmethod
    async def build(cls, components: Components, pause: Path) -> Fabric:
        """Start the switch and connect this machine to it.

        Args:
            components: Own the switch's process.
            pause: A program that does nothing until it is killed.

        Raises:
            CannotProvide: No range of addresses is free.
            ClusterError: The kernel refused; says what.
        """
        await components.start(SWITCH, ["unshare", "--net", str(pause)])
        switch = await _namespace(components, SWITCH)
        fabric = cls(components, await _claim(switch))
        await fabric._on_switch("ip", "link", "add", "br0", "type", "bridge")
        await fabric._on_switch("ip", "link", "set", "br0", "up")
        await fabric._on_switch("ip", "link", "set", "host", "master", "br0", "up")
        await _run("ip", "address", "add", f"{fabric.network.host}/24", "dev", fabric.network.link)
        await _run("ip", "link", "set", fabric.network.link, "up")
        return fabric

    async def connect(self, number: int, component: str) -> None:
        """Give a node's process its interface `eth0`, and this machine the way to its pods.

        Node 1 also carries this machine's way to the Services: kube-proxy's rules are in the nodes alone.

        Raises:
            ClusterError: The kernel refused; says what.
        """
        node = await _namespace(self._components, component)
        port = f"node{number}"
        await self._on_switch("ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", str(node))
        await self._on_switch("ip", "link", "set", port, "master", "br0", "up")
        via = str(self.network.node(number))
        await _run("ip", "route", "add", str(self.network.pods(number)), "via", via)
        if number == 1:
            await _run("ip", "route", "add", str(self.network.services), "via", via)

    async def _on_switch(self, *command: str) -> None:
        switch = self._components.pids()[SWITCH]
        await _run("nsenter", f"--target={switch}", "--net", *command)


async def _claim(switch: int) -> Network:
    """A network of our own: whoever makes the link first has it, and the kernel says who was."""
    listing = await _run("ip", "-json", "-4", "route", "show", "table", "all")
    *candidates, last = network.free(network.parse_routes(listing))
    for candidate in candidates:
        try:
            await _link(candidate.link, switch)
        except ClusterError as error:
            if "File exists" not in str(error):
                raise
        else:
            return candidate
    await _link(last.link, switch)
    return last


async def _link(name: str, switch: int) -> None:
    await _run("ip", "link", "add", name, "type", "veth", "peer", "name", "host", "netns", str(switch))


async def _namespace(components: Components, component: str) -> int:
    """The component's process, once it has a network of its own."""
    deadline = time.monotonic() + _NAMESPACE_DEADLINE
    while time.monotonic() < deadline:
        pid = components.pids().get(component)
        if pid is None:
            break
        if _network_namespace(pid) not in {None, _network_namespace(os.getpid())}:
            return pid
        await asyncio.sleep(_POLL)
    raise ClusterError(f"{component} got no network of its own:\n{components.log_tail(component)}")


def _network_namespace(pid: int) -> str | None:
    try:
        return str(Path(f"/proc/{pid}/ns/net").readlink())
    except OSError:
        return None


async def _run(*command: str) -> bytes:
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(_COMMAND_DEADLINE):
            output, errors = await process.communicate()
    except TimeoutError:
        process.kill()
        raise ClusterError(f"{' '.join(command)} took more than {_COMMAND_DEADLINE:.0f} s") from None
    if process.returncode:
        raise ClusterError(f"{' '.join(command)}: {errors.decode(errors='replace').strip()}")
    return output
