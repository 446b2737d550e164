"""Real processes to test the wire on: the simulator as upstream, the router, and a client that shows every byte."""

import contextlib
import http.client
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import coverage
import yaml
from openai import AsyncOpenAI, OpenAI
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).parents[3]
#: Seconds after which something that should have happened counts as not happening.
DEADLINE = 20.0

Json = dict[str, Any]

#: The models of the shared simulator, in the form of its command line.
MODELS = (
    "Qwen/Qwen3-32B,tokens=40",
    "other,tokens=30",
    "paced,tokens=24,ttft=0.05,inter_token=0.01",
    "llamacpp,tokens=40,chunks=llamacpp",
    "thinker,tokens=20,reasoning_tokens=12",
    "blind,tokens=20,vision=false",
    "toolless,tokens=20,tools=false",
    "unstructured,tokens=20,structured_output=false",
    "onechoice,tokens=20,multiple_choices=false",
    "small,tokens=20,max_model_len=400",
)
QWEN = "Qwen/Qwen3-32B"


def user(text: object) -> Json:
    """A user's turn."""
    return {"role": "user", "content": text}


def asked(text: object = "Why is the sky blue in the evening?", **fields: object) -> Json:
    """A request to the profile `research`."""
    return {"model": "research", "messages": [user(text)], **fields}


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> Json:
    """`base` with `over` laid over it, object by object; None takes a field away."""
    result = dict(base)
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(result.get(key), Mapping):
            result[key] = merged(result[key], value)
        elif value is None:
            result.pop(key, None)
        else:
            result[key] = value
    return result


# -- processes ---------------------------------------------------------------------------------------------------------


class Process:
    """A server of ours in a process of its own, listening when this returns.

    Its coverage counts where this process's does.
    """

    def __init__(self, arguments: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> None:
        self.log_path = log
        env = {**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})}
        if coverage.Coverage.current() is not None:
            env["COVERAGE_PROCESS_START"] = str(ROOT / "pyproject.toml")
        with log.open("wb") as errors:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", *arguments], cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=errors
            )
        try:
            self.announced = self._announcement()
        except BaseException:
            self.kill()
            raise

    def _announcement(self) -> str:
        assert self.popen.stdout is not None
        ready, _, _ = select.select([self.popen.stdout], [], [], DEADLINE)
        line = self.popen.stdout.readline().decode() if ready else ""
        if "listening" not in line:
            raise AssertionError(f"no server: {line!r}; its log:\n{self.log()}")
        return line

    @property
    def pid(self) -> int:
        return self.popen.pid

    def log(self) -> str:
        """Everything written to standard error so far."""
        return self.log_path.read_text()

    def signal(self, number: int) -> None:
        self.popen.send_signal(number)

    def wait(self, deadline: float = DEADLINE) -> int:
        """The exit status."""
        return self.popen.wait(deadline)

    def stop(self) -> int:
        """Ask it to end, and make it end."""
        self.popen.terminate()
        try:
            return self.popen.wait(DEADLINE)
        finally:
            self.kill()

    def kill(self) -> None:
        if self.popen.poll() is None:
            self.popen.kill()
            self.popen.wait()
        if self.popen.stdout is not None:
            self.popen.stdout.close()


def wait_until(predicate: Callable[[], bool], what: str = "it", deadline: float = DEADLINE) -> None:
    """Wait for something to become true."""
    end = time.monotonic() + deadline
    while not predicate():
        assert time.monotonic() < end, f"{what} did not happen within {deadline} s"
        time.sleep(0.01)


# -- a client that shows every byte ------------------------------------------------------------------------------------


