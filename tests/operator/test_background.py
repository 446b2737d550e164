"""Those who look by themselves: for kinds, for references, for profiles that watches missed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from aiohttp import web
from tests.operator.kube_server import Answer, Server, given, refused, serving

from moa_operator import discovery, relist
from moa_operator.discovery import Discovery
from moa_operator.keys import Key
from moa_operator.kube.errors import Refused
from moa_operator.references import Reference
from moa_operator.relist import Relist
from moa_operator.resources import BUILT_IN_CHILDREN, HTTP_ROUTES
from moa_operator.watchlist import Watchlist

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

RESEARCH, OTHER = Key("ns", "research"), Key("ns", "other")
KEYS = Reference("Secret", "ns", "keys")
QWEN = Reference("Service", "ns", "qwen")


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serving() as found:
        yield found


# References.


class Objects:
    """Versions of objects by the end of their path; others are not there."""

    def __init__(self, **versions: str) -> None:
        self.versions = versions

    def __call__(self, request: web.BaseRequest) -> web.Response:
        version = self.versions.get(request.path.rpartition("/")[2])
        if version is None:
            return refused(404)(request)
        return web.json_response({"metadata": {"name": "o", "resourceVersion": version}})


async def looked(server: Server, watchlist: Watchlist, noticed: list[Key], *, everywhere: bool = True) -> list[Key]:
    noticed.clear()
    server.requests.clear()
    await watchlist.look(everywhere=everywhere)
    return sorted(noticed)


async def test_a_profile_is_told_when_something_it_refers_to_changes_comes_or_goes(server: Server) -> None:
    noticed: list[Key] = []
    watchlist = Watchlist(server.kube, noticed.append)
    objects = server.otherwise = Objects(keys="1")
    watchlist.remember(RESEARCH, {KEYS: "1", QWEN: ""})
    watchlist.remember(OTHER, {KEYS: "1"})
    assert await looked(server, watchlist, noticed) == []
    assert len(server.requests) == 2
    objects.versions = {"keys": "2"}
    assert await looked(server, watchlist, noticed) == [OTHER, RESEARCH]
    objects.versions = {"keys": "1", "qwen": "5"}
    assert await looked(server, watchlist, noticed) == [RESEARCH]
    objects.versions = {}
    assert await looked(server, watchlist, noticed) == [OTHER, RESEARCH]


async def test_what_is_missing_is_looked_for_more_often(server: Server) -> None:
    noticed: list[Key] = []
    watchlist = Watchlist(server.kube, noticed.append)
    server.otherwise = Objects(keys="2", qwen="5")
    watchlist.remember(RESEARCH, {KEYS: "1", QWEN: ""})
    watchlist.remember(OTHER, {KEYS: "1"})
    assert await looked(server, watchlist, noticed, everywhere=False) == [RESEARCH]
    assert [path for _, path, _ in server.requests] == ["/api/v1/namespaces/ns/services/qwen"]


async def test_what_a_profile_no_longer_refers_to_is_not_looked_at(server: Server) -> None:
    watchlist = Watchlist(server.kube, lambda _: None)
    watchlist.remember(RESEARCH, {KEYS: "1"})
    watchlist.remember(RESEARCH, {})
    await watchlist.look(everywhere=True)
    assert server.requests == []


async def test_what_cannot_be_looked_at_has_not_changed(server: Server) -> None:
    noticed: list[Key] = []
    watchlist = Watchlist(server.kube, noticed.append)
    server.otherwise = refused(403)
    watchlist.remember(RESEARCH, {KEYS: "1", QWEN: ""})
    assert await looked(server, watchlist, noticed) == []


# Kinds.


def kinds(*served: str) -> Answer:
    def answer(request: web.BaseRequest) -> web.Response:
        group = request.path.split("/")[2]
        if group not in served:
            return refused(404)(request)
        plurals = {"moa-operator.io": "moaprofiles", "gateway.networking.k8s.io": "httproutes"}
        return web.json_response({"resources": [{"name": plurals[group]}]})

    return answer


async def test_kinds_come_and_go_with_their_definitions(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "_RETRY_SECONDS", 0.01)
    found = Discovery(server.kube)
    server.otherwise = kinds()
    waiting = asyncio.create_task(found.wait())
    await asyncio.sleep(0.05)
    assert not waiting.done()
    assert not found.serves_profiles
    server.otherwise = kinds("moa-operator.io")
    assert await asyncio.wait_for(waiting, 10) == BUILT_IN_CHILDREN
    server.otherwise = kinds("moa-operator.io", "gateway.networking.k8s.io")
    assert await found.refresh()
    assert not await found.refresh()
    assert found.kinds() == (*BUILT_IN_CHILDREN, HTTP_ROUTES)


async def test_an_outage_changes_no_kinds(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "_RETRY_SECONDS", 0.01)
    monkeypatch.setattr(discovery, "REFRESH_SECONDS", 0.01)
    found = Discovery(server.kube)
    server.script = [refused(403)] * 3
    server.otherwise = kinds("moa-operator.io")
    await asyncio.wait_for(found.wait(), 10)
    changes = asyncio.Event()
    running = asyncio.create_task(found.run(changes.set))
    server.otherwise = refused(403)
    server.arrived.clear()
    await asyncio.wait_for(server.arrived.wait(), 10)
    assert found.serves_profiles
    assert not changes.is_set()
    server.otherwise = kinds("moa-operator.io", "gateway.networking.k8s.io")
    await asyncio.wait_for(changes.wait(), 10)
    running.cancel()


# Lists.


class Listed:
    """A relist, and what it told."""

    def __init__(self, server: Server) -> None:
        self.noticed: list[Key] = []
        self.missed = 0
        self.relist = Relist(server.kube, (), server.metrics, self.noticed.append, self._miss)

    def _miss(self) -> None:
        self.missed += 1


def profiles(**versions: str) -> Answer:
    items = [
        {"metadata": {"name": name, "namespace": "ns", "resourceVersion": version}}
        for name, version in versions.items()
    ]
    return given({"metadata": {}, "items": items})


async def test_every_profile_is_looked_at_and_watches_that_told_of_it_are_trusted(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relist, "GRACE_SECONDS", 0.0)
    listed = Listed(server)
    server.otherwise = profiles(research="10", other="9")
    listed.relist.tell(RESEARCH, "10")
    listed.relist.tell(OTHER, "11")
    await listed.relist.once()
    assert listed.noticed == [RESEARCH, OTHER]
    assert (listed.missed, listed.relist.watches_stuck) == (0, False)


async def test_watches_that_miss_something_start_again_and_count_as_stuck_the_second_time(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relist, "GRACE_SECONDS", 0.0)
    listed = Listed(server)
    server.otherwise = profiles(research="10", other="9")
    listed.relist.tell(RESEARCH, "9")
    await listed.relist.once()
    assert (listed.missed, listed.relist.watches_stuck) == (1, False)
    await listed.relist.once()
    assert (listed.missed, listed.relist.watches_stuck) == (2, True)
    assert server.metrics.registry.get_sample_value("moa_operator_watch_missed_total") == 4
    listed.relist.tell(RESEARCH, "10")
    listed.relist.tell(OTHER, "9")
    await listed.relist.once()
    assert (listed.missed, listed.relist.watches_stuck) == (2, False)


async def test_a_list_that_fails_is_made_again_later(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relist, "GRACE_SECONDS", 0.0)
    listed = Listed(server)
    server.script = [refused(403)]
    server.otherwise = profiles(research="10")
    with pytest.raises(Refused):
        await listed.relist.once()
    server.script = [refused(403)]
    running = asyncio.create_task(listed.relist.run(0.01))
    async with asyncio.timeout(10):
        while not listed.noticed:  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(0.01)
    running.cancel()
