"""The official SDK takes the simulator for the real thing."""

from collections.abc import AsyncIterator

import openai
import pytest
from openai import AsyncOpenAI
from pydantic import BaseModel
from tests.simulator.client import Client, Serve


class Weather(BaseModel):
    city: str
    degrees: int


@pytest.fixture
async def client(serve: Serve) -> Client:
    return await serve(tokens=12, reasoning_tokens=4)


@pytest.fixture
async def sdk(client: Client) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{client.sim.url}/v1", api_key="key", max_retries=0, timeout=10) as sdk:
        yield sdk


async def test_an_answer(sdk: AsyncOpenAI) -> None:
    answer = await sdk.chat.completions.create(model="sim", messages=[{"role": "user", "content": "Hello"}], n=2)
    assert len(answer.choices) == 2
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert answer.usage.completion_tokens_details is not None
    assert answer.usage.completion_tokens_details.reasoning_tokens == 8


async def test_a_stream(sdk: AsyncOpenAI, client: Client) -> None:
    stream = await sdk.chat.completions.create(
        model="sim",
        messages=[{"role": "user", "content": "Hello"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    text, usage = "", None
    async for chunk in stream:
        text += "".join(choice.delta.content or "" for choice in chunk.choices)
        usage = chunk.usage or usage
    assert text
    assert usage is not None
    assert usage.completion_tokens == client.sim.calls[-1].completion_tokens


async def test_a_parsed_answer(sdk: AsyncOpenAI) -> None:
    answer = await sdk.chat.completions.parse(
        model="sim", messages=[{"role": "user", "content": "Weather?"}], response_format=Weather
    )
    assert isinstance(answer.choices[0].message.parsed, Weather)


async def test_embeddings_completions_and_models(sdk: AsyncOpenAI) -> None:
    vectors = await sdk.embeddings.create(model="sim", input=["a", "b"])
    assert [len(entry.embedding) for entry in vectors.data] == [64, 64]
    completion = await sdk.completions.create(model="sim", prompt="Once")
    assert completion.choices[0].text
    assert [model.id async for model in sdk.models.list()] == ["sim"]


async def test_refusals_and_faults_are_the_sdks_exceptions(sdk: AsyncOpenAI, client: Client) -> None:
    with pytest.raises(openai.NotFoundError):
        await sdk.chat.completions.create(model="nope", messages=[{"role": "user", "content": "x"}])
    client.sim.set_rules([{"action": {"status": 429}}])
    with pytest.raises(openai.RateLimitError):
        await sdk.chat.completions.create(model="sim", messages=[{"role": "user", "content": "x"}])
    client.sim.set_rules([{"action": {"reset": {}}}])
    with pytest.raises(openai.APIConnectionError):
        await sdk.chat.completions.create(model="sim", messages=[{"role": "user", "content": "x"}])
    client.sim.set_rules([{"action": {"error_event": {"after": 1}}}])
    stream = await sdk.chat.completions.create(model="sim", messages=[{"role": "user", "content": "x"}], stream=True)
    with pytest.raises(openai.APIError, match="The engine died"):
        async for _ in stream:
            pass
