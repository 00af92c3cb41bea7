"""A process that is stopped for a while: a frozen cgroup, a suspended box, a debugger, a swapping machine."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

from relay.sandbox.server import Sandbox

from tests.e2e.harness import running
from tests.fault.apps import WINDOW_MS, Fleet, all_settled, settings
from tests.fault.sizes import size


async def test_a_process_stopped_and_continued_under_load(sandbox: Sandbox, tmp_path: Path) -> None:
    """The stop is longer than the rate window and the timeout: no burst breaks the limit, and nothing is lost."""
    fleet = Fleet(10)
    stops = size(3, 30)
    async with running(settings(sandbox.url, tmp_path)) as relay:
        fleet.address = relay.http
        async with fleet.sending():
            for _ in range(stops):
                await fleet.until(stored=20)
                relay.signal(signal.SIGSTOP)
                await asyncio.sleep(1.2 * WINDOW_MS / 1000)  # The duration of the fault.
                relay.signal(signal.SIGCONT)
            await fleet.until(stored=20)
        await all_settled(relay, sandbox, fleet, repeats=stops * 8)
