"""What the abuse tests share: a sandbox upstream without limits, and a relay in front of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from relay.runtime.clock import SystemClock
from relay.sandbox.server import Sandbox
from relay.sandbox.settings import SandboxSettings

from tests.e2e.harness import KEY, RelayProcess, environment, running
from tests.fault.sizes import LONG_S, NIGHTLY


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The nightly sizes take long."""
    for item in items:
        if NIGHTLY and Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(LONG_S))


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    """Takes what is valid as fast as it comes, and keeps the bytes."""
    upstream = Sandbox(SandboxSettings(api_key=KEY, device_per_window=0, keep_requests=True), SystemClock())
    await upstream.start()
    yield upstream
    await upstream.stop()


@pytest.fixture
async def relay(sandbox: Sandbox, tmp_path: Path) -> AsyncIterator[RelayProcess]:
    """The relay with its defaults, but for what the harness sets, and for limits that would slow the test."""
    env = environment(sandbox.url, tmp_path, rate__device_per_window="1000000")
    async with running(env) as process:
        yield process
