"""Fixtures of the abuse tests: a sandbox upstream without limits, and a relay that delivers to it."""

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
    """Raise the timeout for the nightly sizes."""
    for item in items:
        if NIGHTLY and Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(LONG_S))


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    """Run a sandbox upstream without rate limits that records the received bytes."""
    upstream = Sandbox(SandboxSettings(api_key=KEY, device_per_window=0, keep_requests=True), SystemClock())
    await upstream.start()
    yield upstream
    await upstream.stop()


@pytest.fixture
async def relay(sandbox: Sandbox, tmp_path: Path) -> AsyncIterator[RelayProcess]:
    """Run a relay with default settings, except those of the harness and limits that would slow the test."""
    env = environment(sandbox.url, tmp_path, rate__device_per_window="1000000")
    async with running(env) as process:
        yield process
