"""A sandbox upstream whose rate window is short enough to be filled in a test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from relay.runtime.clock import SystemClock
from relay.sandbox.server import Sandbox
from relay.sandbox.settings import SandboxSettings

from tests.e2e.harness import KEY
from tests.fault.apps import PER_WINDOW, WINDOW_MS


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    """Accept PER_WINDOW requests of a device in WINDOW_MS. `settings` in apps.py gives the relay the same limits."""
    upstream = Sandbox(
        SandboxSettings(api_key=KEY, window_ms=WINDOW_MS, device_per_window=PER_WINDOW, keep_requests=True),
        SystemClock(),
    )
    await upstream.start()
    yield upstream
    await upstream.stop()