@dataclass(slots=True)
class Reply:
    """A response, read to its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> Json:
        """The error object, whose shape is checked on the way."""
        document = self.json
        assert set(document) == {"error"}, document
        error: Json = document["error"]
        assert set(error) == {"message", "type", "code", "param"}, error
        assert isinstance(error["message"], str)
        assert error["message"]
        return error


@dataclass(slots=True)
class Events:
    """A streamed response, event by event as they arrive; a comment is an event."""

    status: int
    headers: Mapping[str, str]
    _response: http.client.HTTPResponse
    _connection: http.client.HTTPConnection

    def __iter__(self) -> Iterator[str]:
        lines: list[str] = []
        while line := self._response.readline():
            text = line.decode().rstrip("\n")
            if text:
                lines.append(text)
            elif lines:
                yield "\n".join(lines)
                lines = []
        assert not lines, f"the stream ends within an event: {lines}"

    def close(self) -> None:
        """Leave, as a client does that has enough."""
        self._response.close()
        self._connection.close()


def request(
    url: str,
    path: str,
    body: bytes | str | Json | None = None,
    headers: Mapping[str, str] | None = None,
    method: str | None = None,
) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
    """Send a request on a connection of its own: GET without a body, else POST, unless told otherwise."""
    place = urlsplit(url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=DEADLINE)
    data = json.dumps(body) if isinstance(body, dict) else body
    encoded = data.encode() if isinstance(data, str) else data
    try:
        method = method or ("GET" if body is None else "POST")
        connection.request(method, path, encoded, {"content-type": "application/json", **(headers or {})})
        return connection, connection.getresponse()
    except BaseException:
        connection.close()
        raise


def fetch(
    url: str,
    path: str,
    body: bytes | str | Json | None = None,
    headers: Mapping[str, str] | None = None,
    method: str | None = None,
) -> Reply:
    """Send a request and read the response."""
    connection, response = request(url, path, body, headers, method)
    try:
        return Reply(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())
    finally:
        connection.close()


def data_in(events: Sequence[str]) -> list[str]:
    """What `data:` lines carry."""
    return [event.removeprefix("data: ") for event in events if event.startswith("data: ")]


def chunks_in(events: Sequence[str]) -> list[Json]:
    """The chunks of a streamed answer."""
    return [json.loads(data) for data in data_in(events) if data != "[DONE]"]


def text_of(chunks: Sequence[Json], field_name: str = "content", index: int = 0) -> str:
    """What a choice's deltas add up to."""
    return "".join(
        choice["delta"].get(field_name) or ""
        for chunk in chunks
        for choice in chunk["choices"]
        if choice["index"] == index
    )


# -- the simulator -----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Call:
    """What the simulator knows of a call."""

    id: int
    connection: int
    path: str
    model: str
    stream: bool
    n: int
    headers: dict[str, str]
    body: str
    start: float
    first_token: float | None
    end: float | None
    outcome: str
    status: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    sent_tokens: int
    usage_sent: bool

    @property
    def fields(self) -> Json:
        """Its body, parsed."""
        parsed: Json = json.loads(self.body)
        return parsed

    @property
    def is_panel(self) -> bool:
        """Whether it comes from the panel of a test's profile: members have another temperature than all others."""
        return bool(self.fields.get("temperature") == PANEL_TEMPERATURE)


PANEL_TEMPERATURE = 0.7
AGGREGATOR_TEMPERATURE = 0.3


class Simulator:
    """The simulator process."""

    def __init__(self, log: Path, *models: str) -> None:
        flags = [part for model in models or MODELS for part in ("--model", model)]
        self.process = Process(["moa_simulator", "serve", "--port", "0", *flags], log)
        self.url = self.process.announced.split()[-1]

    def reset(self) -> None:
        """Forget calls, rules and cached prefixes."""
        self._control("/sim/reset", b"")

    def rules(self, *rules: Json) -> None:
        """Replace the rules: `{"match": …, "times": …, "action": …}`."""
        self._control("/sim/rules", json.dumps(rules))

    def calls(self) -> list[Call]:
        """Calls so far, in order of arrival, those under way included."""
        return [Call(**record) for record in self._control("/sim/calls").json]

    def settled(self) -> list[Call]:
        """Calls so far, once none is under way any more."""
        wait_until(lambda: all(call.outcome != "running" for call in self.calls()), "the end of every call")
        return self.calls()

    def panel(self) -> list[Call]:
        """Calls of the panel, once all calls have ended."""
        return [call for call in self.settled() if call.is_panel]

    def final(self) -> Call:
        """The one call that is not of the panel."""
        (call,) = [call for call in self.settled() if not call.is_panel]
        return call

    def tokens(self, text: str) -> int:
        """How many tokens a text has."""
        reply = self._control("/tokenize", json.dumps({"prompt": text}))
        count: int = reply.json["count"]
        return count

    def _control(self, path: str, body: bytes | str | None = None) -> Reply:
        reply = fetch(self.url, path, body)
        assert reply.status == 200, reply
        return reply


