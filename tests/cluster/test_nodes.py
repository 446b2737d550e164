"""Nodes: pods that run, the network between them, and that nothing of a node stays on the machine."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import signal
import socket
import struct
import subprocess
import tarfile
from ipaddress import IPv4Network
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import pytest
from kubernetes.aio import client
from tests.cluster import binaries, cgroups, clusters, images, nodes
from tests.cluster.errors import CannotProvide, ClusterError
from tests.cluster.fixtures import connect
from tests.cluster.network import MAX_NODES, Network, free, parse_routes
from tests.cluster.nodes import cgroup_prefix
from tests.cluster.processes import Identity

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.cluster.clusters import Cluster

DEADLINE = 60.0
HEALTH = 8080
FIXED_PLACES = ("/var/lib/kubelet", "/var/lib/cni", "/var/log/pods", "/usr/libexec/kubernetes", "/run/containerd")


@pytest.fixture
async def node_api(node_cluster: Cluster) -> AsyncIterator[client.ApiClient]:
    async with await connect(node_cluster.kubeconfig) as connected:
        yield connected


def kubectl(cluster: Cluster, *arguments: str) -> str:
    done = subprocess.run(
        [str(cluster.kubectl()), f"--kubeconfig={cluster.kubeconfig}", *arguments],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def interfaces() -> set[str]:
    return {name for _, name in socket.if_nameindex()}


def interface_of(cluster: Cluster) -> str:
    server = json.loads(cluster.kubeconfig.read_text(encoding="utf-8"))["clusters"][0]["cluster"]["server"]
    return f"moa{server.split('.')[1]}"


async def dns_pods(api: client.ApiClient) -> dict[str, str]:
    """The nodes that the DNS pods run on, by address."""
    found = await client.CoreV1Api(api).list_namespaced_pod("kube-system", label_selector="k8s-app=kube-dns")
    return {
        pod.status.pod_ip: pod.spec.node_name
        for pod in found.items
        if pod.status and pod.status.pod_ip and pod.spec and pod.spec.node_name
    }


def question(name: str) -> bytes:
    """A query for an A record (RFC 1035, section 4)."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack("!6H", 7, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!2H", 1, 1)


def resolve(server: str, name: str) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(DEADLINE)
        asking.connect((server, 53))
        asking.send(question(name))
        answer = asking.recv(512)
    assert struct.unpack("!H", answer[6:8])[0] == 1, "one answer"
    return socket.inet_ntoa(answer[-4:])


async def test_every_node_runs_pods_that_the_machine_reaches(node_api: client.ApiClient) -> None:
    nodes = {item.metadata.name for item in (await client.CoreV1Api(node_api).list_node()).items if item.metadata}
    pods = await dns_pods(node_api)
    assert set(pods.values()) == nodes == {"node-1", "node-2"}
    async with aiohttp.ClientSession() as session:
        for address in pods:
            async with session.get(f"http://{address}:{HEALTH}/health") as answer:
                assert await answer.text() == "OK"


async def test_services_have_addresses_and_names(node_api: client.ApiClient) -> None:
    core = client.CoreV1Api(node_api)
    spec = client.V1ServiceSpec(
        selector={"k8s-app": "kube-dns"}, ports=[client.V1ServicePort(port=80, target_port=HEALTH)]
    )
    service = client.V1Service(metadata=client.V1ObjectMeta(name="health"), spec=spec)
    created = await core.create_namespaced_service("kube-system", service)
    try:
        assert created.spec is not None
        address = created.spec.cluster_ip
        async with asyncio.timeout(DEADLINE), aiohttp.ClientSession() as session:
            text = ""
            while text != "OK":
                try:
                    async with session.get(f"http://{address}/health") as answer:
                        text = await answer.text()
                except aiohttp.ClientConnectionError:
                    await asyncio.sleep(0.1)
        dns = await core.read_namespaced_service("kube-dns", "kube-system")
        assert dns.spec is not None
        assert dns.spec.cluster_ip is not None
        name = "health.kube-system.svc.cluster.local"
        assert await asyncio.to_thread(resolve, dns.spec.cluster_ip, name) == address
    finally:
        await core.delete_namespaced_service("health", "kube-system")


