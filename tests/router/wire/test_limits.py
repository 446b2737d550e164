"""What the router accepts before it says no: a bounded line, caps on calls and candidates, back-pressure."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

import pytest
from tests.router.wire.asking import ask, in_parallel, member, on, trio
from tests.router.wire.harness import (
    DEADLINE,
    QWEN,
    Call,
    Json,
    Profile,
    Router,
    Simulator,
    StartRouter,
    asked,
    panel_replies,
    wait_until,
)

HANG: Json = {"hang": {}}


def most_at_once(calls: Sequence[Call]) -> int:
    """The largest number of calls under way at one moment."""
    moments = [(call.start, 1) for call in calls] + [(call.end or call.start, -1) for call in calls]
    most = now = 0
    for _, change in sorted(moments):
        now += change
        most = max(most, now)
    return most


class TestRequests:
    def test_wait_in_a_bounded_line(self, router: StartRouter, profile: Profile, simulator: Simulator) -> None:
        served = router(trio(profile, limits={"maxConcurrentRequests": 1, "maxQueuedRequests": 1}))
        simulator.rules(on("writer", 1, **HANG))
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(ask, served, model="writer", headers={"x-request-timeout": "2"})
            wait_until(lambda: len(simulator.calls()) == 1, "the first call")
            second = pool.submit(ask, served, model="writer")
            wait_until(lambda: served.metric("moa_queue_depth") == 1, "the line")
            third = ask(served, model="writer")
            assert served.metric("moa_inflight_requests") == 1
        assert third.status == 429
        assert third.error is not None
        assert (third.error["code"], third.error["type"]) == ("overloaded", "rate_limit_error")
        assert int(third.headers["retry-after"]) >= 1
        assert (first.result().status, second.result().status) == (504, 200)
        assert served.metric("moa_requests_total", outcome="rejected") == 1
        assert (served.metric("moa_queue_depth"), served.metric("moa_inflight_requests")) == (0, 0)

    def test_none_is_lost(self, router: StartRouter, profile: Profile, simulator: Simulator) -> None:
        served = router(trio(profile, limits={"maxConcurrentRequests": 2}))
        simulator.rules(on("writer", inter_token=0.002))
        answers = in_parallel(12, lambda: ask(served, model="writer"))
        assert [answer.status for answer in answers] == [200] * 12
        assert most_at_once(simulator.settled()) == 2

    @pytest.mark.parametrize(
        ("limits", "headers"), [({"queueTimeout": "300ms"}, {}), ({}, {"x-request-timeout": "0.3"})]
    )
    def test_do_not_wait_for_ever(
        self, router: StartRouter, profile: Profile, simulator: Simulator, limits: Json, headers: dict[str, str]
    ) -> None:
        served = router(trio(profile, limits={"maxConcurrentRequests": 1, **limits}))
        simulator.rules(on("writer", **HANG))
        with ThreadPoolExecutor(1) as pool:
            pool.submit(ask, served, model="writer", headers={"x-request-timeout": "1.5"})
            wait_until(lambda: len(simulator.calls()) == 1, "the first call")
            answer = ask(served, model="writer", headers=headers)
        assert answer.status == 429
        assert answer.error is not None
        assert answer.error["code"] == "overloaded"
        assert len(simulator.calls()) == 1


class TestCalls:
    def test_never_exceed_the_upstreams_cap(self, router: StartRouter, profile: Profile, simulator: Simulator) -> None:
        served = router(
            trio(profile, panel={"quorum": 3}, upstream={"a": {"maxConcurrency": 2}, "writer": {"maxConcurrency": 1}})
        )
        simulator.rules(on("a", inter_token=0.005), on("writer", inter_token=0.001))
        answers = in_parallel(6, lambda: ask(served))
        assert [(answer.status, answer.panel, answer.degraded) for answer in answers] == [(200, "3/3", [])] * 6
        calls = simulator.settled()
        assert most_at_once([call for call in calls if call.model == "other"]) == 2
        assert most_at_once([call for call in calls if call.model == QWEN]) == 1

    def test_beyond_the_line_are_refused(self, router: StartRouter, profile: Profile, simulator: Simulator) -> None:
        served = router(
            trio(
                profile,
                members=[{**member("a"), "samples": 3}],
                panel={"fanOut": "Parallel"},
                upstream={"a": {"maxConcurrency": 1}},
                limits={"maxQueuedCalls": 1},
            )
        )
        answer = ask(served)
        assert (answer.panel, answer.degraded) == ("2/3", [])
        assert sorted(stage["outcome"] for stage in answer.stages("panel")) == ["ok", "ok", "rate_limited"]
        assert len(simulator.panel()) == 2

    def test_a_line_that_does_not_move_ends_with_the_members_time(
        self, router: StartRouter, profile: Profile, simulator: Simulator
    ) -> None:
        served = router(
            trio(
                profile,
                members=[{**member("a"), "samples": 3}],
                panel={"fanOut": "Parallel"},
                upstream={"a": {"maxConcurrency": 1}},
                timeouts={"member": "400ms"},
            )
        )
        simulator.rules(on("a", **HANG))
        answer = ask(served)
        assert (answer.status, answer.panel, answer.degraded) == (200, "0/3", ["panel"])
        assert [stage["outcome"] for stage in answer.stages("panel")] == ["timeout"] * 3
        simulator.rules()
        assert ask(served).panel == "2/3"


class TestCandidates:
    @pytest.mark.parametrize("quorum", [2, 3], ids=["streamed", "whole"])
    def test_are_cut_at_the_limit_and_marked(
        self, router: StartRouter, profile: Profile, simulator: Simulator, quorum: int
    ) -> None:
        served = router(profile(panel={"quorum": quorum, "grace": "10s"}, limits={"maxCandidateBytes": 1024}))
        simulator.rules(panel_replies("much to say " * 500, "little to say", "漢字 " * 2000))
        answer = ask(served)
        assert answer.panel == "3/3"
        shown = simulator.final().fields["messages"][-1]["content"]
        assert shown.count("[cut]") == 2
        assert "little to say" in shown
        assert len(shown.encode()) < 2 * 1024 + 2500

    def test_are_shown_as_far_as_the_profile_allows(
        self, router: StartRouter, profile: Profile, simulator: Simulator
    ) -> None:
        served = router(profile(aggregator={"hardening": {"maxCandidateTokens": 20}}, panel={"quorum": 3}))
        simulator.rules(panel_replies("much to say " * 500, "little to say", "x" * 5000))
        ask(served)
        shown = simulator.final().fields["messages"][-1]["content"]
        assert shown.count("[cut]") == 2
        assert len(shown) < 2000

    def test_are_cut_to_what_the_context_holds(
        self, router: StartRouter, profile: Profile, simulator: Simulator
    ) -> None:
        upstreams = [{"name": "qwen", "model": QWEN, "contextLength": 1000}]
        served = router(profile(upstreams=upstreams, panel={"quorum": 3}))
        simulator.rules(panel_replies("much to say " * 500, "little to say", "word " * 5000))
        assert ask(served).status == 200
        shown = simulator.final().fields["messages"][-1]["content"]
        assert "little to say" in shown
        assert len(shown) < 1000 * 3 + 1500


def resident(router: Router) -> int:
    """Bytes of memory that the router's process holds."""
    status = Path(f"/proc/{router.process.pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


class SlowClient:
    """A client that asks for a stream and does not read it."""

    def __init__(self, router: Router, body: str) -> None:
        place = urlsplit(router.url)
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
        self.socket.settimeout(DEADLINE)
        self.socket.connect((place.hostname, place.port))
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        self.socket.sendall((head + body).encode())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def read_all(self) -> bytes:
        parts = []
        while part := self.socket.recv(1 << 20):
            parts.append(part)
        return b"".join(parts)


class Flood:
    """An upstream that streams as fast as it is read from, and knows how much that was.

    Args:
        alike: whether all its chunks have one head, as those of real servers do.
    """

    BLOCKS = 400
    HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
    EVENT = b'data: {"id":"%d","choices":[{"index":0,"delta":{"content":"%b"},"finish_reason":null}]}\n\n'
    END = b'data: {"id":"0","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'

    def __init__(self, *, alike: bool) -> None:
        self._alike = alike
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.size = len(self._block(0)) * self.BLOCKS
        self.sent = 0
        self.left = threading.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(DEADLINE)

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            connection, _ = self._listener.accept()
            with connection:
                connection.settimeout(DEADLINE)
                self._stream(connection)

    def _stream(self, connection: socket.socket) -> None:
        connection.recv(1 << 16)
        try:
            connection.sendall(self.HEAD)
            for number in range(self.BLOCKS):
                block = self._block(number)
                connection.sendall(block)
                self.sent += len(block)
            connection.sendall(self.END)
        except OSError:
            self.left.set()

    def _block(self, number: int) -> bytes:
        first = 10_000 + number * 100
        return b"".join(self.EVENT % (0 if self._alike else first + offset, b"x" * 900) for offset in range(100))

    def stalled(self) -> bool:
        """Whether nobody has read for a while."""
        before = self.sent
        time.sleep(0.3)
        return 0 < before == self.sent < self.size


@pytest.mark.parametrize("alike", [True, False], ids=["alike", "odd"])
class TestSlowClient:
    def test_stalls_its_upstream_and_nobody_else(
        self, router: StartRouter, profile: Profile, simulator: Simulator, alike: bool
    ) -> None:
        with Flood(alike=alike) as flood:
            served = router(trio(profile, upstream={"spare": {"url": flood.url}}), fresh=True)
            assert ask(served).status == 200
            before = resident(served)
            with SlowClient(served, json.dumps(asked(model="spare", stream=True))) as slow:
                wait_until(flood.stalled, "back-pressure")
                assert resident(served) - before < flood.size / 3
                assert ask(served, stream=True).done
                text = slow.read_all()
        assert text.count(b"x" * 900) == 100 * Flood.BLOCKS
        assert text.rstrip().endswith(b"data: [DONE]\n\n\r\n0")
        assert text.count(b"[DONE]") == 1

    def test_that_leaves_takes_its_upstream_with_it(
        self, router: StartRouter, profile: Profile, simulator: Simulator, alike: bool
    ) -> None:
        with Flood(alike=alike) as flood:
            served = router(trio(profile, upstream={"spare": {"url": flood.url}}), fresh=True)
            with SlowClient(served, json.dumps(asked(model="spare", stream=True))):
                wait_until(flood.stalled, "back-pressure")
            assert flood.left.wait(DEADLINE)
            wait_until(lambda: served.metric("moa_requests_total", outcome="cancelled") == 1, "the request's end")
            assert served.metric("moa_inflight_requests") == 0
