"""Jumps of the wall clock: a TV box boots in 1970 and learns the time later, a wrong time is set, or 2038 begins.

Rates and ages do not depend on the wall clock: limits hold, no pause lasts for years, no event expires early.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from relay.sandbox.faults import Misbehaviour
from relay.sandbox.server import Sandbox

from tests.e2e.harness import RelayProcess, running
from tests.fault.apps import Fleet, all_settled, settings
from tests.fault.sizes import NIGHTLY, some

LIBRARY = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
YEAR_H = 365 * 24
EXPIRY_S = 12
"""How long a nightly test waits, in seconds. The relay checks ages every ten seconds."""

pytestmark = pytest.mark.skipif(LIBRARY is None, reason="libfaketime is not installed")


class WallClock:
    """The wall clock of a relay process. A test can set it; the monotonic clock is not changed."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.set(0)

    def set(self, ahead_h: int) -> None:
        self._file.write_text(f"{ahead_h:+d}h")

    def around(self, env: dict[str, str]) -> dict[str, str]:
        return env | {
            "LD_PRELOAD": str(LIBRARY),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }


@pytest.mark.parametrize("jump_h", some([-56 * YEAR_H], [-1, +240, +20 * YEAR_H]))
async def test_a_clock_jump_under_load(sandbox: Sandbox, tmp_path: Path, jump_h: int) -> None:
    """G1 to G5 hold, and the rate limits apply as before."""
    clock, fleet = WallClock(tmp_path / "clock"), Fleet(5)
    async with running(clock.around(settings(sandbox.url, tmp_path / "state"))) as relay:
        fleet.address = relay.http
        async with fleet.sending():
            await fleet.until(stored=20)
            clock.set(jump_h)
            await jumped(relay, jump_h)
            await fleet.until(stored=40)
            clock.set(0)
            await jumped(relay, 0)
            await fleet.until(stored=20)
        status = await all_settled(relay, sandbox, fleet)
        assert status["outbox"]["oldest_age_seconds"] < 60


@pytest.mark.parametrize("jump_h", some([+240], [-56 * YEAR_H]))
async def test_a_jump_while_the_upstream_is_unavailable(sandbox: Sandbox, tmp_path: Path, jump_h: int) -> None:
    """The age of pending events does not jump, also after a kill. Ten days are more than outbox.max_age."""
    clock, fleet = WallClock(tmp_path / "clock"), Fleet(5)
    sandbox.faults.add(Misbehaviour(answer=503))
    env = clock.around(settings(sandbox.url, tmp_path / "state"))
    async with running(env) as relay:
        fleet.address = relay.http
        await fleet.send(5)
        clock.set(jump_h)
        await jumped(relay, jump_h)
        assert (await relay.status())["outbox"]["oldest_age_seconds"] < 60
        if NIGHTLY:
            await asyncio.sleep(EXPIRY_S)
    async with running(env) as relay:
        status = await relay.until(lambda status: status["ledger"]["pending"] == 25)
        assert status["outbox"]["oldest_age_seconds"] < 60
        if NIGHTLY:
            await asyncio.sleep(EXPIRY_S)
        sandbox.faults.heal()
        await all_settled(relay, sandbox, fleet, repeats=8)


async def jumped(relay: RelayProcess, ahead_h: int) -> None:
    """Wait until the process sees the new time: its reported start time jumps with the clock."""
    expected = datetime.now(UTC) + timedelta(hours=ahead_h)

    def arrived(status: dict[str, Any]) -> bool:
        return abs(datetime.fromisoformat(status["started_at"]) - expected) < timedelta(minutes=30)

    await relay.until(arrived)
