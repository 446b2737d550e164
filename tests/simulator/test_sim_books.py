"""Books, rules and metrics over HTTP."""

import hashlib
import json

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.simulator.client import Client, Serve, request

from moa_simulator import ModelConfig


async def test_a_call_is_recorded_with_everything_but_the_secret(serve: Serve) -> None:
    client = await serve(tokens=5, tokens_spread=0)
    headers = {"Authorization": "Bearer hunter2", "X-Thing": "1"}
    body = json.dumps(request("naïve", n=2))
    async with client.session.post("/v1/chat/completions", data=body.encode(), headers=headers) as response:
        usage = (await response.json())["usage"]
    (call,) = json.loads(await client.get("/sim/calls"))
    assert call["body"] == body
    assert call["headers"]["authorization"] == f"Bearer sha256:{hashlib.sha256(b'hunter2').hexdigest()[:12]}"
    assert call["headers"]["x-thing"] == "1"
    assert call["start"] <= call["first_token"] <= call["end"]
    facts = {key: call[key] for key in ("id", "connection", "path", "model", "stream", "n", "outcome", "status")}
    assert facts == {
        "id": 1,
        "connection": 1,
        "path": "/v1/chat/completions",
        "model": "sim",
        "stream": False,
        "n": 2,
        "outcome": "ok",
        "status": 200,
    }
    tokens = {key: value for key, value in call.items() if key.endswith("_tokens")}
    assert tokens == {
        "prompt_tokens": usage["prompt_tokens"],
        "cached_tokens": 0,
        "completion_tokens": 10,
        "reasoning_tokens": 0,
        "sent_tokens": 10,
    }
    assert call["usage_sent"] is True


async def test_totals_by_model(serve: Serve) -> None:
    client = await serve(ModelConfig(name="sim", tokens=4, tokens_spread=0), ModelConfig(name="other"))
    client.sim.set_rules([{"match": {"model": "other"}, "action": {"status": 500}}])
    await client.chat("x")
    await client.chunks("x")
    await client.refusal("x", model="other")
    await client.refusal("x", model="nope")
    books = json.loads(await client.get("/sim/books"))
    assert set(books) == {"sim", "other", "nope"}
    assert (books["sim"]["calls"], books["sim"]["ok"], books["sim"]["completion_tokens"]) == (2, 2, 8)
    assert (books["other"]["faults"], books["nope"]["rejected"]) == (1, 1)


async def test_the_ring_is_bounded_and_totals_are_not(serve: Serve) -> None:
    client = await serve(max_calls=2)
    for _ in range(5):
        await client.chat("x")
    assert [call.id for call in client.sim.calls] == [4, 5]
    assert client.sim.totals["sim"]["calls"] == 5


async def test_recording_can_be_off(serve: Serve) -> None:
    client = await serve(record=False)
    await client.chat("x")
    assert client.sim.calls == []
    assert client.sim.totals["sim"]["calls"] == 1


async def test_rules_are_replaced_and_shown(serve: Serve) -> None:
    client = await serve()
    rules = [{"match": {"model": "sim"}, "times": 1, "action": {"status": {"code": 418}}}]
    assert await client.post("/sim/rules", rules) == (200, rules)
    assert json.loads(await client.get("/sim/rules")) == rules
    assert [(await client.post("/v1/chat/completions", request("x")))[0] for _ in range(2)] == [418, 200]
    await client.post("/sim/rules", [])
    assert json.loads(await client.get("/sim/rules")) == []


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        ([{"action": {"status": 99}}], "rules.0.action.status.code: Input should be greater than or equal to 200"),
        ([{"action": {"explode": True}}], "rules.0.action.explode: Extra inputs are not permitted"),
        ({"action": {}}, "rules: Input should be a valid array"),
    ],
)
async def test_wrong_rules_are_refused_and_the_old_ones_stay(serve: Serve, rules: object, told: str) -> None:
    client = await serve(rules=({"action": {"status": 503}},))
    status, answer = await client.post("/sim/rules", rules)
    assert status == 400
    assert told in answer["error"]["message"]
    assert (await client.post("/v1/chat/completions", request("x")))[0] == 503


