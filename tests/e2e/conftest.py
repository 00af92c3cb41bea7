"""What the end-to-end tests share: a sandbox upstream in this process, and a directory for the relay's state."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from relay.clock import SystemClock
from relay.sandbox.server import Sandbox
from relay.sandbox.settings import SandboxSettings

from tests.e2e.harness import KEY


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    """The documented upstream, but for a window of 5 s."""
    upstream = Sandbox(SandboxSettings(api_key=KEY, window_ms=5_000, keep_requests=True), SystemClock())
    await upstream.start()
    yield upstream
    await upstream.stop()