def replies(*texts: str, temperature: float | None = None, **more: object) -> Json:
    """A rule: answer with these texts, by choice; calls of one stage only if its temperature is given."""
    match = {} if temperature is None else {"match": {"contains": f'"temperature":{temperature}'}}
    return {**match, "action": {"reply": {"texts": list(texts)}, **more}}


def panel_replies(*texts: str, **more: object) -> Json:
    """A rule: the panel writes these texts, by choice."""
    return replies(*texts, temperature=PANEL_TEMPERATURE, **more)


def final_replies(text: str, **more: object) -> Json:
    """A rule: the aggregator writes this text."""
    return replies(text, temperature=AGGREGATOR_TEMPERATURE, **more)


# -- the router --------------------------------------------------------------------------------------------------------


class Profile(Protocol):
    """Builds a profile: self-MoA of three samples on the simulator, with sections laid over it."""

    def __call__(self, *, name: str = ..., upstreams: Sequence[Json] | None = None, **sections: Any) -> Json: ...


def small_profile(url: str, name: str, upstreams: Sequence[Json] | None, sections: Mapping[str, Json]) -> Json:
    """The profile of design.md's first page, with other sections laid over it."""
    base: Json = {
        "upstreams": [{"url": url, **upstream} for upstream in upstreams or [{"name": "qwen", "model": QWEN}]],
        "panel": {
            "members": [{"upstream": "qwen", "samples": 3, "temperature": PANEL_TEMPERATURE}],
            "quorum": 2,
        },
        "aggregator": {"upstream": "qwen", "temperature": AGGREGATOR_TEMPERATURE},
        "router": {"drain": {"delay": "0s", "timeout": "5s"}},
    }
    return {
        "apiVersion": "moa-operator.io/v1alpha1",
        "kind": "MoAProfile",
        "metadata": {"name": name},
        "spec": merged(base, sections),
    }


def write_secrets(folder: Path, secrets: Mapping[str, Mapping[str, str]]) -> None:
    """Write Secrets as Kubernetes mounts them."""
    for name, entries in secrets.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for key, value in entries.items():
            (folder / name / key).write_text(value)


def write_profile(path: Path, document: Json | str) -> None:
    """Write a profile as a whole, so that nobody reads half of it."""
    text = document if isinstance(document, str) else yaml.safe_dump(document, sort_keys=False)
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    fresh.replace(path)


@dataclass(slots=True, frozen=True)
class Sample:
    """A value of a metric."""

    name: str
    labels: Mapping[str, str]
    value: float


