"""What takes a cluster of its own: one that loses its API server, has definitions of others, and gives few rights."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from kubernetes.aio import client
from tests.api.table import SMALLEST, edited
from tests.cluster.controlplane import API_SERVER
from tests.cluster.fixtures import connect
from tests.cluster.stage_pods import Outcome, rule_manifest
from tests.operator.cluster.access import APPLY, Access, at, eventually
from tests.operator.cluster.conftest import install, install_profiles
from tests.operator.cluster.processes import running
from tests.operator.cluster.proxy import proxied
from tests.operator.documents import EVERYTHING

from moa_operator.resources import (
    CHILDREN,
    CONFIG_MAPS,
    DEPLOYMENTS,
    HTTP_ROUTES,
    OPTIONAL_CHILDREN,
    PROFILES,
    SECRETS,
    SERVICE_ACCOUNTS,
    SERVICES,
    Resource,
)
from moa_operator.rights import WORK, Right, leadership, rules

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping
    from pathlib import Path

    from tests.cluster.clusters import Cluster
    from tests.operator.cluster.proxy import Call

    from moa_api.fields import JSONObject

OUTAGE_SECONDS = 60.0
LEASE = "moa-operator"


@pytest.fixture
async def access(own_cluster: Cluster, request: pytest.FixtureRequest) -> AsyncIterator[Access]:
    """A fresh namespace in the module's cluster."""
    async with await connect(own_cluster.kubeconfig) as api:
        name = f"test-{abs(hash(request.node.name)):x}"
        await client.CoreV1Api(api).create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=name)))
        found = Access(api, name)
        await install_profiles(found)
        yield found


def foreign_definition(resource: Resource) -> dict[str, object]:
    """A definition of somebody else's kind that takes whatever it is given."""
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": resource.version, "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    metadata: dict[str, object] = {"name": f"{resource.plural}.{resource.group}"}
    if resource.group.endswith("k8s.io"):
        metadata["annotations"] = {"api-approved.kubernetes.io": "unapproved, for a test"}
    names = {"kind": resource.kind, "plural": resource.plural}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": metadata,
        "spec": {"group": resource.group, "scope": "Namespaced", "names": names, "versions": [version]},
    }


async def install_optional(access: Access) -> None:
    for resource in OPTIONAL_CHILDREN:
        await install(access, foreign_definition(resource))


async def test_a_kind_that_the_cluster_does_not_have_is_left_out_and_said_so(
    own_cluster: Cluster, access: Access, tmp_path: Path
) -> None:
    route = {"spec.router": {"route": at(EVERYTHING["spec.router"], "route")}}
    arguments = (f"--namespace={access.namespace}", "--no-leader-elect")
    async with running(own_cluster.kubeconfig, tmp_path / "operator.log", *arguments):
        await access.profile(edited(SMALLEST, route))
        conditions = await access.until("research", Ready="True", Programmed="True")
        assert HTTP_ROUTES.kind in conditions["Programmed"].message


async def test_kinds_of_others_are_made_repaired_and_removed_like_our_own(
    own_cluster: Cluster, access: Access, tmp_path: Path
) -> None:
    await install_optional(access)
    edits = {
        "spec.router": {"route": at(EVERYTHING["spec.router"], "route")},
        "spec.telemetry.serviceMonitor": {"enabled": True},
    }
    arguments = (f"--namespace={access.namespace}", "--no-leader-elect")
    async with running(own_cluster.kubeconfig, tmp_path / "operator.log", *arguments) as operator:
        await access.profile(edited(SMALLEST, edits))
        await access.until("research", Ready="True")
        await access.settled()
        for resource in OPTIONAL_CHILDREN:
            before = await access.child(resource)
            await access.edit(resource, "research-moa", {"spec": None})
            await eventually(
                lambda each=resource: access.get(each, "research-moa"),  # type: ignore[misc] # the kind is bound
                lambda found, spec=before["spec"]: at(found, "spec") == spec,  # type: ignore[misc] # so is the spec
            )
        reconciles = await operator.total("moa_operator_reconciles_total")
        versions = [await access.child(resource) for resource in OPTIONAL_CHILDREN]
        await access.edit(PROFILES, "research", {"metadata": {"annotations": {"look": "again"}}})
        await eventually(lambda: operator.total("moa_operator_reconciles_total"), lambda count: count > reconciles)
        assert [await access.child(resource) for resource in OPTIONAL_CHILDREN] == versions
        patch = {"spec": {"router": {"route": None}, "telemetry": {"serviceMonitor": {"enabled": False}}}}
        await access.edit(PROFILES, "research", patch)
        for resource in OPTIONAL_CHILDREN:
            await eventually(lambda each=resource: access.get(each, "research-moa"), lambda found: found is None)  # type: ignore[misc] # the kind is bound