def test_logs_and_exec_work_on_every_node(node_cluster: Cluster) -> None:
    listing = kubectl(node_cluster, "-n", "kube-system", "get", "pods", "-l", "k8s-app=kube-dns", "-o", "name")
    pods = listing.split()
    assert len(pods) == 2
    for pod in pods:
        assert "CoreDNS" in kubectl(node_cluster, "-n", "kube-system", "logs", pod)
        assert "CoreDNS" in kubectl(node_cluster, "-n", "kube-system", "exec", pod, "--", "/coredns", "-version")


async def test_loaded_images_run_and_stop_when_told(
    node_cluster: Cluster, node_api: client.ApiClient, tmp_path: Path
) -> None:
    loaded = images.Image("moa-operator.invalid/loaded:1", "pause")
    archive = tmp_path / "loaded.tar"
    await asyncio.to_thread(images.write, archive, loaded, binaries.cached().path("pause"))
    await asyncio.to_thread(node_cluster.load, archive)

    core = client.CoreV1Api(node_api)
    container = client.V1Container(
        name="main",
        image=loaded.name,
        image_pull_policy="Never",
        security_context=client.V1SecurityContext(
            run_as_user=65532,
            run_as_non_root=True,
            read_only_root_filesystem=True,
            allow_privilege_escalation=False,
            capabilities=client.V1Capabilities(drop=["ALL"]),
            seccomp_profile=client.V1SeccompProfile(type="RuntimeDefault"),
        ),
    )
    for node in ("node-1", "node-2"):
        pod = client.V1Pod(
            metadata=client.V1ObjectMeta(name=node), spec=client.V1PodSpec(containers=[container], node_name=node)
        )
        await core.create_namespaced_pod("default", pod)
    kubectl(node_cluster, "wait", "pod/node-1", "pod/node-2", "--for=condition=Ready", f"--timeout={DEADLINE:.0f}s")
    # `pause` ends on SIGTERM, well before its grace period of 30 s does.
    kubectl(node_cluster, "delete", "pod/node-1", "pod/node-2", "--timeout=20s")


def test_a_node_can_be_drained_and_nothing_of_it_stays(node_cluster: Cluster, tmp_path: Path) -> None:
    holder = Identity.of_self()
    beside = clusters.acquire("beside", choice="local", nodes=2, holder=holder, root=tmp_path)
    state = beside.state
    assert state is not None
    try:
        started = {name: Identity.of(process.pid) for name, process in beside.processes().items()}
        interface = interface_of(beside)
        assert interface in interfaces()
        assert interface != interface_of(node_cluster)
        kubectl(beside, "drain", "node-2", "--force", "--timeout=50s")
        rollout = kubectl(beside, "-n", "kube-system", "rollout", "status", "deploy/coredns", "--timeout=50s")
        assert "successfully rolled out" in rollout
    finally:
        clusters.release(beside, holder)
    assert not [name for name, identity in started.items() if identity is not None and identity.alive()]
    assert interface not in interfaces()
    assert str(state.directory) not in Path("/proc/self/mounts").read_text(encoding="utf-8")
    assert not list(Path("/sys/fs/cgroup").glob(f"**/{cgroup_prefix(state)}*"))
    assert [entry.name for entry in tmp_path.iterdir()] == [".lock"]
    assert not [place for place in FIXED_PLACES if Path(place).exists()]


def test_what_a_killed_supervisor_leaves_of_nodes_goes_with_the_next_start(
    node_cluster: Cluster, tmp_path: Path
) -> None:
    holder = Identity.of_self()
    killed = clusters.acquire("killed", choice="local", nodes=1, holder=holder, root=tmp_path)
    state = killed.state
    assert state is not None
    supervisor = state.supervisor()
    assert supervisor is not None
    interface = interface_of(killed)
    assert supervisor.end(signal.SIGKILL, DEADLINE)
    assert list(Path("/sys/fs/cgroup").glob(f"*/{cgroup_prefix(state)}*"))
    assert not clusters.take_down("another", tmp_path)
    clusters.sweep(tmp_path)
    assert not list(Path("/sys/fs/cgroup").glob(f"**/{cgroup_prefix(state)}*"))
    assert interface not in interfaces()
    assert not state.directory.exists()


def test_images_need_nodes(own_cluster: Cluster, tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="has no nodes to load images on"):
        own_cluster.load(tmp_path / "image.tar")


