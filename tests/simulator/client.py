"""A client that reads a simulator's bytes without an SDK's help."""

import json
from typing import Any, Protocol

import aiohttp

from moa_simulator import ModelConfig, Simulator

Answer = dict[str, Any]


class Client:
    def __init__(self, sim: Simulator, session: aiohttp.ClientSession) -> None:
        self.sim = sim
        self.session = session

    async def post(self, path: str, body: object) -> tuple[int, Any]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with self.session.post(path, data=data) as response:
            text = await response.text()
            return response.status, json.loads(text) if text else None

    async def chat(self, content: object = "Say something.", **fields: object) -> Answer:
        status, answer = await self.post("/v1/chat/completions", request(content, **fields))
        assert status == 200, answer
        return dict(answer)

    async def refusal(self, content: object = "Say something.", **fields: object) -> tuple[int, Answer]:
        status, answer = await self.post("/v1/chat/completions", request(content, **fields))
        return status, answer["error"]

    async def stream(self, content: object = "Say something.", **fields: object) -> list[str]:
        """The data of each event."""
        body = request(content, stream=True, **fields)
        async with self.session.post("/v1/chat/completions", json=body) as response:
            assert response.status == 200
            return events_in(await response.text())

    async def chunks(self, content: object = "Say something.", **fields: object) -> list[Answer]:
        events = await self.stream(content, **fields)
        assert events[-1] == "[DONE]"
        return [json.loads(event) for event in events[:-1]]

    async def get(self, path: str) -> str:
        async with self.session.get(path) as response:
            assert response.status == 200
            return await response.text()


def request(content: object, **fields: object) -> dict[str, object]:
    return {"model": "sim", "messages": [{"role": "user", "content": content}], **fields}


def events_in(text: str) -> list[str]:
    return [block.removeprefix("data: ") for block in text.split("\n\n") if block]


class Serve(Protocol):
    """Starts a simulator: `await serve(tokens=5, rules=[…])`, or with models of its own."""

    async def __call__(self, *models: ModelConfig, rules: tuple[object, ...] = (), **settings: object) -> Client: ...
