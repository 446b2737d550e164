"""Plain completions and embeddings."""

import base64
import json
import math
import struct

from tests.simulator.client import Serve, events_in

from moa_simulator.tokens import tokenize


async def test_a_completion(serve: Serve) -> None:
    client = await serve(tokens=50)
    status, answer = await client.post("/v1/completions", {"model": "sim", "prompt": "Once upon"})
    assert status == 200
    (choice,) = answer["choices"]
    assert (choice["finish_reason"], len(tokenize(choice["text"]))) == ("length", 16)
    assert answer["usage"]["prompt_tokens"] == 2


async def test_several_prompts_times_n(serve: Serve) -> None:
    client = await serve(tokens=5)
    body = {"model": "sim", "prompt": ["a b", "c", [1, 2, 3]], "n": 2, "max_tokens": 20, "echo": True}
    _, answer = await client.post("/v1/completions", body)
    assert [choice["index"] for choice in answer["choices"]] == list(range(6))
    starts = [choice["text"].startswith(prompt) for choice, prompt in zip(answer["choices"], "aacc<<", strict=True)]
    assert all(starts)
    assert answer["usage"]["prompt_tokens"] == 6


async def test_token_ids_are_one_prompt(serve: Serve) -> None:
    client = await serve()
    _, answer = await client.post("/v1/completions", {"model": "sim", "prompt": list(range(40))})
    assert (len(answer["choices"]), answer["usage"]["prompt_tokens"]) == (1, 40)
    _, again = await client.post("/v1/completions", {"model": "sim", "prompt": list(range(40))})
    assert again["usage"]["prompt_tokens_details"] == {"cached_tokens": 32}


async def test_a_streamed_completion_says_the_same(serve: Serve) -> None:
    client = await serve(tokens=6)
    body = {"model": "sim", "prompt": "Once upon", "n": 2, "max_tokens": 30, "seed": 5}
    _, whole = await client.post("/v1/completions", body)
    streamed = {**body, "stream": True, "stream_options": {"include_usage": True}}
    async with client.session.post("/v1/completions", json=streamed) as response:
        *events, done = events_in(await response.text())
    assert done == "[DONE]"
    chunks = [json.loads(event) for event in events]
    for choice in whole["choices"]:
        parts = [part for chunk in chunks for part in chunk["choices"] if part["index"] == choice["index"]]
        assert "".join(part["text"] for part in parts) == choice["text"]
        assert parts[-1]["finish_reason"] == "stop"
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]
    assert all(chunk["usage"] is None for chunk in chunks[:-1])


async def test_a_prompt_too_long_is_refused(serve: Serve) -> None:
    client = await serve(max_model_len=20)
    status, _ = await client.post("/v1/completions", {"model": "sim", "prompt": "a b c d e", "max_tokens": 16})
    assert status == 400


async def test_embeddings_are_deterministic_unit_vectors(serve: Serve) -> None:
    client = await serve(embedding_size=256)
    texts = ["the cat sat on the mat", "the cat sat on a mat", "quarterly revenue grew", ""]
    _, answer = await client.post("/v1/embeddings", {"model": "sim", "input": texts})
    vectors = [entry["embedding"] for entry in answer["data"]]
    assert all(math.isclose(math.hypot(*vector), 1, abs_tol=1e-9) and len(vector) == 256 for vector in vectors)
    near = sum(a * b for a, b in zip(vectors[0], vectors[1], strict=True))
    far = sum(a * b for a, b in zip(vectors[0], vectors[2], strict=True))
    assert near > far + 0.3
    assert answer["usage"] == {
        "prompt_tokens": sum(len(tokenize(text)) for text in texts),
        "total_tokens": sum(len(tokenize(text)) for text in texts),
        "completion_tokens": 0,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


async def test_embeddings_packed_and_cut(serve: Serve) -> None:
    client = await serve()
    body = {"model": "sim", "input": "hello", "dimensions": 8}
    _, plain = await client.post("/v1/embeddings", body)
    _, packed = await client.post("/v1/embeddings", {**body, "encoding_format": "base64"})
    unpacked = struct.unpack("<8f", base64.b64decode(packed["data"][0]["embedding"]))
    assert all(math.isclose(a, b, abs_tol=1e-6) for a, b in zip(unpacked, plain["data"][0]["embedding"], strict=True))
