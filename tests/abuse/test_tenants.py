"""Made-up tenants under a shared limit: known devices are served in time, and the limit is obeyed (G5, G6, G9)."""

from __future__ import annotations

import asyncio
import json
import uuid
from pathlib import Path

from relay.sandbox.server import Sandbox

from tests.abuse.box import metrics, peak_memory_bytes
from tests.e2e.harness import PATIENCE_S, RelayProcess, environment, event, running, serving
from tests.fault.sizes import size

SHARED_LIMIT = 20
WINDOW_MS = size(3_000, 60_000)
ROUNDS = size(2, 5)
MADE_UP = size(400, 10_000)
KNOWN = [f"known-{n}" for n in range(3)]
MAX_IN_FLIGHT = 8


async def post_made_up(relay: RelayProcess) -> None:
    for first in range(1_000, 1_000 + MADE_UP, 200):
        batch = [event(0, "invented", tenant_id) for tenant_id in range(first, first + 200)]
        status, _, _ = await relay.request("POST", "/v1/events", json.dumps(batch).encode())
        assert status == 202


async def post_and_deliver(relay: RelayProcess, sandbox: Sandbox, n: int) -> int:
    """Send an event of each known device. Return the number of requests until all are delivered."""
    before = sandbox.report().requests
    for device in KNOWN:
        assert await relay.post(event(n, device)) == 202
    ids = [uuid.UUID(event(n, device)["event_id"]).bytes for device in KNOWN]
    async with asyncio.timeout(PATIENCE_S + 3 * WINDOW_MS / 1_000):
        await sandbox.until(lambda record: all(map(record.has, ids)))
    return sandbox.report().requests - before


async def test_made_up_tenants_neither_starve_known_devices_nor_exceed_a_shared_limit(tmp_path: Path) -> None:
    """A window permits SHARED_LIMIT requests, so that the number of requests is the time in windows."""
    limit = {"ip_limit": "always", "ip_per_window": SHARED_LIMIT, "window_ms": WINDOW_MS}
    async with serving(**limit, keep_requests=False) as sandbox:
        env = environment(sandbox.url, tmp_path, rate__window=f"{WINDOW_MS}ms", upstream__max_in_flight="8")
        async with running(env) as relay:
            await post_and_deliver(relay, sandbox, 0)
            await post_made_up(relay)
            for n in range(1, ROUNDS + 1):
                assert await post_and_deliver(relay, sandbox, n) <= 2 * SHARED_LIMIT
            report, values = sandbox.report(), await metrics(relay)
            upstreams = [upstream["tenant"] for upstream in (await relay.status())["upstreams"]]
            assert peak_memory_bytes(relay.pid) < 100 << 20
    assert report.rate_limited <= 2 * MAX_IN_FLIGHT + report.requests / SHARED_LIMIT
    assert report.most_of_peer <= 2 * SHARED_LIMIT
    assert None in upstreams
    assert 1 in upstreams
    assert sum(values[series] for series in values if series.startswith("upstream_state")) <= 64 + report.requests
    assert len(values) < 300
