"""Simulated providers that end with their test."""

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from sidecar.sim.knobs import SimConfig
from sidecar.sim.provider import SimulatedProvider

Start = Callable[[SimConfig], Awaitable[SimulatedProvider]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts simulated providers and closes them after the test."""
    running: list[SimulatedProvider] = []

    async def begin(config: SimConfig) -> SimulatedProvider:
        provider = SimulatedProvider(config)
        await provider.start()
        running.append(provider)
        return provider

    yield begin
    for provider in running:
        await provider.close()
