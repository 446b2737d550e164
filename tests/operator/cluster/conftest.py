"""What the operator's tests on a real API server use."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from tests.cluster.fixtures import api, cluster, kubeconfig, namespace, own_cluster, play, pytest_collection_finish
from tests.operator.cluster.access import APPLY, Access, at, eventually
from tests.operator.cluster.processes import running

from moa_operator.resources import PROFILES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from kubernetes.aio.client import ApiClient
    from tests.operator.cluster.processes import Process

__all__ = ["api", "cluster", "kubeconfig", "namespace", "own_cluster", "play", "pytest_collection_finish"]

CRD = Path(__file__).parents[3] / "crds" / "moaprofiles.yaml"
_DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


async def install(access: Access, definition: dict[str, object]) -> None:
    """Installs a definition and waits until its kind is served."""
    name = str(at(definition, "metadata", "name"))
    query = {"fieldManager": "tests", "force": "true"}
    await access.call("PATCH", f"{_DEFINITIONS}/{name}", definition, query, APPLY)

    def established(found: object) -> bool:
        conditions = at(found, "status", "conditions")
        entries = conditions if isinstance(conditions, list) else []
        return any(at(each, "type") == "Established" and at(each, "status") == "True" for each in entries)

    await eventually(lambda: access.call("GET", f"{_DEFINITIONS}/{name}"), established)


async def install_profiles(access: Access) -> None:
    """Installs the definition of MoAProfiles."""
    await install(access, yaml.safe_load(CRD.read_text(encoding="utf-8")))

    async def served() -> object:
        found = await access.call("GET", PROFILES.root)
        return at(found, "resources", 0, "name")

    await eventually(served, lambda name: name == PROFILES.plural)


@pytest.fixture
async def access(api: ApiClient, namespace: str) -> Access:
    """A fresh namespace in a cluster that knows MoAProfiles."""
    found = Access(api, namespace)
    await install_profiles(found)
    return found


@pytest.fixture
async def operator(access: Access, kubeconfig: Path, tmp_path: Path) -> AsyncIterator[Process]:
    """An operator that sees to the fresh namespace."""
    arguments = (f"--namespace={access.namespace}", f"--lease-namespace={access.namespace}")
    async with running(kubeconfig, tmp_path / "operator.log", *arguments) as process:
        yield process
