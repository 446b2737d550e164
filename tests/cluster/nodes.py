"""Nodes: what they need from the distribution, and how their programs are configured."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict
from tests.cluster.credentials import Certificate, client
from tests.cluster.images import PAUSE
from tests.cluster.paths import REPOSITORY

if TYPE_CHECKING:
    from tests.cluster.kube import JsonObject
    from tests.cluster.network import Network
    from tests.cluster.state import State

CONTAINERD_SOCKET = "/run/containerd/containerd.sock"

_PROGRAMS = ("containerd", "ctr", "runc", "ip", "nft", "conntrack", "mount", "nsenter", "unshare")
_PLUGINS = ("bridge", "host-local", "loopback", "portmap")
_PLUGIN_PLACES = (Path("/usr/lib/cni"), Path("/opt/cni/bin"))
_PACKAGES = "containerd runc containernetworking-plugins iproute2 nftables conntrack mount util-linux"


class NodePlan(BaseModel):
    """Everything that a node's first process needs to know."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    address: str
    gateway: str
    pods: str
    all_pods: str
    routes: dict[str, str]
    """The other nodes' pods, and the way there."""
    dns: str
    cgroup: str
    directory: Path
    binaries: Path
    plugins: Path
    images: tuple[Path, ...]
    authority: Path
    certificate: Path
    key: Path
    kubeconfig: Path
    proxy_kubeconfig: Path
    api_ready: Path
    """Appears when the API server is ready; a kubelet that asks earlier is refused, and backs off for long."""
    logs: Path


def unavailable() -> str | None:
    """Why this machine can run no nodes; None if it can."""
    if os.geteuid():
        return "nodes need root, for namespaces, mounts and control groups"
    missing = [program for program in _PROGRAMS if shutil.which(program) is None]
    if _plugins() is None:
        missing.append(f"CNI plugins in {' or '.join(str(place) for place in _PLUGIN_PLACES)}")
    if missing:
        return f"nodes need {', '.join(missing)}; Debian has them in the packages {_PACKAGES}"
    return None


def component(number: int) -> str:
    """The name of node `number` as a node of the cluster and as a component of the supervisor."""
    return f"node-{number}"


def is_component(name: str) -> bool:
    """Whether a component of the supervisor is a node."""
    return name.startswith(component(0)[:-1])


def certificates(network: Network, count: int) -> list[Certificate]:
    """What nodes need, and the API server to talk to them."""
    kubelets = [
        Certificate(
            name=component(number),
            common_name=f"system:node:{component(number)}",
            organizations=("system:nodes",),
            client=True,
            server=True,
            dns_names=(component(number),),
            ip_addresses=(str(network.node(number)),),
        )
        for number in range(1, count + 1)
    ]
    return [
        *kubelets,
        client("kube-proxy", "system:kube-proxy"),
        client("scheduler", "system:kube-scheduler"),
        client("kubelet-client", "kube-apiserver-kubelet-client", "system:masters"),
    ]


def plan(
    state: State, network: Network, number: int, count: int, *, binaries: Path, images: tuple[Path, ...]
) -> NodePlan:
    """Node `number` of `count`."""
    plugins = _plugins()
    if plugins is None:
        raise ValueError("asked for a node where `unavailable` has a reason against it")
    name = component(number)
    others = [other for other in range(1, count + 1) if other != number]
    return NodePlan(
        name=name,
        address=str(network.node(number)),
        gateway=str(network.host),
        pods=str(network.pods(number)),
        all_pods=str(network.all_pods),
        routes={str(network.pods(other)): str(network.node(other)) for other in others},
        dns=str(network.dns),
        cgroup=f"{cgroup_prefix(state)}{name}",
        directory=state.directory / name,
        binaries=binaries,
        plugins=plugins,
        images=images,
        authority=state.pki / "ca.crt",
        certificate=state.pki / f"{name}.crt",
        key=state.pki / f"{name}.key",
        kubeconfig=state.pki / f"{name}.kubeconfig",
        proxy_kubeconfig=state.pki / "kube-proxy.kubeconfig",
        api_ready=state.directory / "api-ready",
        logs=state.log(name).parent,
    )


def cgroup_prefix(state: State) -> str:
    """How the names of a cluster's control groups start; no other cluster's do, whatever it is called."""
    return f"moa-{hashlib.sha256(str(state.directory).encode()).hexdigest()[:12]}-"


def command(plan_file: Path) -> list[str]:
    """A node's first process, in namespaces of its own: when it ends, everything on the node has ended."""
    namespaces = ["--mount", "--net", "--pid", "--uts", "--ipc", "--fork", "--kill-child", "--mount-proc"]
    python = ["env", f"PYTHONPATH={REPOSITORY}", sys.executable, "-m", "tests.cluster.node_init", str(plan_file)]
    return ["unshare", *namespaces, *python]


def containerd_config(node: NodePlan) -> str:
    """The container runtime: everything it writes is the node's own.

    OOM scores stay as they are because lowering one takes CAP_SYS_RESOURCE, which root in a container lacks.
    """
    return f"""\
version = 2
root = "{node.directory}/containerd"
state = "/run/containerd"
disabled_plugins = [
  "io.containerd.internal.v1.opt",
  "io.containerd.internal.v1.tracing",
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
]
[grpc]
  address = "{CONTAINERD_SOCKET}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE.name}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{node.plugins}"
    conf_dir = "{node.directory}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
"""


def cni_config(node: NodePlan) -> JsonObject:
    """Pods on a bridge; no masquerading, because nothing outside the cluster is to be reached."""
    addresses: JsonObject = {
        "type": "host-local",
        "dataDir": "/run/cni-addresses",
        "ranges": [[{"subnet": node.pods}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    bridge: JsonObject = {
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "ipMasq": False,
        "hairpinMode": True,
        "ipam": addresses,
    }
    ports: JsonObject = {"type": "portmap", "capabilities": {"portMappings": True}}
    return {"cniVersion": "0.4.0", "name": "pods", "plugins": [bridge, ports]}


def kubelet_config(node: NodePlan) -> JsonObject:
    """The kubelet, for a node that is one of several on a machine and may have little of it."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(node.authority)},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(node.certificate),
        "tlsPrivateKeyFile": str(node.key),
        "address": node.address,
        "clusterDomain": "cluster.local",
        "clusterDNS": [node.dns],
        "resolvConf": str(node.directory / "resolv.conf"),
        "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
        "volumePluginDir": str(node.directory / "volume-plugins"),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{node.cgroup}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "oomScoreAdj": 0,
        "maxOpenFiles": 20000,
        "enforceNodeAllocatable": [],
        # Several nodes share one disk; none of them may judge it full for the others.
        "evictionHard": {"nodefs.available": "0%", "imagefs.available": "0%"},
        "imageGCHighThresholdPercent": 100,
        "eventRecordQPS": 0,
        "registryPullQPS": 0,
    }


def proxy_config(node: NodePlan) -> JsonObject:
    """kube-proxy; it leaves connection tracking's limits alone, which are the machine's."""
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": str(node.proxy_kubeconfig)},
        "mode": "nftables",
        "clusterCIDR": node.all_pods,
        "hostnameOverride": node.name,
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        "nftables": {"minSyncPeriod": "0s"},
    }


def _plugins() -> Path | None:
    return next((place for place in _PLUGIN_PLACES if all((place / plugin).exists() for plugin in _PLUGINS)), None)