async def test_reset_forgets_books_rules_and_prefixes(serve: Serve) -> None:
    client = await serve()
    question = "word " * 100
    await client.chat(question)
    await client.post("/sim/rules", [{"action": {"status": 503}}])
    assert await client.post("/sim/reset", {}) == (200, None)
    assert (client.sim.calls, client.sim.totals) == ([], {})
    assert (await client.chat(question))["usage"]["prompt_tokens_details"] == {"cached_tokens": 0}


async def test_waiting_for_the_books_ends(serve: Serve) -> None:
    client = await serve()
    with pytest.raises(TimeoutError):
        await client.sim.until(lambda: False, deadline=0.01)


async def metric(client: Client, name: str, **labels: str) -> float:
    wanted = {"model_name": "sim", "engine": "0", **labels}
    for family in text_string_to_metric_families(await client.get("/metrics")):
        for sample in family.samples:
            if sample.name == name and sample.labels == wanted:
                return sample.value
    raise AssertionError(f"no {name}{wanted}")


async def test_metrics_have_vllms_names_and_count(serve: Serve) -> None:
    client = await serve(tokens=7, tokens_spread=0)
    question = "word " * 100
    prompt = (await client.chat(question))["usage"]["prompt_tokens"]
    cached = (await client.chat(question))["usage"]["prompt_tokens_details"]["cached_tokens"]
    await client.chat(question, max_tokens=2)
    assert await metric(client, "vllm:prompt_tokens_total") == 3 * prompt
    assert await metric(client, "vllm:generation_tokens_total") == 16
    assert await metric(client, "vllm:prefix_cache_queries_total") == 3 * prompt
    assert await metric(client, "vllm:prefix_cache_hits_total") == 2 * cached
    assert await metric(client, "vllm:request_success_total", finished_reason="stop") == 2
    assert await metric(client, "vllm:request_success_total", finished_reason="length") == 1
    assert await metric(client, "vllm:time_to_first_token_seconds_count") == 3
    assert await metric(client, "vllm:time_to_first_token_seconds_bucket", le="+Inf") == 3
    assert await metric(client, "vllm:inter_token_latency_seconds_count") == 6 + 6 + 1
    assert await metric(client, "vllm:num_requests_running") == 0
    assert await metric(client, "vllm:num_requests_waiting") == 0


async def test_a_fault_and_a_leaver_finish_as_error_and_abort(serve: Serve) -> None:
    client = await serve(rules=({"action": {"cut": 1}},))
    await client.stream("x")
    assert await metric(client, "vllm:request_success_total", finished_reason="error") == 1
    assert await metric(client, "vllm:request_success_total", finished_reason="abort") == 0


async def test_the_small_paths(serve: Serve) -> None:
    client = await serve(max_model_len=99)
    (card,) = json.loads(await client.get("/v1/models"))["data"]
    assert (card["id"], card["object"], card["max_model_len"]) == ("sim", "model", 99)
    assert await client.get("/health") == await client.get("/ping") == ""
    assert set(json.loads(await client.get("/version"))) == {"version"}


async def test_tokenize_counts_as_usage_does(serve: Serve) -> None:
    client = await serve()
    body = request("How many?")
    _, counted = await client.post("/tokenize", body)
    assert counted["count"] == len(counted["tokens"]) == (await client.chat("How many?"))["usage"]["prompt_tokens"]
    _, plain = await client.post("/tokenize", {"prompt": "Plain text.", "return_token_strs": True})
    assert plain["token_strs"] == ["Plain", " text", "."]
    assert (await client.post("/tokenize", {"model": "nope", "prompt": "x"}))[0] == 404
    assert (await client.post("/tokenize", b"{"))[0] == 400
