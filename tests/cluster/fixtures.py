"""What tests that need a real Kubernetes ask for: `cluster` and its `kubeconfig`, `api`, `namespace` and `play`.

`own_cluster` is for those that stop parts of it, `node_cluster` for those that run pods.

A conftest registers it by `pytest_plugins = ["tests.cluster.fixtures"]`, or imports the fixtures it wants by name. A
machine that has no cluster to give skips those tests and says why; with `MOA_REQUIRE_CLUSTER=1` they fail instead, with
`MOA_REQUIRE_NODES=1` those that need nodes.
"""

from __future__ import annotations

import os
import secrets
from typing import TYPE_CHECKING, NoReturn, Protocol

import pytest
from kubernetes.aio import client, config
from tests.cluster import clusters
from tests.cluster.errors import CannotProvide
from tests.cluster.processes import Identity
from tests.cluster.stage_pods import Outcome, rule_manifest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping
    from pathlib import Path

    from tests.cluster.clusters import Choice, Cluster

NODES = 2
"""Of `node_cluster`: a drain needs somewhere to go."""

_RULE = "stage"
_APPLY = "application/apply-patch+yaml"


class Play(Protocol):
    """What the fixture `play` gives."""

    async def __call__(
        self, outcome: Outcome, selector: Mapping[str, str] | None = None, ready_after: float = 0.0
    ) -> None:
        """Have the pods that match `selector` (all by default) fare as said, ready after so many seconds."""
        ...


def pytest_collection_finish(session: pytest.Session) -> None:
    """Compile before the first test, where no test's time limit counts."""
    needed = {name for item in session.items for name in getattr(item, "fixturenames", ())}
    if session.config.option.collectonly or not needed & {"cluster", "own_cluster", "node_cluster"}:
        return
    capture = session.config.pluginmanager.getplugin("capturemanager")
    try:
        if "own_cluster" in needed or clusters.select() == "local":
            with capture.global_and_fixture_disabled():
                # Apart, because a machine that cannot have nodes may well have a control plane.
                for count in (0, NODES) if "node_cluster" in needed else (0,):
                    clusters.PROVIDERS["local"].prepare(count)
    except CannotProvide:
        return  # the fixtures say it once more, to the tests that need to hear it


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The test run's cluster, shared by its workers; nothing in it may be stopped (see `own_cluster`)."""
    yield from _held(f"pytest-{_run_id()}", "auto")


@pytest.fixture(scope="module")
def own_cluster() -> Iterator[Cluster]:
    """A cluster for one module alone, whose parts it may stop and start."""
    yield from _held(f"own-{secrets.token_hex(4)}", "local")


@pytest.fixture(scope="session")
def node_cluster() -> Iterator[Cluster]:
    """The test run's cluster with two real nodes, shared by its workers.

    A conftest whose tests all need nodes overrides `cluster` by it, and so has `api` and the others work on it.
    """
    for found in _held(f"nodes-{_run_id()}", "auto", nodes=NODES):
        if found.has_stage:
            _cannot(f"cluster {found.name} has no node but the stage", nodes=True)
        yield found


@pytest.fixture(scope="session")
def kubeconfig(cluster: Cluster) -> Path:
    """The administrator's access to `cluster`."""
    return cluster.kubeconfig


@pytest.fixture
async def api(kubeconfig: Path) -> AsyncIterator[client.ApiClient]:
    """The official client, connected to `cluster` as its administrator."""
    async with await connect(kubeconfig) as connected:
        yield connected


@pytest.fixture
async def namespace(api: client.ApiClient) -> AsyncIterator[str]:
    """The name of a fresh namespace in `cluster`; deleted afterwards, which nobody waits for."""
    core = client.CoreV1Api(api)
    name = f"test-{secrets.token_hex(4)}"
    await core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=name)))
    yield name
    await core.delete_namespace(name)


@pytest.fixture
def play(cluster: Cluster, api: client.ApiClient, namespace: str) -> Play:
    """Tells the stage how the pods of `namespace` fare: `await play(Outcome.CRASH_LOOP, {"app": "web"})`.

    The last call counts. Pods are `Ready` at once until it is called; see `stage_pods.rule_manifest`.
    """
    if not cluster.has_stage:
        _cannot(f"cluster {cluster.name} has real nodes; the stage plays on clusters of our own alone")

    async def _play(outcome: Outcome, selector: Mapping[str, str] | None = None, ready_after: float = 0.0) -> None:
        rule = rule_manifest(_RULE, outcome, selector, ready_after)
        await client.CoreV1Api(api).patch_namespaced_config_map(
            _RULE, namespace, rule, field_manager="tests", force=True, _content_type=_APPLY
        )

    return _play


async def connect(kubeconfig: Path) -> client.ApiClient:
    """The official client for a kubeconfig; close it, or use it as an async context manager."""
    settings = client.Configuration()
    await config.load_kube_config(str(kubeconfig), client_configuration=settings)  # type: ignore[no-untyped-call] # theirs
    return client.ApiClient(settings)


def _run_id() -> str:
    return (os.environ.get("PYTEST_XDIST_TESTRUNUID") or secrets.token_hex(8))[:16]


def _held(name: str, choice: Choice, nodes: int = 0) -> Iterator[Cluster]:
    holder = Identity.of_self()
    try:
        found = clusters.acquire(name, choice=choice, stage=not nodes, nodes=nodes, holder=holder)
    except CannotProvide as reason:
        _cannot(str(reason), nodes=nodes > 0)
    try:
        yield found
    finally:
        clusters.release(found, holder)


def _cannot(reason: str, *, nodes: bool = False) -> NoReturn:
    what, variable = ("nodes", "MOA_REQUIRE_NODES") if nodes else ("Kubernetes cluster", "MOA_REQUIRE_CLUSTER")
    if os.environ.get(variable, "") not in {"", "0"}:
        pytest.fail(f"{variable} is set, and there is no {what}: {reason}", pytrace=False)
    pytest.skip(f"no {what}: {reason}")