@pytest.mark.parametrize(("stage", "count"), [(True, 1), (False, MAX_NODES + 1)])
def test_what_cannot_be_is_refused(tmp_path: Path, stage: bool, count: int) -> None:
    with pytest.raises(CannotProvide, match="the stage, or 1 to 8 nodes"):
        clusters.acquire("c", choice="local", stage=stage, nodes=count, root=tmp_path)


def test_a_network_has_room_for_everything_once() -> None:
    network = Network(200)
    parts = [network.services, *(network.pods(number) for number in range(1, MAX_NODES + 1))]
    parts += [IPv4Network(f"{network.node(number)}/32") for number in range(1, MAX_NODES + 1)]
    parts.append(IPv4Network(f"{network.host}/32"))
    assert all(part.subnet_of(network.range) for part in parts)
    assert not [(one, other) for one in parts for other in parts if one is not other and one.overlaps(other)]
    assert all(network.pods(number).subnet_of(network.all_pods) for number in range(1, MAX_NODES + 1))
    assert network.dns in network.services


def test_a_network_is_chosen_that_nobody_has() -> None:
    routes = parse_routes(b'[{"dst":"default"},{"dst":"10.200.3.0/24"},{"dst":"10.201.0.1"},{"dst":"172.17.0.0/16"}]')
    assert free(routes)[0] == Network(202)
    assert free(parse_routes(b""))[0] == Network(200)
    with pytest.raises(CannotProvide, match="one has to be free"):
        free([IPv4Network("10.0.0.0/8")])


def test_groups_are_made_in_every_hierarchy_and_filled_where_they_have_to_be(tmp_path: Path) -> None:
    for hierarchy in ("cpuset", "memory", "unified"):
        (tmp_path / hierarchy).mkdir()
    (tmp_path / "cpuset" / "cpuset.cpus").write_text("0-3\n", encoding="utf-8")
    cgroups.create("moa-c-node-1", tmp_path)
    assert (tmp_path / "cpuset" / "moa-c-node-1" / "cpuset.cpus").read_text(encoding="utf-8") == "0-3\n"
    assert (tmp_path / "memory" / "moa-c-node-1").is_dir()
    assert not (tmp_path / "unified" / "moa-c-node-1").exists()


def test_groups_are_removed_from_the_inside(tmp_path: Path) -> None:
    for hierarchy in ("memory", "unified"):
        (tmp_path / hierarchy / "moa-c-node-1" / "pods" / "one").mkdir(parents=True)
        (tmp_path / hierarchy / "moa-other-node-1").mkdir()
    assert cgroups.remove("moa-c-", 0.0, tmp_path)
    assert {entry.name for entry in tmp_path.glob("*/*")} == {"moa-other-node-1"}
    (tmp_path / "memory" / "moa-c-node-2").mkdir()
    (tmp_path / "memory" / "moa-c-node-2" / "in-use").write_text("", encoding="utf-8")
    assert not cgroups.remove("moa-c-", 0.0, tmp_path)


def test_an_image_is_what_its_manifest_says(tmp_path: Path) -> None:
    program, archive = tmp_path / "program", tmp_path / "p.tar"
    program.write_bytes(b"\x7fELF")
    images.write(archive, images.Image("moa-operator.invalid/p:1", "p"), program)

    def content(parts: tarfile.TarFile, name: str) -> bytes:
        found = parts.extractfile(name)
        assert found is not None
        return found.read()

    with tarfile.open(archive) as parts:
        (manifest,) = json.loads(content(parts, "manifest.json"))
        config = json.loads(content(parts, manifest["Config"]))
        (layer,) = [content(parts, name) for name in manifest["Layers"]]
    assert manifest["RepoTags"] == ["moa-operator.invalid/p:1"]
    assert config["config"]["Entrypoint"] == ["/p"]
    assert config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(layer).hexdigest()}"]
    with tarfile.open(fileobj=io.BytesIO(layer)) as entries:
        assert [(entry.name, entry.mode & 0o111 != 0) for entry in entries] == [("p", True)]
        assert content(entries, "p") == b"\x7fELF"


def test_a_machine_that_cannot_run_nodes_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    reason = nodes.unavailable()
    assert reason is not None
    assert reason.startswith("nodes need containerd, ctr, runc,")
    assert "Debian has them in the packages containerd runc" in reason
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert nodes.unavailable() == "nodes need root, for namespaces, mounts and control groups"
