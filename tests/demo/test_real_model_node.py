"""The same real model through the official SDK for Node.js, of which nobody here reads the stream by hand."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.demo.conftest import CLIENT_SECONDS, Model
from tests.demo.test_real_model import FINISHED, ROOM, WEATHER, City, assert_fused

pytestmark = [pytest.mark.model, pytest.mark.node, pytest.mark.timeout(400)]

Talk = Callable[[str, Any], Any]


@pytest.fixture
def talk(packages: Path, endpoint: str, tmp_path: Path) -> Talk:
    """Runs a scenario of `talk.mjs` and returns what it prints."""
    script = tmp_path / "talk.mjs"
    shutil.copy(Path(__file__).with_name(script.name), script)
    (tmp_path / "node_modules").symlink_to(packages)

    def run(scenario: str, given: Any) -> Any:
        ended = subprocess.run(
            ["node", str(script), endpoint, scenario, json.dumps(given)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=3 * CLIENT_SECONDS,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        return json.loads(ended.stdout)

    return run


@pytest.mark.parametrize("scenario", ["whole", "streamed"])
def test_a_conversation(talk: Talk, scenario: str) -> None:
    answers = talk(scenario, ["Where is Lisbon?", "And what do people eat there?"])
    assert len(answers) == 2
    assert len({answer["id"] for answer in answers}) == 2
    for answer in answers:
        assert_fused(answer["moa"], answer["usage"])
        [choice] = answer["choices"]
        assert choice["finish_reason"] in FINISHED
        assert choice["message"]["role"] == "assistant"
        assert choice["message"]["content"].strip()
        assert answer["model"] == "demo"
    if scenario == "streamed":
        assert sum(answer["pieces"] for answer in answers) > len(answers)


def test_a_tool_call(talk: Talk, model: Model) -> None:
    # as in the test through the Python SDK: the first token of a call is made likely
    opening = {str(model.tokens(text)[0]): 20 for text in ("{", '{"name')}
    answer = talk(
        "request",
        {
            "messages": [{"role": "user", "content": "What is the weather in Rome?"}],
            "tools": [WEATHER],
            "tool_choice": "required",
            "parallel_tool_calls": False,
            "logit_bias": opening,
            "max_tokens": ROOM,
        },
    )
    [choice] = answer["choices"]
    assert choice["finish_reason"] == "tool_calls"
    [call] = choice["message"]["tool_calls"]
    assert call["id"]
    assert (call["type"], call["function"]["name"]) == ("function", "get_weather")
    assert json.loads(call["function"]["arguments"])["city"] in {"Paris", "Rome"}
    assert_fused(answer["moa"], answer["usage"])


def test_a_schema(talk: Talk) -> None:
    schema = {"name": "city", "strict": True, "schema": City.model_json_schema()}
    answer = talk(
        "request",
        {
            "messages": [{"role": "user", "content": "Tell me about Paris, as JSON."}],
            "response_format": {"type": "json_schema", "json_schema": schema},
            "max_tokens": ROOM,
        },
    )
    [choice] = answer["choices"]
    assert choice["finish_reason"] == "stop"
    City.model_validate_json(choice["message"]["content"])
    assert_fused(answer["moa"], answer["usage"])
