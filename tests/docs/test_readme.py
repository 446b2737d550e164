"""The README's commands do what it says: run here, word for word but for the ports, which are free ones."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from moa_api.v1alpha1 import load_profile

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
DEADLINE = 60


def blocks(language: str) -> list[str]:
    return [text for name, text in FENCE.findall(README) if name == language]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Commands:
    """Runs blocks of the README in the repository's root, with this interpreter's commands and with free ports."""

    def __init__(self, folder: Path) -> None:
        self._ports = {port: str(free_port()) for port in ("8000", "8080", "9090")}
        profile = folder / "local.yaml"
        profile.write_text(self._here((ROOT / "examples/local.yaml").read_text()))
        self._profile = str(profile)
        self._group: subprocess.Popen[bytes] | None = None

    def _here(self, text: str) -> str:
        for port, free in self._ports.items():
            text = re.sub(rf"(?<=[: ]){port}\b", free, text)
        return text

    def command(self, block: str) -> str:
        text = block.replace(".venv/bin/", f"{Path(sys.executable).parent}/")
        return self._here(text.replace("examples/local.yaml", self._profile))

    def start(self, block: str) -> None:
        self._group = subprocess.Popen(
            ["bash", "-c", self.command(block) + "\nwait"], cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL
        )
        self._wait_until_ready()

    def _wait_until_ready(self) -> None:
        url = f"http://127.0.0.1:{self._ports['9090']}/readyz"
        end = time.monotonic() + DEADLINE
        while time.monotonic() < end:
            with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as response:
                if response.status == 200:
                    return
            time.sleep(0.1)
        pytest.fail("the router of the README did not become ready")

    def stop(self) -> None:
        if self._group is not None:
            os.killpg(self._group.pid, signal.SIGKILL)
            self._group.wait(DEADLINE)


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    running = Commands(tmp_path_factory.mktemp("readme"))
    serving, *_ = [block for block in blocks("sh") if "moa-router serve" in block]
    try:
        running.start(serving)
        yield running
    finally:
        running.stop()


def test_every_block_is_covered_here() -> None:
    known = ("make demo", "make test", "moa-router serve", "curl -s")
    assert all(any(word in block for word in known) for block in blocks("sh"))
    assert [len(blocks(language)) for language in ("yaml", "python")] == [1, 1]


def test_the_two_commands_are_targets_that_set_themselves_up() -> None:
    for target in ("demo", "test"):
        plan = subprocess.run(
            ["make", "--dry-run", "--always-make", target], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert "--require-hashes" in plan.stdout


def test_the_smallest_profile_is_the_example_and_loads() -> None:
    (block,) = blocks("yaml")
    document = yaml.safe_load(block)
    load_profile(document)
    assert document == yaml.safe_load((ROOT / "examples/smallest.yaml").read_text())


def test_curl_gets_a_fused_answer(commands: Commands) -> None:
    (block,) = [block for block in blocks("sh") if "curl -s" in block]
    result = subprocess.run(
        ["bash", "-c", commands.command(block)], cwd=ROOT, capture_output=True, timeout=DEADLINE, check=True
    )
    answer = json.loads(result.stdout)
    assert answer["model"] == "local"
    assert answer["moa"]["panel"]["asked"] == 3
    assert answer["choices"][0]["message"]["content"]


def test_the_openai_client_gets_a_stream(commands: Commands) -> None:
    (block,) = blocks("python")
    result = subprocess.run(
        [sys.executable, "-c", commands.command(block)], cwd=ROOT, capture_output=True, timeout=DEADLINE, check=True
    )
    assert result.stdout.strip()
