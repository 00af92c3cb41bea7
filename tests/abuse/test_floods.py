"""Known devices beside a flood of new device ids, and beside the backlog of many devices under a shared limit (G6)."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

from relay.sandbox.server import Sandbox

from tests.e2e.harness import PATIENCE_S, RelayProcess, environment, event, running
from tests.fault.sizes import size

EVENTS_PER_POST = 500


async def post(relay: RelayProcess, devices: Iterator[str], events: int = 1) -> None:
    """Post events of many devices in large requests."""
    batch = [event(n, device) for device in devices for n in range(events)]
    for start in range(0, len(batch), EVENTS_PER_POST):
        body = json.dumps(batch[start : start + EVENTS_PER_POST]).encode()
        status, _, _ = await relay.request("POST", "/v1/events", body)
        assert status == 202


def busy(devices: int) -> Iterator[str]:
    return (f"busy-{device}" for device in range(devices))


async def delivered(sandbox: Sandbox, n: int) -> int:
    """Wait for an event of the quiet device. Return the number of requests that arrived until then."""
    async with asyncio.timeout(size(1, 5) * PATIENCE_S):
        await sandbox.until(lambda record: record.has(uuid.UUID(event(n, "quiet")["event_id"]).bytes))
    return len(list(sandbox.record.requests()))


@asynccontextmanager
async def known_quiet_device(sandbox: Sandbox, directory: Path, **settings: str) -> AsyncIterator[RelayProcess]:
    async with running(environment(sandbox.url, directory, **settings)) as relay:
        assert await relay.post(event(0, "quiet")) == 202
        await delivered(sandbox, 0)
        yield relay


async def test_a_known_device_does_not_wait_behind_a_flood_of_new_device_ids(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.change(latency_ms=50)
    flood = size(1_000, 10_000)
    settings = {"batch__mix_devices": "never", "upstream__max_in_flight": "2"}
    async with known_quiet_device(sandbox, tmp_path, **settings) as relay:
        await post(relay, busy(flood))
        before = len(list(sandbox.record.requests()))
        assert await relay.post(event(1, "quiet")) == 202
        assert await delivered(sandbox, 1) - before <= flood // 10


async def test_a_flood_of_new_device_ids_shares_requests(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.change(latency_ms=50)
    flood = size(1_000, 10_000)
    async with known_quiet_device(sandbox, tmp_path) as relay:
        await post(relay, busy(flood))
        await relay.until(lambda status: status["ledger"]["pending"] == 0)
        assert len(list(sandbox.record.requests())) <= flood // 5


async def test_a_quiet_device_waits_for_two_windows_at_most_behind_the_backlog_of_many_under_a_shared_limit(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    window_ms = size(2_000, 60_000)
    sandbox.change(window_ms=window_ms, ip_limit="always", ip_per_window=20)
    settings = {"rate__window": f"{window_ms}ms", "batch__max_events": str(size(50, 500))}
    async with known_quiet_device(sandbox, tmp_path, **settings) as relay:
        await post(relay, busy(size(200, 1_000)), 50)
        await relay.until(lambda status: status["upstreams"][0]["state"] == "rate_limited")
        before = len(list(sandbox.record.requests()))
        assert await relay.post(event(1, "quiet")) == 202
        assert await delivered(sandbox, 1) - before <= 2 * 20
        status = await relay.status()
        assert status["ledger"]["pending"] > 0


async def test_devices_that_always_mix_share_requests(sandbox: Sandbox, tmp_path: Path) -> None:
    """Fifty devices send an event each half linger time, one after the other."""
    settings = {"batch__mix_devices": "always", "batch__linger": "1s"}
    async with running(environment(sandbox.url, tmp_path, **settings)) as relay:
        for n in range(4):
            for device in busy(50):
                assert await relay.post(event(n, device)) == 202
                await asyncio.sleep(0.01)
        await relay.until(lambda status: status["ledger"]["pending"] == 0)
    assert len(list(sandbox.record.requests())) <= 200 // 20
