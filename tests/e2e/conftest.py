"""Fixtures of the end-to-end tests: a sandbox upstream in this process, and a browser."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from relay.runtime.clock import SystemClock
from relay.sandbox.server import Sandbox
from relay.sandbox.settings import SandboxSettings

from tests.e2e.browser import Browser, chromium
from tests.e2e.harness import KEY


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    """Run the documented upstream with a rate window of 5 s."""
    upstream = Sandbox(SandboxSettings(api_key=KEY, window_ms=5_000, keep_requests=True), SystemClock())
    await upstream.start()
    yield upstream
    await upstream.stop()


@pytest.fixture(scope="module")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Run one browser for all tests of a file. Without a browser, the tests are skipped."""
    try:
        with chromium(tmp_path_factory.mktemp("profile")) as browser:
            yield browser
    except LookupError as missing:
        pytest.skip(str(missing))
