"""The operations interface served on a loopback port."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from aiohttp import ClientSession, web

from tests.support.ops_harness import Served


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    served = Served()
    runner = web.ServerRunner(web.Server(served.ops.handle, auto_decompress=False))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    served.base = f"http://{host}:{port}"
    async with ClientSession() as served.session:
        yield served
    await runner.cleanup()
