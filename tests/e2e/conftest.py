"""What the end-to-end tests share: a sandbox upstream in this process, and a browser."""

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
    """The documented upstream, but for a window of 5 s."""
    upstream = Sandbox(SandboxSettings(api_key=KEY, window_ms=5_000, keep_requests=True), SystemClock())
    await upstream.start()
    yield upstream
    await upstream.stop()


@pytest.fixture(scope="module")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One for all tests of a file; they are skipped, with the reason, where there is none."""
    try:
        with chromium(tmp_path_factory.mktemp("profile")) as browser:
            yield browser
    except LookupError as missing:
        pytest.skip(str(missing))
