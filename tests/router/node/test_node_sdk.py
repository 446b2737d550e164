"""The official OpenAI SDK for Node.js against the running router."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.router.wire.asking import final_of, on, trio
from tests.router.wire.harness import DEADLINE, Json, Profile, Router, Simulator, StartRouter

pytestmark = pytest.mark.node

Ask = Callable[[str], Any]


@pytest.fixture
def served(router: StartRouter, profile: Profile) -> Router:
    return router(trio(profile, panel={"quorum": 3}))


@pytest.fixture
def ask(packages: Path, served: Router, tmp_path: Path) -> Ask:
    """Runs a scenario of `ask.mjs` and returns what it prints."""
    script = tmp_path / "ask.mjs"
    shutil.copy(Path(__file__).parent / "ask.mjs", script)
    (tmp_path / "node_modules").symlink_to(packages)

    def run(scenario: str) -> Any:
        ended = subprocess.run(
            ["node", str(script), served.url, scenario],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=2 * DEADLINE,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        return json.loads(ended.stdout)

    return run


def test_a_whole_answer(ask: Ask, simulator: Simulator) -> None:
    simulator.rules(on("writer", reply="Because of Rayleigh."))
    got = ask("whole")
    answer = got["answer"]
    assert answer["object"] == "chat.completion"
    assert answer["model"] == "research"
    assert answer["choices"][0]["message"]["content"] == "Because of Rayleigh."
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["total_tokens"] > 0
    assert answer["moa"]["calls"] == 4
    assert got["panel"] == "3/3"
    assert got["requestId"]


def test_a_streamed_answer(ask: Ask, simulator: Simulator) -> None:
    simulator.rules(on("writer", reply="Because of Rayleigh, 漢字 and 🦔."))
    chunks: list[Json] = ask("streamed")["chunks"]
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
    deltas = [choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"]]
    assert "".join(deltas) == "Because of Rayleigh, 漢字 and 🦔."
    assert len([delta for delta in deltas if delta]) > 3
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["total_tokens"] > 0
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-2]["moa"]["calls"] == 4


def test_the_stream_helper(ask: Ask, simulator: Simulator) -> None:
    simulator.rules(on("writer", reply="One two three four five six."))
    got = ask("helper")
    assert got["text"] == "One two three four five six."
    assert got["answer"]["choices"][0]["message"]["content"] == got["text"]
    assert got["answer"]["usage"]["completion_tokens"] > 0
    assert got["pieces"] > 3


def test_a_conversation_of_several_turns(ask: Ask, simulator: Simulator) -> None:
    messages = ask("conversation")["messages"]
    assert [message["role"] for message in messages] == ["system", *["user", "assistant"] * 3]
    assert all(message["content"] for message in messages)
    last = final_of(simulator.settled())[-1].fields["messages"]
    assert [message["content"] for message in last[:-1]] == [message["content"] for message in messages[:-2]]
    assert last[-1]["content"].startswith("And the second part?")


def test_tool_calls(ask: Ask, simulator: Simulator) -> None:
    got = ask("tools")
    for choice in (got["whole"], got["streamed"]):
        assert choice["finish_reason"] == "tool_calls"
        (call,) = choice["message"]["tool_calls"]
        assert call["type"] == "function"
        assert call["function"]["name"] == "weather"
        assert isinstance(json.loads(call["function"]["arguments"])["city"], str)
    assert got["whole"]["message"]["tool_calls"][0]["id"]


def test_a_tools_result_is_answered(ask: Ask, simulator: Simulator) -> None:
    wants = {"tool_calls": [{"name": "weather", "arguments": '{"city":"Oslo"}'}]}
    simulator.rules(on("writer", 1, reply=wants), on("writer", reply="It rains in Oslo."))
    got = ask("toolTurn")
    assert got["ran"] == [{"city": "Oslo"}]
    assert got["text"] == "It rains in Oslo."
    assert got["roles"] == ["user", "assistant", "tool", "assistant"]
    assert len(final_of(simulator.settled())) == 2


def test_json_by_schema(ask: Ask, simulator: Simulator) -> None:
    got = ask("schema")
    for verdict in (got["whole"], got["streamed"]):
        assert set(verdict) == {"answer", "sure"}
        assert isinstance(verdict["sure"], bool)


def test_errors_have_their_classes(ask: Ask, simulator: Simulator) -> None:
    simulator.rules(on("a", status={"code": 429, "headers": {"retry-after": "7"}}), on("b", status=500))
    got = ask("errors")
    assert (got["unknown"]["kind"], got["unknown"]["code"]) == ("NotFoundError", "model_not_found")
    assert (got["bad"]["kind"], got["bad"]["param"]) == ("BadRequestError", "n")
    assert (got["busy"]["kind"], got["busy"]["retryAfter"]) == ("RateLimitError", "7")
    assert (got["broken"]["kind"], got["broken"]["status"]) == ("InternalServerError", 502)
    assert all(error["requestId"] for error in got.values())


def test_a_stream_that_breaks_is_an_error(ask: Ask, simulator: Simulator) -> None:
    simulator.rules(on("writer", error_event={"after": 5, "message": "SECRET"}))
    got = ask("brokenStream")
    assert got["text"]
    assert got["error"]["kind"] == "APIError"
    assert got["error"]["code"] == "upstream_error"
    assert "SECRET" not in got["error"]["message"]


def test_a_stream_that_is_left_is_cancelled(ask: Ask, simulator: Simulator) -> None:
    simulator.rules(on("writer", inter_token=0.2))
    assert ask("abort") == {"aborted": True}
    (final,) = final_of(simulator.settled())
    assert final.outcome == "cancelled"
    assert final.completion_tokens < 30


def test_models(ask: Ask, simulator: Simulator) -> None:
    got = ask("models")
    assert {"research", "fusion/research", "research:single", "writer"} <= set(got["ids"])
    assert got["one"]["object"] == "model"
