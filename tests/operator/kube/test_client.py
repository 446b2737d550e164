"""Calls to the API server: what is sent, what is tried again, what is said when it fails."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest
from aiohttp import web
from tests.operator.kube_server import Answer, Server, cut, given, refused, serving

from moa_operator.kube import events
from moa_operator.kube.client import together
from moa_operator.kube.errors import Refused, Unreachable
from moa_operator.kube.leases import Leases
from moa_operator.kube.objects import Live
from moa_operator.resources import DEPLOYMENTS, PROFILES, SECRETS, SERVICES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from moa_api.fields import JSONObject

MANIFEST: JSONObject = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "o", "namespace": "ns"}}


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serving() as found:
        yield found


async def test_what_is_not_there_is_none(server: Server) -> None:
    server.script = [refused(404, "NotFound")]
    assert await server.kube.get(SERVICES, "ns", "o") is None
    found = await server.kube.get(SERVICES, "ns", "o")
    assert found is not None
    assert found.meta.resource_version == "1"
    assert [request[:2] for request in server.requests] == [("GET", "/api/v1/namespaces/ns/services/o")] * 2


async def test_an_apply_says_who_applies_and_how_long_it_may_take(server: Server) -> None:
    await server.kube.apply(SERVICES, MANIFEST, subresource="status")
    [(method, path, headers)] = server.requests
    assert method == "PATCH"
    assert path.startswith("/api/v1/namespaces/ns/services/o/status?")
    assert {"fieldManager=moa-operator", "force=true", "timeout=3s"} <= set(path.partition("?")[2].split("&"))
    assert headers["Content-Type"] == "application/apply-patch+yaml"
    assert json.loads(server.bodies[0]) == MANIFEST


@pytest.mark.parametrize(
    "answer", [refused(429, **{"Retry-After": "0"}), refused(500), refused(503), cut], ids=["429", "500", "503", "cut"]
)
async def test_what_may_work_a_little_later_is_tried_again(server: Server, answer: Answer) -> None:
    server.script = [answer, answer]
    await server.kube.apply(SERVICES, MANIFEST)
    assert len(server.requests) == 3


@pytest.mark.parametrize("code", [400, 403, 409, 422])
async def test_what_will_not_work_later_is_not_tried_again(server: Server, code: int) -> None:
    server.script = [refused(code, "Because", "of this")]
    with pytest.raises(Refused) as caught:
        await server.kube.update(SERVICES, MANIFEST)
    assert (caught.value.status, caught.value.reason, caught.value.message) == (code, "Because", "of this")
    assert not caught.value.transient
    assert len(server.requests) == 1


async def test_a_conflict_of_an_apply_is_nobodys_fault_and_tried_again(server: Server) -> None:
    server.script = [refused(409, "Conflict")]
    await server.kube.apply(SERVICES, MANIFEST)
    assert len(server.requests) == 2


async def test_tries_come_to_an_end(server: Server) -> None:
    server.otherwise = refused(503)
    with pytest.raises(Refused) as caught:
        await server.kube.get(SERVICES, "ns", "o")
    assert caught.value.transient
    assert len(server.requests) == 4


async def test_a_server_that_asks_to_wait_long_is_left_alone(server: Server) -> None:
    server.script = [refused(429, **{"Retry-After": "60"})]
    with pytest.raises(Refused) as caught:
        await server.kube.get(SERVICES, "ns", "o")
    assert caught.value.retry_after == 60
    assert len(server.requests) == 1


async def test_a_page_of_a_proxy_is_a_refusal_too(server: Server) -> None:
    server.otherwise = lambda _: web.Response(text="<html>", status=502, headers={"Retry-After": "soon"})
    with pytest.raises(Refused, match="Bad Gateway"):
        await server.kube.get(SERVICES, "ns", "o")


async def test_who_is_not_there_is_unreachable(server: Server) -> None:
    server.otherwise = cut
    with pytest.raises(Unreachable, match="/api/v1/namespaces/ns/services/o"):
        await server.kube.get(SERVICES, "ns", "o")


async def test_lists_come_in_chunks(server: Server) -> None:
    server.script = [
        given({"metadata": {"continue": "more"}, "items": [{"metadata": {"name": "a"}}]}),
        given({"metadata": {}, "items": [{"metadata": {"name": "b"}}]}),
    ]
    found = [each.meta.name async for each in server.kube.list_all(SERVICES, None, "a=b")]
    assert found == ["a", "b"]
    assert [path for _, path, _ in server.requests] == [
        "/api/v1/services?limit=250&labelSelector=a%3Db",
        "/api/v1/services?limit=250&labelSelector=a%3Db&continue=more",
    ]


async def test_a_list_that_expires_half_way_begins_again(server: Server) -> None:
    page = given({"metadata": {"continue": "more"}, "items": [{"metadata": {"name": "a"}}]})
    last = given({"metadata": {}, "items": [{"metadata": {"name": "b"}}]})
    server.script = [page, refused(410, "Expired"), page, last]
    assert [each.meta.name async for each in server.kube.list_all(SERVICES, "ns")] == ["a", "a", "b"]


async def test_metadata_travels_alone_where_the_rest_is_not_needed(server: Server) -> None:
    await server.kube.get_metadata(SECRETS, "ns", "o")
    assert "PartialObjectMetadata" in server.requests[0][2]["Accept"]


async def test_a_delete_names_what_it_means_and_is_content_if_it_is_gone(server: Server) -> None:
    server.script = [refused(404, "NotFound")]
    await server.kube.delete(SERVICES, Live({"metadata": {"name": "o", "uid": "u", "resourceVersion": "7"}}))
    assert json.loads(server.bodies[0])["preconditions"] == {"uid": "u", "resourceVersion": "7"}


async def test_a_patch_is_for_the_version_that_was_read(server: Server) -> None:
    live = Live({"metadata": {"name": "o", "namespace": "ns", "resourceVersion": "7"}})
    await server.kube.patch(SERVICES, live, {"spec": {"ports": []}})
    assert json.loads(server.bodies[0]) == {"spec": {"ports": []}, "metadata": {"resourceVersion": "7"}}


async def test_kinds_are_asked_for(server: Server) -> None:
    server.script = [given({"resources": [{"name": "deployments"}]}), given({"resources": []}), refused(404)]
    assert await server.kube.serves(DEPLOYMENTS)
    assert not await server.kube.serves(DEPLOYMENTS)
    assert not await server.kube.serves(PROFILES)
    server.script = [refused(403)]
    with pytest.raises(Refused):
        await server.kube.serves(PROFILES)


async def test_calls_are_counted_by_what_came_of_them(server: Server) -> None:
    server.script = [cut, refused(503)]
    await server.kube.apply(SERVICES, MANIFEST)

    def count(code: str) -> float | None:
        labels = {"verb": "apply", "kind": "Service", "code": code}
        return server.metrics.registry.get_sample_value("moa_operator_api_requests_total", labels)

    assert (count("503"), count("none"), count("200")) == (1, 1, 1)


async def test_a_write_that_was_sent_is_waited_for_by_who_is_cancelled(server: Server) -> None:
    server.flowing.clear()
    task = asyncio.create_task(server.kube.apply(SERVICES, MANIFEST))
    await asyncio.wait_for(server.arrived.wait(), 10)
    task.cancel()
    await asyncio.sleep(0.05)
    assert not task.done()
    server.flowing.set()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_read_is_given_up_at_once_by_who_is_cancelled(server: Server) -> None:
    server.flowing.clear()
    task = asyncio.create_task(server.kube.get(SERVICES, "ns", "o"))
    await asyncio.wait_for(server.arrived.wait(), 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    server.flowing.set()


async def test_of_calls_made_together_the_first_error_is_raised_as_it_is() -> None:
    async def fail() -> int:
        raise Unreachable("no")

    async def succeed() -> int:
        return 1

    with pytest.raises(Unreachable):
        await together([succeed(), fail()])
    assert await together([succeed(), succeed()]) == [1, 1]


# Leases and events.


async def test_a_lease_that_somebody_else_has_written_is_not_ours(server: Server) -> None:
    leases = Leases(server.kube, "ns", "lease")
    server.script = [refused(404), refused(409, "AlreadyExists")]
    assert await leases.read() is None
    assert await leases.write(None, "me", 10) is None
    server.script = [
        given({"metadata": {"name": "lease", "resourceVersion": "4"}, "spec": {"holderIdentity": "other"}}),
        refused(409, "Conflict"),
    ]
    assert await leases.write(await leases.read(), "me", 10) is None


async def test_a_lease_counts_how_often_it_changed_hands_and_says_since_when(server: Server) -> None:
    leases = Leases(server.kube, "ns", "lease")
    spec = {"holderIdentity": "me", "acquireTime": "then", "leaseTransitions": 3}
    server.script = [given({"metadata": {"name": "lease", "resourceVersion": "4"}, "spec": spec})] * 2
    former = await leases.read()
    await leases.write(former, "me", 10)
    renewed = json.loads(server.bodies[-1])
    assert renewed["metadata"]["resourceVersion"] == "4"
    assert (renewed["spec"]["acquireTime"], renewed["spec"]["leaseTransitions"]) == ("then", 3)
    await leases.write(former, "other", 10)
    taken = json.loads(server.bodies[-1])["spec"]
    assert taken["acquireTime"] != "then"
    assert (taken["holderIdentity"], taken["leaseTransitions"]) == ("other", 4)


async def test_an_event_is_told_once_and_never_in_the_way(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    profile = Live({"metadata": {"name": "research", "namespace": "ns", "uid": "u"}})
    occurrence = events.Occurrence("Ready", "Serving", "n" * 5000, is_warning=False, identity="i")
    server.script = [refused(409, "AlreadyExists"), refused(403), given({}), cut, cut, cut, cut]
    for _ in range(4):
        await events.tell(server.kube, profile, occurrence, "me")
    sent = [json.loads(body) for body in server.bodies]
    assert len({each["metadata"]["name"] for each in sent}) == 1
    assert len(sent[0]["note"]) == 1000
    assert (sent[0]["type"], sent[0]["regarding"]["uid"]) == ("Normal", "u")
    assert len(caplog.records) == 2
