"""The operations interface served on a loopback port."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from aiohttp import ClientSession
from relay.config import Http
from relay.http.guard import HostGuard
from relay.http.listener import Listener
from relay.runtime.clock import SystemClock
from relay.runtime.metrics import Metrics

from tests.support.ops_harness import Served


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    served = Served()
    listener = Listener(served.ops.handle, Http(listen="127.0.0.1:0"), HostGuard(), Metrics(), SystemClock())
    await listener.start()
    served.base = f"http://{listener.addresses[0]}"
    async with ClientSession() as served.session:
        yield served
    await listener.stop(within_ms=2_000)
