"""The sandbox serves on asyncio's loop (its command) and on uvloop (the demo): its socket tests run on both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import pytest
import uvloop
from relay.sandbox.server import Sandbox
from relay.sandbox.settings import SandboxSettings

from tests.unit.sandbox.harness import Client, HandClock


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
async def start(clock: HandClock) -> AsyncIterator[Callable[..., Awaitable[Sandbox]]]:
    """Starts a sandbox with the given settings; stops it after the test."""
    running: list[Sandbox] = []

    async def start_one(**settings: Any) -> Sandbox:
        sandbox = Sandbox(SandboxSettings(**settings), clock)
        await sandbox.start()
        running.append(sandbox)
        return sandbox

    yield start_one
    for sandbox in running:
        await sandbox.stop()


@pytest.fixture
async def sandbox(start: Callable[..., Awaitable[Sandbox]]) -> Sandbox:
    """As documented."""
    return await start()


@pytest.fixture
async def connect(sandbox: Sandbox) -> AsyncIterator[Callable[[], Awaitable[Client]]]:
    """Opens connections to `sandbox`; closes them after the test."""
    opened: list[Client] = []

    async def connect_one() -> Client:
        opened.append(await Client.open(sandbox.url))
        return opened[-1]

    yield connect_one
    for client in opened:
        client.close()


@pytest.fixture
async def client(connect: Callable[[], Awaitable[Client]]) -> Client:
    return await connect()
