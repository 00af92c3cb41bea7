"""A box with a wrong clock, in 1970 or ten days ahead: the real process under libfaketime."""

from __future__ import annotations

import json
import signal
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from relay.runtime.clock import SystemClock
from relay.sandbox.server import Sandbox

from tests.e2e.harness import RelayProcess, environment, event, running

FAKETIME = next((path for path in Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")), None)
pytestmark = pytest.mark.skipif(FAKETIME is None, reason="libfaketime is not installed (Debian package faketime)")

YEAR_S = 365 * 86_400
RIGHT_TO_S = 60
OWN_TIME = "1970-01-01T00:00:05.123Z"


def faked(env: dict[str, str], file: Path) -> dict[str, str]:
    """Return the environment of a process whose wall clock has the offset in `file`. Other clocks are unchanged."""
    return env | {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_TIMESTAMP_FILE": str(file),
        "FAKETIME_CACHE_DURATION": "1",
    }


def times(sandbox: Sandbox) -> dict[int, str]:
    """Return the `occurred_at` of each event that the upstream received, by event number."""
    sent = [event for request in sandbox.record.contents for event in json.loads(request.body)["events"]]
    return {event["context"]["n"]: event["occurred_at"] for event in sent}


def seconds_off(timestamp: str) -> float:
    return datetime.fromisoformat(timestamp).timestamp() - SystemClock().wall_ms() / 1000


async def posted(relay: RelayProcess, numbers: range, delivered: int) -> dict[str, Any]:
    """Post events without a time and a last one with a time. Wait for `delivered` events, and return the status."""
    for n in numbers[:-1]:
        assert await relay.post(event(n)) == 202
    assert await relay.post(event(numbers[-1]) | {"occurred_at": OWN_TIME}) == 202
    return await relay.until(lambda status: status["ledger"]["delivered"] == delivered)


async def test_a_wrong_clock_is_noticed_and_no_wrong_time_is_sent(sandbox: Sandbox, tmp_path: Path) -> None:
    offset = tmp_path / "offset"
    offset.write_text("-56y\n")
    async with running(faked(environment(sandbox.url, tmp_path), offset)) as relay:
        await posted(relay, range(10), delivered=10)
        status = await relay.status()
        assert -57 * YEAR_S < status["clock_skew_seconds"] < -55 * YEAR_S
        assert status["started_at"].startswith(("1970", "1971")), "the clock was not faked: this test proves nothing"

        offset.write_text("+10d\n")
        await relay.until(lambda status: status["clock_skew_seconds"] > 9 * 86_400)
        await posted(relay, range(10, 20), delivered=20)

        offset.write_text("+0\n")
        await relay.until(lambda status: abs(status["clock_skew_seconds"]) < RIGHT_TO_S)
        await posted(relay, range(20, 30), delivered=30)

    timestamps = times(sandbox)
    assert set(timestamps) == set(range(30))
    assert {n for n, timestamp in timestamps.items() if timestamp == OWN_TIME} == {9, 19, 29}
    assert [
        n for n, timestamp in timestamps.items() if timestamp != OWN_TIME and abs(seconds_off(timestamp)) > RIGHT_TO_S
    ] == []
    report = sandbox.report()
    assert (report.distinct, report.duplicates) == (30, 0)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
async def test_a_restart_in_the_same_boot_knows_the_time_before_any_response(
    how: signal.Signals, sandbox: Sandbox, tmp_path: Path
) -> None:
    """The clock is ten days ahead, and nothing is sent after the restart."""
    offset = tmp_path / "offset"
    offset.write_text("+10d\n")
    async with running(faked(environment(sandbox.url, tmp_path), offset)) as relay:
        await posted(relay, range(5), delivered=5)
        await posted(relay, range(5, 10), delivered=10)  # The second response confirms the first one.
        await relay.until(lambda status: (status["clock_skew_seconds"] or 0) > 9 * 86_400)
        if how == signal.SIGKILL:
            await relay.until(lambda _: (tmp_path / "outbox.db-time").exists())
        relay.process.send_signal(how)
        await relay.ended()

    async with running(faked(environment(sandbox.url, tmp_path), offset)) as relay:
        status = await relay.status()
        assert status["clock_skew_seconds"] is not None
        assert 9 * 86_400 < status["clock_skew_seconds"] < 11 * 86_400
