"""A router's life: it starts only if all is well, reloads without a scratch, and leaves politely."""

import contextlib
import http.client
import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from tests.router.wire.asking import ask, on, trio
from tests.router.wire.harness import (
    DEADLINE,
    ROOT,
    Events,
    Json,
    Profile,
    Router,
    Simulator,
    StartRouter,
    asked,
    chunks_in,
    data_in,
    fetch,
    text_of,
    wait_until,
    write_profile,
)

HANG: Json = {"hang": {}}
SLOW: Json = {"inter_token": 0.03}


def refused(*arguments: str) -> str:
    """Start a router that should not start; returns what it says."""
    ended = subprocess.run(
        [sys.executable, "-m", "moa_router", "serve", "--admin-port", "0", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert "Traceback" not in ended.stderr
    return ended.stderr


@contextlib.contextmanager
def own_router(folder: Path) -> Iterator[Router]:
    """A router over the files of a folder that the test has made."""
    router = Router(folder)
    try:
        yield router
    finally:
        router.stop()


class TestStart:
    def test_a_bad_profile_is_refused_with_all_its_problems(self, profile: Profile, tmp_path: Path) -> None:
        bad = trio(profile, aggregator={"upstream": "wrter"}, panel={"quorum": 7, "layers": 9}, gate={"single": "x"})
        write_profile(tmp_path / "bad.yaml", bad)
        said = refused("--port", "0", "--profile", str(tmp_path / "bad.yaml"))
        assert 'spec.aggregator.upstream: no upstream named "wrter"; did you mean "writer"?' in said
        assert "spec.panel.quorum" in said
        assert "spec.panel.layers" in said
        assert "spec.gate.single" in said

    def test_all_files_are_looked_at(self, profile: Profile, tmp_path: Path) -> None:
        (tmp_path / "a.yaml").write_text("kind: [")
        (tmp_path / "b.yaml").write_text("")
        write_profile(tmp_path / "c.yaml", trio(profile, aggregator={"prompt": "no variable"}))
        files = [*(tmp_path / f"{name}.yaml" for name in "abc"), tmp_path / "missing.yaml"]
        said = refused("--port", "0", *[part for file in files for part in ("--profile", str(file))])
        for file, words in zip(files, ["not valid YAML", "", "spec.aggregator.prompt", "cannot be read"], strict=True):
            assert re.search(rf"{re.escape(str(file))}: .*{re.escape(words)}", said), said

    def test_profiles_are_looked_at_before_anything_listens(self, profile: Profile, tmp_path: Path) -> None:
        """Nobody is served by half a configuration: that a port is taken is not even found out."""
        good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
        write_profile(good, trio(profile))
        write_profile(bad, "{}")
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = str(taken.getsockname()[1])
            said = refused("--port", port, "--admin-port", port, "--profile", str(good), "--profile", str(bad))
        assert "these profiles cannot be served" in said
        assert "cannot listen" not in said

    def test_a_secret_that_is_missing_is_named(self, profile: Profile, tmp_path: Path) -> None:
        write_profile(
            tmp_path / "p.yaml",
            trio(
                profile,
                upstream={"a": {"apiKeySecretRef": {"name": "keys", "key": "a"}}},
                auth={"type": "APIKey", "secretRef": {"name": "tenants"}},
            ),
        )
        said = refused("--port", "0", "--profile", str(tmp_path / "p.yaml"))
        assert (
            'spec.upstreams[0].apiKeySecretRef: Secret "keys" is needed; say where Secrets are with --secrets-dir'
            in said
        )
        said = refused("--port", "0", "--profile", str(tmp_path / "p.yaml"), "--secrets-dir", str(tmp_path))
        assert f'spec.upstreams[0].apiKeySecretRef: no entry "a" of Secret "keys" in {tmp_path}' in said
        assert f'spec.auth.secretRef: no Secret "tenants" in {tmp_path}' in said

    def test_a_port_that_is_taken_is_said(self, profile: Profile, tmp_path: Path) -> None:
        write_profile(tmp_path / "p.yaml", trio(profile))
        with socket.create_server(("127.0.0.1", 0)) as taken:
            said = refused("--profile", str(tmp_path / "p.yaml"), "--port", str(taken.getsockname()[1]))
        assert "cannot listen" in said

    def test_two_profiles_may_not_share_a_name(self, profile: Profile, tmp_path: Path) -> None:
        write_profile(tmp_path / "a.yaml", trio(profile, name="one", response={"modelNames": ["best"]}))
        write_profile(tmp_path / "b.yaml", trio(profile, name="two", response={"modelNames": ["best"]}))
        said = refused("--port", "0", "--profile", str(tmp_path / "a.yaml"), "--profile", str(tmp_path / "b.yaml"))
        assert 'spec.response.modelNames: profile "one" already answers to "best"; choose another name' in said

    def test_two_profiles_share_a_process(self, router: StartRouter, profile: Profile, simulator: Simulator) -> None:
        served = router(trio(profile, name="one"), trio(profile, name="two", gate={"policy": "Never"}))
        answers = {name: ask(served, model=name) for name in ("one", "two", "two:fuse")}
        assert {name: (answer.moa["profile"], answer.moa["mode"]) for name, answer in answers.items()} == {
            "one": ("one", "fuse"),
            "two": ("two", "single"),
            "two:fuse": ("two", "fuse"),
        }
        assert served.readyz().json["profiles"] == ["one", "two"]
        for name, count in (("one", 1), ("two", 2)):
            assert served.metric("moa_requests_total", profile=name) == count


def answers_to(router: Router, model: str) -> bool:
    return router.get(f"/v1/models/{model}").status == 200


def first_text(events: Iterator[str]) -> list[str]:
    """Events up to and with the first that brings text."""
    seen: list[str] = []
    for event in events:
        seen.append(event)
        if text_of(chunks_in(seen)):
            return seen
    raise AssertionError(f"the stream ended without text: {seen}")


class TestReload:
    def test_a_signal_swaps_and_streams_finish_on_the_old(
        self, router: StartRouter, profile: Profile, simulator: Simulator
    ) -> None:
        served = router(trio(profile, response={"modelNames": ["old"]}), fresh=True)
        simulator.rules(on("writer", **SLOW))
        with served.stream(asked()) as events:
            flow = iter(events)
            seen = first_text(flow)
            write_profile(
                served.profile_paths[0],
                trio(profile, response={"modelNames": ["new"]}, aggregator={"upstream": "spare"}),
            )
            served.reload()
            wait_until(lambda: answers_to(served, "new"), "the reload")
            assert not answers_to(served, "old")
            assert ask(served, model="new").outcomes("aggregator") == {"spare": "ok"}
            seen += flow
        assert data_in(seen)[-1] == "[DONE]"
        finish = next(chunk for chunk in chunks_in(seen) if chunk["choices"] and chunk["choices"][0]["finish_reason"])
        assert [s["upstream"] for s in finish["moa"]["stages"] if s["stage"] == "aggregator"] == ["writer"]
        assert served.metric("moa_profile_reloads_total", outcome="ok") == 1
        assert served.metric("moa_profile_last_reload_successful") == 1

    @pytest.mark.parametrize(
        ("spoil", "reason"),
        [
            (lambda path: write_profile(path, "kind: ["), "not valid YAML"),
            (lambda path: path.unlink(), "cannot be read"),
            (lambda path: write_profile(path, {"kind": "MoAProfile"}), "apiVersion"),
        ],
        ids=["no YAML", "gone", "no profile"],
    )
    def test_a_bad_file_leaves_the_last_good_one(
        self,
        router: StartRouter,
        profile: Profile,
        simulator: Simulator,
        spoil: Callable[[Path], None],
        reason: str,
    ) -> None:
        served = router(trio(profile), fresh=True)
        served.expected.append("profile refused; the last good one serves on")
        path = served.profile_paths[0]
        spoil(path)
        served.reload()
        wait_until(lambda: served.metric("moa_profile_reloads_total", outcome="refused") == 1, "the refusal")
        assert ask(served).status == 200
        ready = served.readyz()
        assert (ready.status, ready.json["ready"]) == (200, True)
        assert reason in str(ready.json["refused"][path.name])
        assert served.metric("moa_profile_last_reload_successful") == 0
        (line,) = [line for line in served.log_lines() if line["level"] == "error"]
        assert line["file"] == path.name
        assert reason in line["problems"]
        write_profile(path, trio(profile, response={"modelNames": ["mended"]}))
        served.reload()
        wait_until(lambda: answers_to(served, "mended"), "the reload")
        assert served.readyz().json["refused"] == {}
        assert served.metric("moa_profile_last_reload_successful") == 1

    def test_a_name_that_another_profile_has_is_refused(
        self, router: StartRouter, profile: Profile, simulator: Simulator
    ) -> None:
        served = router(trio(profile, name="one"), trio(profile, name="two"), fresh=True)
        served.expected.append("profile refused")
        write_profile(served.profile_paths[1], trio(profile, name="one"))
        served.reload()
        wait_until(lambda: served.metric("moa_profile_reloads_total", outcome="refused") == 1, "the refusal")
        assert ask(served, model="two").moa["profile"] == "two"

    def test_an_unchanged_file_is_no_reload(self, router: StartRouter, profile: Profile, simulator: Simulator) -> None:
        served = router(trio(profile), fresh=True)
        served.profile_paths[0].touch()
        served.reload()
        write_profile(served.profile_paths[0], trio(profile, response={"modelNames": ["new"]}))
        served.reload()
        wait_until(lambda: answers_to(served, "new"), "the reload")
        assert served.metric("moa_profile_reloads_total") == 1

    def test_kubernetes_swapped_links_are_seen_without_a_signal(
        self, profile: Profile, simulator: Simulator, tmp_path: Path
    ) -> None:
        """As kubelet does it: a new folder, then the link `..data` is renamed over."""

        def mount(generation: str, document: Json) -> None:
            (tmp_path / generation).mkdir()
            (tmp_path / generation / "profile-0.yaml").write_text(yaml.safe_dump(document))
            (tmp_path / "..data_tmp").symlink_to(generation)
            (tmp_path / "..data_tmp").rename(tmp_path / "..data")

        mount("..1", trio(profile, response={"modelNames": ["old"]}))
        (tmp_path / "profile-0.yaml").symlink_to("..data/profile-0.yaml")
        with own_router(tmp_path) as served:
            assert answers_to(served, "old")
            mount("..2", trio(profile, response={"modelNames": ["new"]}))
            wait_until(lambda: answers_to(served, "new"), "the change within 15 s", deadline=15)
            assert not answers_to(served, "old")
            served.check_log([])

    def test_what_a_profile_no_longer_is_called_is_forgotten(
        self, router: StartRouter, profile: Profile, simulator: Simulator
    ) -> None:
        served = router(trio(profile, name="before"), fresh=True)
        assert ask(served, model="before").status == 200
        write_profile(served.profile_paths[0], trio(profile, name="after"))
        served.reload()
        wait_until(lambda: answers_to(served, "after"), "the reload")
        wait_until(lambda: served.metric("moa_requests_total", profile="before") == 0, "forgetting")
        assert ask(served, model="before").status == 404
        assert ask(served, model="after").status == 200


def drained(profile: Profile, delay: str, timeout: str) -> Json:
    return trio(profile, panel={"quorum": 3}, router={"drain": {"delay": delay, "timeout": timeout}})


def keeps_streaming(served: Router, simulator: Simulator) -> contextlib.AbstractContextManager[Events]:
    simulator.rules(on("writer", **SLOW))
    return served.stream(asked(model="writer"))


class TestLeaving:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_an_idle_router_ends_at_once(
        self, router: StartRouter, profile: Profile, simulator: Simulator, number: signal.Signals
    ) -> None:
        served = router(drained(profile, "0s", "60s"), fresh=True)
        assert ask(served).status == 200
        served.process.signal(number)
        assert served.process.wait() == 0

    def test_is_told_before_it_happens(self, router: StartRouter, profile: Profile, simulator: Simulator) -> None:
        """Unready at once, accepting for a moment, finishing what is under way."""
        served = router(drained(profile, "2s", "20s"), fresh=True)
        with keeps_streaming(served, simulator) as events:
            flow = iter(events)
            seen = first_text(flow)
            assert served.readyz().status == 200
            served.process.signal(signal.SIGTERM)
            wait_until(lambda: served.readyz().status == 503, "unreadiness")
            assert served.readyz().json["draining"] is True
            assert fetch(served.admin, "/livez").status == 200
            late = served.post(asked(model="research:first"))
            assert (late.status, late.headers["connection"]) == (200, "close")
            seen += flow
        assert data_in(seen)[-1] == "[DONE]"
        assert served.process.wait() == 0

    def test_behind_the_delay_nobody_comes_in_and_streams_finish(
        self, router: StartRouter, profile: Profile, simulator: Simulator
    ) -> None:
        served = router(drained(profile, "0s", "20s"), fresh=True)
        with keeps_streaming(served, simulator) as events:
            flow = iter(events)
            seen = first_text(flow)
            served.process.signal(signal.SIGTERM)
            wait_until(lambda: refuses(served), "a closed door")
            assert [call.outcome for call in simulator.calls()] == ["running"]
            seen += flow
        assert data_in(seen)[-1] == "[DONE]"
        assert text_of(chunks_in(seen))
        assert served.process.wait() == 0
        assert [call.outcome for call in simulator.settled()] == ["ok"]

    def test_takes_no_longer_than_the_drain_time(
        self, router: StartRouter, profile: Profile, simulator: Simulator
    ) -> None:
        """What is cut is told so: an error event without `[DONE]`, or a 503."""
        served = router(drained(profile, "0s", "300ms"), fresh=True)
        simulator.rules(on("spare", **HANG), on("writer", **HANG))
        with ThreadPoolExecutor(2) as pool:
            whole = pool.submit(served.post, asked(model="spare"))
            fused = pool.submit(served.post, asked(stream=True))
            wait_until(lambda: len(simulator.calls()) == 5, "all calls")
            served.process.signal(signal.SIGTERM)
            assert served.process.wait() == 0
        assert (whole.result().status, whole.result().error["code"]) == (503, "shutting_down")
        data = data_in(fused.result().body.decode().split("\n\n"))
        assert json.loads(data[-1])["error"]["code"] == "shutting_down"
        assert "[DONE]" not in data
        assert sorted(call.outcome for call in simulator.settled()) == ["cancelled", "cancelled", "ok", "ok", "ok"]
        assert "drain time is over; requests are cut" in served.log()


def refuses(router: Router) -> bool:
    try:
        router.get("/v1/models")
    except (ConnectionError, http.client.HTTPException):
        return True
    return False


class TestTraces:
    PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

    def test_a_request_id_is_echoed_and_passed_on(
        self, router: StartRouter, profile: Profile, simulator: Simulator
    ) -> None:
        served = router(trio(profile))
        for stream in (False, True):
            reply = served.post(asked(stream=stream), {"x-request-id": "job-7/step:3"})
            assert reply.headers["x-request-id"] == "job-7/step:3"
        error = served.post(asked(model="nobody"), {"x-request-id": "job-8"})
        assert (error.status, error.headers["x-request-id"]) == (404, "job-8")
        assert {call.headers["x-request-id"] for call in simulator.settled()} == {"job-7/step:3"}

    @pytest.mark.parametrize("given", [None, "", "two words", "x" * 129, "é", "a;b"])
    def test_without_a_usable_one_it_is_minted(
        self, router: StartRouter, profile: Profile, simulator: Simulator, given: str | None
    ) -> None:
        served = router(trio(profile))
        headers = {} if given is None else {"x-request-id": given}
        minted = {served.post(asked(), headers).headers["x-request-id"] for _ in range(2)}
        assert len(minted) == 2
        assert all(re.fullmatch(r"[0-9a-f]{24}", value) for value in minted)

    @pytest.mark.parametrize("flags", ["00", "01"])
    def test_a_trace_is_passed_on(
        self, router: StartRouter, profile: Profile, simulator: Simulator, flags: str
    ) -> None:
        served = router(trio(profile, panel={"quorum": 3}))
        parent = self.PARENT[:-2] + flags
        assert served.post(asked(), {"traceparent": parent, "tracestate": "vendor=1"}).status == 200
        calls = simulator.settled()
        assert len(calls) == 4
        for call in calls:
            version, trace, _, decision = call.headers["traceparent"].split("-")
            assert (version, trace, decision) == ("00", parent.split("-")[1], flags)
            assert call.headers["tracestate"] == "vendor=1"

    def test_without_one_none_is_made_up(self, router: StartRouter, profile: Profile, simulator: Simulator) -> None:
        assert router(trio(profile)).post(asked()).status == 200
        assert all("traceparent" not in call.headers for call in simulator.settled())

    def test_stages_tell_how_long_they_took(self, router: StartRouter, profile: Profile, simulator: Simulator) -> None:
        served = router(trio(profile, panel={"layers": 2}))
        timing = served.post(asked()).headers["server-timing"]
        assert re.fullmatch(r"panel;dur=\d+\.\d, panel;dur=\d+\.\d, aggregator;dur=\d+\.\d", timing)
        assert re.fullmatch(r"single;dur=\d+\.\d", served.post(asked(model="research:single")).headers["server-timing"])


class TestLog:
    def test_lines_are_json_and_name_the_request(
        self, router: StartRouter, profile: Profile, simulator: Simulator
    ) -> None:
        served = router(trio(profile), flags=["--access-log"], fresh=True)
        headers = {"x-request-id": "job-7", "traceparent": TestTraces.PARENT, "user-agent": "a-telling-agent"}
        served.post(asked(), headers, path="/v1/chat/completions?mode=single")
        served.post(asked(model="nobody"), {"x-request-id": "job-8"})
        served.get("/v1/elsewhere")
        wait_until(lambda: len(served.log_lines()) == 3, "three lines")
        known, unknown, elsewhere = served.log_lines()
        assert known.pop("seconds") > 0
        assert known.pop("bytes") > 100
        assert known.pop("time").endswith("Z")
        assert known == {
            "level": "info",
            "logger": "moa_router.access",
            "message": "request",
            "method": "POST",
            "path": "/v1/chat/completions",
            "status": 200,
            "request_id": "job-7",
            "trace_id": TestTraces.PARENT.split("-")[1],
            "profile": "research",
            "mode": "single",
            "outcome": "ok",
        }
        assert (unknown["status"], unknown["request_id"], unknown["outcome"]) == (404, "job-8", "client_error")
        assert (elsewhere["status"], elsewhere["path"]) == (404, "/v1/elsewhere")
        assert "a-telling-agent" not in served.log()

    def test_without_being_asked_requests_are_not_logged(
        self, router: StartRouter, profile: Profile, simulator: Simulator
    ) -> None:
        served = router(trio(profile), fresh=True)
        assert ask(served).status == 200
        assert ask(served, model="nobody").status == 404
        assert served.log() == ""

    def test_may_be_for_eyes(self, router: StartRouter, profile: Profile, simulator: Simulator) -> None:
        served = router(drained(profile, "0s", "1s"), flags=["--log-format", "console"], fresh=True)
        served.process.signal(signal.SIGTERM)
        assert served.process.wait() == 0
        assert "INFO    moa_router.server: draining" in served.log()