async def account(access: Access, rights: Iterable[Right]) -> str:
    """A service account with these rights and no others in its namespace; returns its token."""
    core = "/apis/rbac.authorization.k8s.io/v1"
    await access.create(SERVICE_ACCOUNTS, {"metadata": {"name": "operator"}})
    place = f"{core}/namespaces/{access.namespace}"
    await access.call("POST", f"{place}/roles", {"metadata": {"name": "operator"}, "rules": rules(rights)})
    binding = {
        "metadata": {"name": "operator"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "operator"},
        "subjects": [{"kind": "ServiceAccount", "name": "operator", "namespace": access.namespace}],
    }
    await access.call("POST", f"{place}/rolebindings", binding)
    path = SERVICE_ACCOUNTS.path(access.namespace, "operator", "token")
    return str(at(await access.call("POST", path, {"spec": {"expirationSeconds": 3600}}), "status", "token"))


async def fare(access: Access, outcome: Outcome) -> None:
    """Tells the stage how pods fare."""
    path = CONFIG_MAPS.path(access.namespace, "stage")
    await access.call("PATCH", path, rule_manifest("stage", outcome), {"fieldManager": "tests"}, APPLY)


def exercised(call: Call, namespace: str) -> list[tuple[str, str, str]]:
    """The rights that a call took: group, kind with subresource, verb."""
    group, _, rest = call.path.partition(f"/namespaces/{namespace}/")
    plural, *more = rest.split("/")
    target = f"{plural}/{more[1]}" if len(more) > 1 else plural
    named = bool(more)
    verbs = {
        "GET": ["get"] if named else ["watch" if call.is_watch else "list"],
        "POST": ["create"],
        "PUT": ["update"],
        "PATCH": ["patch", "create"] if call.status == 201 else ["patch"],
        "DELETE": ["delete"],
    }
    name = "" if group == "/api/v1" else group.split("/")[2]
    return [(name, target, verb) for verb in verbs[call.method]]


async def test_it_gets_by_with_its_rights_and_uses_each(own_cluster: Cluster, access: Access, tmp_path: Path) -> None:
    await install_optional(access)
    granted = (*WORK, *leadership(LEASE))
    token = await account(access, granted)
    await access.create(SECRETS, {"metadata": {"name": "keys"}, "data": {"api-key": "a2V5"}})
    router = {
        "networkPolicy": {"enabled": True},
        "autoscaling": {"maxReplicas": 3},
        "route": at(EVERYTHING["spec.router"], "route"),
    }
    everything: Mapping[str, object] = {
        "spec.upstreams[0].apiKeySecretRef": {"name": "keys", "key": "api-key"},
        "spec.telemetry.serviceMonitor": {"enabled": True},
        "spec.router": router,
    }
    nothing: JSONObject = {
        "telemetry": {"serviceMonitor": {"enabled": False}},
        "router": {
            "networkPolicy": {"enabled": False},
            "autoscaling": None,
            "route": None,
            "podDisruptionBudget": {"enabled": False},
        },
    }
    async with proxied(own_cluster.kubeconfig, anonymous=True) as proxy:
        config = proxy.kubeconfig(tmp_path / "kubeconfig", token)
        arguments = (f"--namespace={access.namespace}", f"--lease-namespace={access.namespace}")
        async with running(config, tmp_path / "operator.log", *arguments):
            await fare(access, Outcome.IMAGE_PULL)
            await access.profile(edited(SMALLEST, everything))
            await access.until("research", Ready="False/ImagePullBackOff")
            await fare(access, Outcome.READY)
            await access.until("research", Ready="True")
            await access.settled()
            await access.edit(PROFILES, "research", {"spec": nothing})
            for resource in CHILDREN[4:]:
                await eventually(lambda each=resource: access.get(each, "research-moa"), lambda found: found is None)  # type: ignore[misc] # the kind is bound
            for resource in CHILDREN[:4]:
                await access.edit(resource, "research-moa", {"metadata": {"labels": None}})
            await access.settled()
        calls = [call for call in proxy.calls if "/namespaces/" in call.path]
        assert {call.path for call in calls if call.status in {401, 403}} == set()
        used = {each for call in calls for each in exercised(call, access.namespace)}
        held = {(right.resource.group, right.target, verb) for right in granted for verb in right.verbs}
        assert used == held
        # Beyond the namespace it asks only what the API server has, which everyone may.
        assert [call.path for call in proxy.calls if call not in calls and call.path.count("/") > 3] == []


@pytest.mark.timeout(300)
async def test_an_api_server_that_was_away_for_a_minute_finds_everything_as_it_should_be(
    own_cluster: Cluster, access: Access, tmp_path: Path
) -> None:
    arguments = (f"--namespace={access.namespace}", "--no-leader-elect")
    async with running(own_cluster.kubeconfig, tmp_path / "operator.log", *arguments) as operator:
        await access.profile(SMALLEST)
        await access.until("research", Ready="True")
        await asyncio.to_thread(own_cluster.stop, API_SERVER)
        await asyncio.sleep(OUTAGE_SECONDS)
        assert (await operator.admin("/livez"))[0] == 200
        await asyncio.to_thread(own_cluster.start, API_SERVER)
        await access.profile(edited(SMALLEST, {"spec.router": {"replicas": 3}}))
        # Not its pods: the controllers that make them take their own time to come back.
        await eventually(
            lambda: access.get(DEPLOYMENTS, "research-moa"), lambda found: at(found, "spec", "replicas") == 3
        )
        await access.delete(SERVICES, "research-moa")
        await eventually(lambda: access.get(SERVICES, "research-moa"), lambda found: found is not None)
        assert operator.process.returncode is None
