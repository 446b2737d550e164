"""A client that leaves takes every upstream call of its request with it."""

import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest
from tests.router.wire.asking import on, trio
from tests.router.wire.harness import (
    DEADLINE,
    Json,
    Profile,
    Router,
    Simulator,
    StartRouter,
    asked,
    text_of,
    wait_until,
)
from tests.router.wire.harness import chunks_in as chunks

both_ways = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
HANG: Json = {"hang": {}}


@contextmanager
def asking(router: Router, **fields: object) -> Iterator[http.client.HTTPConnection]:
    """A request whose answer nobody waits for; its connection closes behind it."""
    place = urlsplit(router.url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=DEADLINE)
    try:
        connection.request(
            "POST", "/v1/chat/completions", json.dumps(asked(**fields)), {"content-type": "application/json"}
        )
        yield connection
    finally:
        connection.close()


def running(simulator: Simulator, count: int) -> None:
    """Wait until so many upstream calls are under way."""
    wait_until(
        lambda: [call.outcome for call in simulator.calls()].count("running") == count, f"{count} calls under way"
    )


def gone(router: Router, simulator: Simulator, mode: str, before: float, calls: int) -> None:
    """Nothing of the request is left but its count."""
    assert [call.outcome for call in simulator.settled()].count("cancelled") == calls
    wait_until(lambda: router.metric("moa_inflight_requests") == 0, "the end of the request")
    assert router.metric("moa_requests_total", mode=mode, outcome="cancelled") == before + 1


def departures(router: Router, mode: str) -> float:
    return router.metric("moa_requests_total", mode=mode, outcome="cancelled")


@both_ways
class TestWhile:
    def test_the_panel_works(self, router: StartRouter, profile: Profile, simulator: Simulator, stream: bool) -> None:
        served = router(trio(profile))
        simulator.rules(on("a", **HANG), on("b", inter_token=0.2), on("c", delay=30))
        before = departures(served, "fuse")
        cut = served.metric("moa_cancelled_calls_total", stage="panel", reason="client_gone")
        with asking(served, stream=stream):
            running(simulator, 3)
        gone(served, simulator, "fuse", before, calls=3)
        assert served.metric("moa_cancelled_calls_total", stage="panel", reason="client_gone") == cut + 3

    def test_several_choices_are_written(
        self, router: StartRouter, profile: Profile, simulator: Simulator, stream: bool
    ) -> None:
        served = router(profile())
        simulator.rules({"action": {"inter_token": 0.2}})
        before = departures(served, "fuse")
        with asking(served, stream=stream):
            running(simulator, 1)
        gone(served, simulator, "fuse", before, calls=1)
        assert simulator.panel()[0].completion_tokens < 30

    def test_the_aggregator_works(
        self, router: StartRouter, profile: Profile, simulator: Simulator, stream: bool
    ) -> None:
        served = router(trio(profile, panel={"quorum": 3}))
        simulator.rules(on("writer", inter_token=0.2))
        before = departures(served, "fuse")
        with asking(served, stream=stream):
            wait_until(lambda: len(simulator.calls()) == 4, "the aggregator's call")
        gone(served, simulator, "fuse", before, calls=1)
        assert simulator.settled()[3].completion_tokens < 10

    @pytest.mark.parametrize(("model", "mode"), [("research:single", "single"), ("writer", "passthrough")])
    def test_one_upstream_works(
        self, router: StartRouter, profile: Profile, simulator: Simulator, stream: bool, model: str, mode: str
    ) -> None:
        served = router(trio(profile))
        simulator.rules(on("writer", inter_token=0.2))
        before = departures(served, mode)
        with asking(served, stream=stream, model=model):
            running(simulator, 1)
        gone(served, simulator, mode, before, calls=1)

    def test_the_upstream_has_not_answered_at_all(
        self, router: StartRouter, profile: Profile, simulator: Simulator, stream: bool
    ) -> None:
        served = router(trio(profile, aggregator={"strategy": "First"}))
        simulator.rules({"action": HANG})
        before = departures(served, "fuse")
        with asking(served, stream=stream):
            running(simulator, 3)
        gone(served, simulator, "fuse", before, calls=3)


def test_while_the_answer_streams(router: StartRouter, profile: Profile, simulator: Simulator) -> None:
    served = router(trio(profile, panel={"quorum": 3}))
    simulator.rules(on("writer", inter_token=0.05))
    before = departures(served, "fuse")
    with served.stream(asked()) as events:
        seen: list[str] = []
        for event in events:
            seen.append(event)
            if text_of(chunks(seen)):
                break
    gone(served, simulator, "fuse", before, calls=1)
    assert simulator.settled()[3].completion_tokens < 40


def test_while_the_request_waits_in_line(router: StartRouter, profile: Profile, simulator: Simulator) -> None:
    served = router(trio(profile, limits={"maxConcurrentRequests": 1}))
    simulator.rules(on("writer", **HANG))
    before = departures(served, "single")
    with asking(served, model="research:single"):
        running(simulator, 1)
        with asking(served, model="research:single"):
            wait_until(lambda: served.metric("moa_queue_depth") == 1, "the line")
        wait_until(lambda: served.metric("moa_queue_depth") == 0, "the end of the line")
        assert departures(served, "single") == before + 1
        assert len(simulator.calls()) == 1
    gone(served, simulator, "single", before + 1, calls=1)


def test_while_a_call_waits_for_its_upstream(router: StartRouter, profile: Profile, simulator: Simulator) -> None:
    """A call in line is never sent, and its place is free."""
    served = router(trio(profile, upstream={"writer": {"maxConcurrency": 1}}))
    simulator.rules(on("writer", 1, **HANG))
    before = departures(served, "passthrough")
    with asking(served, model="writer"):
        running(simulator, 1)
        with asking(served, model="writer"):
            wait_until(lambda: served.metric("moa_inflight_requests") == 2, "the second request")
        wait_until(lambda: served.metric("moa_inflight_requests") == 1, "its end")
    gone(served, simulator, "passthrough", before + 1, calls=1)
    assert len(simulator.calls()) == 1
    assert served.post(asked(model="writer")).status == 200
