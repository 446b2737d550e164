"""A simulator for each test."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import aiohttp
import pytest
from tests.simulator.client import Client, Serve

from moa_simulator import ModelConfig, Rule, Simulator, SimulatorConfig


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Starts simulators, and stops them after the test."""
    async with AsyncExitStack() as stack:

        async def start(*models: ModelConfig, rules: tuple[object, ...] = (), **settings: object) -> Client:
            of_server = {key: settings.pop(key) for key in list(settings) if key in SimulatorConfig.model_fields}
            config = SimulatorConfig.model_validate(
                {
                    "models": models or (ModelConfig.model_validate({"name": "sim", **settings}),),
                    "rules": [Rule.model_validate(rule) for rule in rules],
                    **of_server,
                }
            )
            sim = await stack.enter_async_context(Simulator(config))
            timeout = aiohttp.ClientTimeout(total=30)
            session = await stack.enter_async_context(aiohttp.ClientSession(sim.url, timeout=timeout))
            return Client(sim, session)

        yield start
