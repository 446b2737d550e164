"""The first process of a node, in network, mount, process, host name and IPC namespaces of its own.

It prepares the node, starts its programs and reaps what they leave behind. When it ends, for whatever reason, the
kernel kills everything else on the node and takes its mounts, interfaces and firewall rules along.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.cluster import cgroups, nodes

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cluster.kube import JsonObject
    from tests.cluster.nodes import NodePlan

_LINK_DEADLINE = 30.0
_RUNTIME_DEADLINE = 30.0
_API_DEADLINE = 120.0
_COMMAND_DEADLINE = 120.0
_POLL = 0.05
_LAST_LINES = 3

# Some of what the node's programs write has a fixed place; none of it is to reach the machine.
_SCRATCH = ("/run", "/var/log")
_KUBELET = Path("/var/lib/kubelet")
_LAYERED = "lowerdir=/var/lib,upperdir=/run/var-lib/upper,workdir=/run/var-lib/work"


def main(plan_file: Path) -> int:
    """Be a node until one of its programs ends; the exit status is then 1."""
    node = nodes.NodePlan.model_validate_json(plan_file.read_bytes())
    os.chdir(node.directory)
    _isolate(node)
    _connect(node)
    _configure(node)
    programs = {_start(node, "containerd", ["containerd", "--config", "containerd.toml"]): "containerd"}
    _until(_RUNTIME_DEADLINE, "containerd answers", lambda: _succeeds("ctr", "version"))
    for image in node.images:
        _run("ctr", "--namespace=k8s.io", "images", "import", str(image))
    _until(_API_DEADLINE, "the API server is ready", node.api_ready.exists)
    programs[_start(node, "kubelet", _kubelet(node))] = "kubelet"
    proxy = [str(node.binaries / "kube-proxy"), "--config=kube-proxy.json"]
    programs[_start(node, "kube-proxy", proxy)] = "kube-proxy"
    return _reap(node, programs)


def _isolate(node: NodePlan) -> None:
    socket.sethostname(node.name)
    # A new peer group: pods' mounts propagate within the node, and not to the machine.
    _run("mount", "--make-rshared", "/")
    for place in _SCRATCH:
        _run("mount", "-t", "tmpfs", "tmpfs", place)
    for place in ("/run/netns", "/run/lock", "/run/var-lib/upper", "/run/var-lib/work"):
        Path(place).mkdir(parents=True)
    _run("mount", "-t", "overlay", "overlay", "-o", _LAYERED, "/var/lib")
    # A short path, because the kubelet has sockets in there; and not on the layers, because pods' volumes are, too.
    kubelet = node.directory / "kubelet"
    kubelet.mkdir()
    _KUBELET.mkdir(exist_ok=True)
    _run("mount", "--bind", str(kubelet), str(_KUBELET))
    cgroups.create(node.cgroup)


def _connect(node: NodePlan) -> None:
    _until(_LINK_DEADLINE, "the node has its interface", lambda: "eth0" in {name for _, name in socket.if_nameindex()})
    _run("ip", "link", "set", "lo", "up")
    _run("ip", "address", "add", f"{node.address}/24", "dev", "eth0")
    _run("ip", "link", "set", "eth0", "up")
    _run("ip", "route", "add", "default", "via", node.gateway)
    for destination, via in node.routes.items():
        _run("ip", "route", "add", destination, "via", via)
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1", encoding="utf-8")
    # Without it a Service's answer from a pod on the same bridge bypasses the rules that would translate it back.
    bridged = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
    if bridged.exists():
        bridged.write_text("1", encoding="utf-8")


def _configure(node: NodePlan) -> None:
    for place in ("cni", "containerd", "volume-plugins"):
        Path(place).mkdir()
    Path("resolv.conf").write_text(f"nameserver {node.dns}\n", encoding="utf-8")
    Path("containerd.toml").write_text(nodes.containerd_config(node), encoding="utf-8")
    _write_json("cni/10-pods.conflist", nodes.cni_config(node))
    _write_json("kubelet.json", nodes.kubelet_config(node))
    _write_json("kube-proxy.json", nodes.proxy_config(node))


def _kubelet(node: NodePlan) -> list[str]:
    return [
        str(node.binaries / "kubelet"),
        "--config=kubelet.json",
        f"--kubeconfig={node.kubeconfig}",
        f"--hostname-override={node.name}",
        f"--node-ip={node.address}",
        f"--root-dir={_KUBELET}",
    ]


def _start(node: NodePlan, name: str, command: list[str]) -> int:
    with _log(node, name).open("ab") as log:
        # Not a Popen: this process reaps every child, and two who reap take each other's.
        return os.posix_spawnp(
            command[0],
            command,
            os.environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, log.fileno(), 1), (os.POSIX_SPAWN_DUP2, log.fileno(), 2)],
            setpgroup=0,
        )


def _reap(node: NodePlan, programs: dict[int, str]) -> int:
    while True:
        pid, status = os.wait()
        if pid in programs:
            name, code = programs[pid], os.waitstatus_to_exitcode(status)
            last = _log(node, name).read_text(encoding="utf-8", errors="replace").splitlines()[-_LAST_LINES:]
            print("\n".join([f"{name} ended with status {code}, and the node with it:", *last]), file=sys.stderr)
            return 1


def _log(node: NodePlan, program: str) -> Path:
    return node.logs / f"{node.name}.{program}.log"


def _until(wait: float, what: str, check: Callable[[], bool]) -> None:
    deadline = time.monotonic() + wait
    while not check():
        if time.monotonic() >= deadline:
            raise TimeoutError(f"{wait:.0f} s were not enough until {what}")
        time.sleep(_POLL)


def _succeeds(*command: str) -> bool:
    done = subprocess.run(command, capture_output=True, timeout=_COMMAND_DEADLINE, check=False)
    return done.returncode == 0


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_DEADLINE, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")


def _write_json(path: str, content: JsonObject) -> None:
    Path(path).write_text(json.dumps(content, indent=1), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