@dataclass
class Router:
    """The router process.

    Attributes:
        folder: where its profile files (`profile-0.yaml`, …), `secrets/` and its log are.
        expected: patterns of log lines that would otherwise fail the test.
    """

    folder: Path
    flags: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    expected: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        profiles = [part for path in self.profile_paths for part in ("--profile", str(path))]
        arguments = ["moa_router", "serve", "--port", "0", "--admin-port", "0", *profiles]
        if self.secrets_dir.is_dir():
            arguments += ["--secrets-dir", str(self.secrets_dir)]
        self.process = Process([*arguments, *self.flags], self.folder / "router.log", self.environment)
        found = re.search(r"on (\S+) \(admin (\S+)\)", self.process.announced)
        assert found is not None, self.process.announced
        self.url, self.admin = found.groups()
        self._read_to = 0

    @property
    def profile_paths(self) -> list[Path]:
        return sorted(self.folder.glob("profile-*.yaml"))

    @property
    def secrets_dir(self) -> Path:
        return self.folder / "secrets"

    # -- clients

    @cached_property
    def openai(self) -> OpenAI:
        """The official client, which does not try again."""
        return OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=DEADLINE)

    def async_openai(self, api_key: str = "none") -> AsyncOpenAI:
        """The official asynchronous client, to be used in an `async with`."""
        return AsyncOpenAI(base_url=f"{self.url}/v1", api_key=api_key, max_retries=0, timeout=DEADLINE)

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Reply:
        return fetch(self.url, path, None, headers)

    def post(
        self,
        body: bytes | str | Json,
        headers: Mapping[str, str] | None = None,
        path: str = "/v1/chat/completions",
        method: str | None = None,
    ) -> Reply:
        return fetch(self.url, path, body, headers, method)

    @contextlib.contextmanager
    def stream(
        self,
        body: bytes | str | Json,
        headers: Mapping[str, str] | None = None,
        path: str = "/v1/chat/completions",
    ) -> Iterator[Events]:
        """A streamed answer under way; `stream: true` is added to a body that is no text."""
        connection, response = request(
            self.url, path, {**body, "stream": True} if isinstance(body, dict) else body, headers
        )
        got = {name.lower(): value for name, value in response.getheaders()}
        events = Events(response.status, got, response, connection)
        try:
            yield events
        finally:
            events.close()

    def events(self, body: bytes | str | Json, headers: Mapping[str, str] | None = None) -> list[str]:
        """All events of a streamed answer."""
        with self.stream(body, headers) as events:
            assert events.status == 200
            assert events.headers["content-type"].startswith("text/event-stream")
            return list(events)

    def chunks(self, body: bytes | str | Json, headers: Mapping[str, str] | None = None) -> list[Json]:
        """All chunks of a streamed answer that is whole."""
        events = self.events(body, headers)
        assert events[-1] == "data: [DONE]"
        return chunks_in(events)

    # -- the platform's side

    def samples(self) -> list[Sample]:
        """All metrics."""
        text = fetch(self.admin, "/metrics").body.decode()
        return [
            Sample(sample.name, sample.labels, sample.value)
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        ]

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's values whose labels include these."""
        return sum(
            sample.value
            for sample in self.samples()
            if sample.name == name and labels.items() <= dict(sample.labels).items()
        )

    def readyz(self) -> Reply:
        return fetch(self.admin, "/readyz")

    def reload(self) -> None:
        """Tell it to look at its files again (SIGHUP)."""
        self.process.signal(signal.SIGHUP)

    # -- its log

    def log(self) -> str:
        return self.process.log()

    def log_lines(self) -> list[Json]:
        """Lines of the log, which are JSON objects unless a flag says otherwise."""
        return [json.loads(line) for line in self.log().splitlines()]

    def check_log(self, forbidden: Sequence[str]) -> None:
        """Fail on an error, a traceback or a forbidden text in what was logged since the last look."""
        fresh = self.log()[self._read_to :]
        self._read_to += len(fresh)
        for text in forbidden:
            assert text not in fresh, f"{text!r} is in the router's log:\n{fresh}"
        for line in fresh.splitlines():
            bad = re.search(r'"level":"(error|critical)"|Traceback|"exception"', line)
            assert bad is None or any(re.search(pattern, line) for pattern in self.expected), line

    def stop(self) -> int:
        """End it; returns the exit status."""
        if "openai" in self.__dict__:
            self.openai.close()
        return self.process.stop()


class StartRouter(Protocol):
    """Starts a router for some profiles, or returns the one that already serves them.

    `fresh` asks for one of the test's own: for tests that teach it something, change its files or end it.
    """

    def __call__(
        self,
        *profiles: Json | str,
        secrets: Mapping[str, Mapping[str, str]] | None = None,
        flags: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        fresh: bool = False,
    ) -> Router: ...
