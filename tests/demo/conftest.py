"""The real model and a router in front of it, one pair for the session."""

import json
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import yaml
from openai import DefaultHttpxClient, OpenAI
from tests.router.node.conftest import packages

from moa_router.demo.processes import Child, running
from moa_router.demo.show import PROFILE

__all__ = ["client", "endpoint", "model", "packages"]

START_SECONDS = 90.0
#: The router's own deadline ends a request long before.
CLIENT_SECONDS = 110.0
#: Tokens of the two members that keep short, of the one that does not, and of the aggregator.
SHORT, LONG, FINAL = 20, 48, 32


@dataclass(frozen=True)
class Model:
    """llama.cpp's server, spoken to without the router."""

    url: str

    def tokens(self, text: str) -> list[int]:
        """How the model cuts a text."""
        body = json.dumps({"content": text}).encode()
        request = urllib.request.Request(f"{self.url}/tokenize", body, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=START_SECONDS) as response:
            return list(json.load(response)["tokens"])

    def busy(self) -> int:
        """How many of its slots are at work."""
        with urllib.request.urlopen(f"{self.url}/slots", timeout=START_SECONDS) as response:
            return sum(slot["is_processing"] for slot in json.load(response))


@pytest.fixture(scope="session")
def _model_process() -> Iterator[Child]:
    with running("the model", [sys.executable, "-m", "moa_router.demo.model"], seconds=START_SECONDS) as child:
        yield child


@pytest.fixture(scope="session")
def model(_model_process: Child) -> Model:
    """The real model."""
    return Model(_model_process.url)


@pytest.fixture(scope="session")
def endpoint(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of a router with the demo's profile, its answers cut short."""
    profile: Any = yaml.safe_load(PROFILE.read_text(encoding="utf-8"))
    spec = profile["spec"]
    spec["upstreams"][0]["url"] = model.url
    for member, tokens in zip(spec["panel"]["members"], (SHORT, SHORT, LONG), strict=True):
        member["maxTokens"] = tokens
    spec["aggregator"]["maxTokens"] = FINAL
    spec["timeouts"]["request"] = "100s"
    path = tmp_path_factory.mktemp("demo") / "profile.yaml"
    path.write_text(yaml.safe_dump(profile), encoding="utf-8")
    command = [sys.executable, "-m", "moa_router", "serve", "--profile", str(path), "--port", "0", "--admin-port", "0"]
    with running("the router", command, seconds=START_SECONDS) as router:
        yield f"{router.url}/v1"


@pytest.fixture
def client(endpoint: str) -> Iterator[OpenAI]:
    """The official SDK, pointed at the router."""
    with (
        DefaultHttpxClient(trust_env=False) as http,
        OpenAI(base_url=endpoint, api_key="none", max_retries=0, timeout=CLIENT_SECONDS, http_client=http) as client,
    ):
        yield client
