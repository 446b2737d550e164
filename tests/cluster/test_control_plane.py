"""A control plane of our own: what it is, what can be done to it, and that nothing of it stays."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import pytest
from kubernetes.aio import client
from tests.cluster import binaries, clusters, controlplane
from tests.cluster.errors import CannotProvide, ClusterError
from tests.cluster.fixtures import connect
from tests.cluster.kube import KubeClient
from tests.cluster.paths import REPOSITORY
from tests.cluster.processes import Identity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.cluster.clusters import Cluster

DEADLINE = 60.0


@pytest.fixture
def beside(own_cluster: Cluster, tmp_path: Path) -> Iterator[Cluster]:
    holder = Identity.of_self()
    found = clusters.acquire("beside", choice="local", stage=False, holder=holder, root=tmp_path)
    try:
        yield found
    finally:
        clusters.release(found, holder)


def until(check: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not check():
        assert time.monotonic() < deadline, "did not happen"
        time.sleep(0.05)


def identities(cluster: Cluster) -> dict[str, Identity]:
    found = {name: Identity.of(process.pid) for name, process in cluster.processes().items()}
    return {name: identity for name, identity in found.items() if identity is not None}


def run_tool(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.cluster", *arguments],
        cwd=REPOSITORY,
        env={**{key: value for key, value in os.environ.items() if key != "KUBECONFIG"}, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


async def config_map_names(cluster: Cluster) -> set[str]:
    async with await connect(cluster.kubeconfig) as api:
        found = await client.CoreV1Api(api).list_namespaced_config_map("default")
        return {item.metadata.name for item in found.items if item.metadata and item.metadata.name}


async def create_config_map(cluster: Cluster, name: str) -> None:
    async with await connect(cluster.kubeconfig) as api:
        body = client.V1ConfigMap(metadata=client.V1ObjectMeta(name=name), data={"a": "b"})
        await client.CoreV1Api(api).create_namespaced_config_map("default", body)


async def test_objects_can_be_applied(api: client.ApiClient, namespace: str) -> None:
    core = client.CoreV1Api(api)
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "applied"}, "data": {"a": "b"}}
    applied = await core.patch_namespaced_config_map(
        "applied", namespace, body, field_manager="tests", _content_type="application/apply-patch+yaml"
    )
    assert applied.data == {"a": "b"}


async def test_pod_security_is_enforced(api: client.ApiClient, namespace: str) -> None:
    core = client.CoreV1Api(api)
    restricted = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
    await core.patch_namespace(namespace, restricted)
    container = client.V1Container(name="root", image="root:1")
    pod = client.V1Pod(metadata=client.V1ObjectMeta(name="root"), spec=client.V1PodSpec(containers=[container]))
    with pytest.raises(client.ApiException) as refused:
        await core.create_namespaced_pod(namespace, pod)
    assert refused.value.status == 403
    assert "PodSecurity" in str(refused.value.body)


async def test_a_service_account_may_do_nothing_until_it_is_allowed(api: client.ApiClient, namespace: str) -> None:
    core = client.CoreV1Api(api)
    await core.create_namespaced_service_account(
        namespace, client.V1ServiceAccount(metadata=client.V1ObjectMeta(name="nobody"))
    )
    token = await core.create_namespaced_service_account_token(
        "nobody", namespace, client.AuthenticationV1TokenRequest(spec=client.V1TokenRequestSpec(audiences=[]))
    )
    settings = client.Configuration()
    settings.host, settings.ssl_ca_cert = api.configuration.host, api.configuration.ssl_ca_cert
    settings.api_key = {"BearerToken": f"Bearer {token.status.token if token.status else ''}"}
    async with client.ApiClient(settings) as nobody:
        with pytest.raises(client.ApiException) as refused:
            await client.CoreV1Api(nobody).list_namespaced_secret(namespace)
    assert refused.value.status == 403


async def test_children_of_a_deleted_owner_are_collected(api: client.ApiClient, namespace: str) -> None:
    core = client.CoreV1Api(api)
    owner = await core.create_namespaced_config_map(
        namespace, client.V1ConfigMap(metadata=client.V1ObjectMeta(name="owner"))
    )
    assert owner.metadata is not None
    assert owner.metadata.uid is not None
    reference = client.V1OwnerReference(api_version="v1", kind="ConfigMap", name="owner", uid=owner.metadata.uid)
    child = client.V1ObjectMeta(name="child", owner_references=[reference])
    await core.create_namespaced_config_map(namespace, client.V1ConfigMap(metadata=child))
    await core.delete_namespaced_config_map("owner", namespace)
    async with asyncio.timeout(DEADLINE):
        names = {"child"}
        while "child" in names:
            await asyncio.sleep(0.1)
            found = await core.list_namespaced_config_map(namespace)
            names = {item.metadata.name for item in found.items if item.metadata and item.metadata.name}


async def test_a_stopped_api_server_comes_back_with_its_address_and_data(own_cluster: Cluster) -> None:
    await create_config_map(own_cluster, "kept")
    before = identities(own_cluster)

    await asyncio.to_thread(own_cluster.stop, controlplane.API_SERVER)
    with pytest.raises(aiohttp.ClientConnectionError):
        await config_map_names(own_cluster)
    await asyncio.to_thread(own_cluster.start, controlplane.API_SERVER)

    assert "kept" in await config_map_names(own_cluster)
    after = identities(own_cluster)
    assert {name for name in before if before[name] != after[name]} == {controlplane.API_SERVER}


async def test_the_stage_and_the_controllers_go_on_after_the_api_server_was_away(own_cluster: Cluster) -> None:
    await asyncio.to_thread(own_cluster.stop, controlplane.API_SERVER)
    await asyncio.to_thread(own_cluster.start, controlplane.API_SERVER)
    labels = {"app": "later"}
    template = client.V1PodTemplateSpec(
        metadata=client.V1ObjectMeta(labels=labels),
        spec=client.V1PodSpec(containers=[client.V1Container(name="main", image="main:1")]),
    )
    spec = client.V1DeploymentSpec(selector=client.V1LabelSelector(match_labels=labels), template=template)
    async with await connect(own_cluster.kubeconfig) as api, asyncio.timeout(DEADLINE):
        apps = client.AppsV1Api(api)
        await apps.create_namespaced_deployment(
            "default", client.V1Deployment(metadata=client.V1ObjectMeta(name="later"), spec=spec)
        )
        available: int | None = None
        while available != 1:
            await asyncio.sleep(0.1)
            found = await apps.read_namespaced_deployment("later", "default")
            available = found.status.available_replicas if found.status else None


def test_what_makes_no_sense_is_refused_in_words(own_cluster: Cluster) -> None:
    with pytest.raises(ClusterError, match=r"no component 'kubelet'; there are etcd, kube-apiserver"):
        own_cluster.stop("kubelet")
    with pytest.raises(ClusterError, match="etcd is running already"):
        own_cluster.start(controlplane.ETCD)


async def test_two_clusters_know_nothing_of_each_other(own_cluster: Cluster, beside: Cluster) -> None:
    await create_config_map(beside, "mine")
    assert "mine" not in await config_map_names(own_cluster)


def test_a_released_cluster_leaves_nothing(own_cluster: Cluster, beside: Cluster, tmp_path: Path) -> None:
    started = identities(beside)
    assert set(started) == {"etcd", "kube-apiserver", "kube-controller-manager", "supervisor"}
    clusters.release(beside, Identity.of_self())
    assert not [name for name, identity in started.items() if identity.alive()]
    assert [entry.name for entry in tmp_path.iterdir()] == [".lock"]
    assert own_cluster.processes()


def test_a_cluster_ends_with_the_last_process_that_holds_it(own_cluster: Cluster, tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "600"]) as another:
        try:
            holder = Identity.of(another.pid)
            assert holder is not None
            held = clusters.acquire("held", choice="local", stage=False, holder=holder, root=tmp_path)
            again = clusters.acquire("held", choice="local", stage=False, holder=Identity.of_self(), root=tmp_path)
            started = identities(held)
            assert again == held
            clusters.release(again, Identity.of_self())
            assert identities(held) == started
        finally:
            another.kill()
    until(lambda: not any(identity.alive() for identity in started.values()))
    until(lambda: not (tmp_path / "held").exists())


def test_a_killed_supervisor_takes_its_children_along_and_the_next_start_cleans_up(
    own_cluster: Cluster, tmp_path: Path
) -> None:
    holder = Identity.of_self()
    first = clusters.acquire("first", choice="local", stage=True, holder=holder, root=tmp_path)
    started = identities(first)
    assert started["supervisor"].end(signal.SIGKILL, DEADLINE)
    until(lambda: not any(identity.alive() for identity in started.values()))
    assert (tmp_path / "first").exists()
    with pytest.raises(ClusterError, match="does not answer"):
        first.processes()

    second = clusters.acquire("second", choice="local", stage=False, holder=holder, root=tmp_path)
    try:
        assert not (tmp_path / "first").exists()
    finally:
        clusters.release(second, holder)


def test_a_component_that_does_not_start_is_named_with_its_last_words(
    own_cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "cache"
    real = binaries.cached().directory
    copy = broken / "moa-operator" / "cluster" / real.name
    copy.mkdir(parents=True)
    for program in real.iterdir():
        (copy / program.name).symlink_to(program)
    (copy / "kube-apiserver").unlink()
    (copy / "kube-apiserver").write_text("#!/bin/sh\necho no thanks >&2\nexit 3\n", encoding="utf-8")
    (copy / "kube-apiserver").chmod(0o755)
    monkeypatch.setenv("XDG_CACHE_HOME", str(broken))
    root = tmp_path / "root"
    root.mkdir()
    with pytest.raises(ClusterError, match=r"(?s)kube-apiserver ended with status 3.*no thanks"):
        clusters.acquire("broken", choice="local", stage=False, root=root)
    assert [entry.name for entry in root.iterdir()] == [".lock"]


def test_the_command_line_gives_a_cluster_and_takes_it_away(own_cluster: Cluster) -> None:
    name = f"cli-{os.getpid()}"
    try:
        up = run_tool("up", "--name", name, "--provider", "local")
        assert up.returncode == 0, up.stderr
        export = up.stdout.splitlines()[-1]
        assert export.startswith("export KUBECONFIG=")
        assert name in run_tool("status").stdout
        names = run_tool("kubectl", "get", "namespaces", "-o", "name", MOA_CLUSTER=name)
        assert "namespace/kube-system" in names.stdout.splitlines()
        adopted = run_tool("up", KUBECONFIG=export.partition("=")[2])
        assert f"local cluster {name}" in adopted.stdout
    finally:
        down = run_tool("down", "--name", name)
    assert down.stdout == f"cluster {name} is gone\n"
    assert run_tool("down", "--name", name).stdout == f"there is no cluster {name}\n"
    assert not Path(export.partition("=")[2]).parent.exists()


def test_the_command_line_says_what_is_wrong() -> None:
    assert run_tool("up", "--name", "Not A Name").stderr.startswith("error: a cluster's name has 1 to 30 letters")
    assert "nothing to build is called 'kubelett'" in run_tool("build", "kubelett").stderr
    missing = run_tool("up", KUBECONFIG="/nowhere/kubeconfig")
    assert missing.returncode == 1
    assert "KUBECONFIG has to name one file that exists" in missing.stderr


async def test_the_small_client_reads_long_lists_by_pages(own_cluster: Cluster) -> None:
    state = own_cluster.state
    assert state is not None
    async with await connect(own_cluster.kubeconfig) as api:
        url = api.configuration.host
        body = client.V1ConfigMap(metadata=client.V1ObjectMeta(generate_name="many-", labels={"many": "yes"}))
        core = client.CoreV1Api(api)
        await asyncio.gather(*(core.create_namespaced_config_map("default", body) for _ in range(520)))
    async with KubeClient.from_pki(url, state.pki, "admin") as small:
        found, version = await small.list("/api/v1/configmaps", {"labelSelector": "many=yes"})
    assert len(found) == 520
    assert version


def test_a_given_cluster_is_nobody_s_to_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = tmp_path / "kubeconfig"
    given.write_text("{}", encoding="utf-8")
    monkeypatch.setenv("KUBECONFIG", str(given))
    found = clusters.acquire("any", stage=True, holder=Identity.of_self())
    assert (found.provider, found.kubeconfig, found.has_stage) == ("kubeconfig", given, False)
    with pytest.raises(CannotProvide, match="not ours to stop"):
        found.stop(controlplane.API_SERVER)
    clusters.release(found, Identity.of_self())
    assert given.exists()
