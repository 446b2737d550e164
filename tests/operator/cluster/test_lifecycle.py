"""Operators come and go; what they made stays, follows, and goes with its profile."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from kubernetes.aio import client
from tests.api.table import SMALLEST, edited
from tests.operator.cluster.access import COLLECTION_SECONDS, at, eventually
from tests.operator.cluster.processes import running
from tests.operator.cluster.proxy import proxied

from moa_operator.keys import Key
from moa_operator.kube.client import Kube
from moa_operator.metrics import Metrics
from moa_operator.reconcile.reconciler import Reconciler, Settings
from moa_operator.resources import BUILT_IN_CHILDREN, CONFIG_MAPS, DEPLOYMENTS, PROFILES, SERVICES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from tests.operator.cluster.access import Access
    from tests.operator.cluster.processes import Process


def operator(access: Access, kubeconfig: Path, log: Path) -> AbstractAsyncContextManager[Process]:
    return running(kubeconfig, log, f"--namespace={access.namespace}", f"--lease-namespace={access.namespace}")


@pytest.mark.timeout(300)
async def test_children_go_with_their_profile_while_no_operator_runs(
    access: Access, kubeconfig: Path, tmp_path: Path
) -> None:
    async with operator(access, kubeconfig, tmp_path / "log"):
        await access.profile(SMALLEST)
        await access.until("research", Ready="True")
    await access.delete(PROFILES, "research")
    await eventually(access.versions, lambda found: found == {}, COLLECTION_SECONDS)


async def test_what_changed_while_no_operator_ran_is_made_good(
    access: Access, kubeconfig: Path, tmp_path: Path
) -> None:
    async with operator(access, kubeconfig, tmp_path / "log"):
        await access.profile(SMALLEST)
        await access.until("research", Ready="True")
    await access.profile(edited(SMALLEST, {"spec.router": {"image": "new:1"}}))
    await access.edit(DEPLOYMENTS, "research-moa", {"spec": {"replicas": 9}})
    await access.delete(SERVICES, "research-moa")
    await access.profile(edited(SMALLEST, {"metadata.name": "other", "spec.router": {"replicas": 1}}))
    async with operator(access, kubeconfig, tmp_path / "log"):
        await eventually(lambda: access.get(SERVICES, "research-moa"), lambda found: found is not None)
        await access.until("other", Ready="True")
        await access.settled()
        child = await access.child(DEPLOYMENTS)
        assert at(child, "spec", "replicas") == 2
        assert at(child, "spec", "template", "spec", "containers", 0, "image") == "new:1"


async def test_a_new_start_writes_nothing_where_nothing_changed(
    access: Access, kubeconfig: Path, tmp_path: Path
) -> None:
    await access.service("vllm-qwen", 8000)
    async with operator(access, kubeconfig, tmp_path / "log"):
        await access.profile(SMALLEST)
        await access.until("research", Ready="True", Degraded="False")
        before = await access.settled()
    async with operator(access, kubeconfig, tmp_path / "log") as again:
        await eventually(lambda: again.total("moa_operator_reconciles_total"), lambda count: count >= 1)
        assert await access.settled() == before
        assert {outcome for _, outcome in await again.samples("moa_operator_applies_total")} == {"skipped"}


@asynccontextmanager
async def one_look(kubeconfig: Path) -> AsyncIterator[Reconciler]:
    """A reconciler of the current version."""
    async with proxied(kubeconfig) as proxy, client.ApiClient(client.Configuration(host=proxy.url)) as api:
        metrics = Metrics()
        yield Reconciler(Kube(api, metrics), metrics, Settings("moa-router:test", "test"), lambda: BUILT_IN_CHILDREN)


async def test_what_an_older_version_rendered_is_taken_over_without_a_rollout(access: Access, kubeconfig: Path) -> None:
    """An older version knew fewer labels and wrote other things than pods into its objects."""
    key = Key(access.namespace, "research")
    await access.profile(SMALLEST)
    async with one_look(kubeconfig) as reconciler:
        await reconciler.reconcile(key)
    generation = at(await access.child(DEPLOYMENTS), "metadata", "generation")
    template = at(await access.child(DEPLOYMENTS), "spec", "template")
    await access.edit(DEPLOYMENTS, "research-moa", {"metadata": {"labels": {"app.kubernetes.io/part-of": None}}})
    await access.edit(CONFIG_MAPS, "research-moa", {"data": {"accepted.json": None, "profile.yaml": "{}"}})
    await access.edit(SERVICES, "research-moa", {"metadata": {"labels": {"app.kubernetes.io/component": "old"}}})
    async with one_look(kubeconfig) as reconciler:
        await reconciler.reconcile(key)
    child = await access.child(DEPLOYMENTS)
    assert at(child, "metadata", "labels", "app.kubernetes.io/part-of") == "moa"
    assert at(child, "metadata", "generation") == generation
    assert at(child, "spec", "template") == template
    assert "accepted.json" in str((await access.child(CONFIG_MAPS))["data"])
