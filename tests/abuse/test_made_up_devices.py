"""An app that invents device ids: the relay stays within 256 MB, live and at every restart, and serves known devices.

With `RELAY_NIGHTLY=1` the limit of devices is the default.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path

import pytest
from relay.config.settings import OutboxSettings
from relay.event.rules import MAX_DEVICE_ID_CHARACTERS
from relay.sandbox.faults import Misbehaviour
from relay.sandbox.server import Sandbox

from tests.abuse.box import Healthy, connect, metrics, peak_memory_bytes, rejected
from tests.e2e.harness import RelayProcess, environment, event, running
from tests.fault.sizes import LONG_S, size
from tests.support.ingest_harness import post

LIMIT_BYTES = 256 << 20
MAX_DEVICES = size(1_000, OutboxSettings().max_devices)
MADE_UP = size(3_000, 176_000)
BATCH = 50


def made_up(number: int) -> str:
    """Return an id that needs as much memory as possible."""
    return f"{number:06}".ljust(MAX_DEVICE_ID_CHARACTERS, "\N{TELEVISION}")


async def flood(relay: RelayProcess, first: int, count: int) -> Counter[int]:
    """Post events of made-up devices, BATCH in a request. Return the number of responses by status."""
    client = await connect(relay)
    statuses: Counter[int] = Counter()
    for start in range(first, first + count, BATCH):
        client.send(post(json.dumps([event(1, made_up(number)) for number in range(start, start + BATCH)]).encode()))
        statuses[(await client.response()).status] += 1
    client.writer.close()
    return statuses


@pytest.mark.timeout(LONG_S)
async def test_made_up_devices_neither_end_the_relay_nor_affect_known_devices(sandbox: Sandbox, tmp_path: Path) -> None:
    env = environment(sandbox.url, tmp_path, rate__window="1s", outbox__max_devices=str(MAX_DEVICES))
    sandbox.faults.add(Misbehaviour(answer=503))
    async with running(env) as relay, Healthy(relay) as healthy:
        await healthy.served()
        statuses = await flood(relay, 0, MADE_UP)
        assert set(statuses) == {202, 503}
        assert MAX_DEVICES - BATCH <= statuses[202] * BATCH < MAX_DEVICES
        assert await rejected(relay, "max_devices") == statuses[503] * BATCH
        await healthy.served()
        found = await metrics(relay)
        assert found["devices"] == statuses[202] * BATCH + 1 <= found["max_devices"] == MAX_DEVICES
        assert peak_memory_bytes(relay.pid) < LIMIT_BYTES
    for _ in range(size(1, 3)):
        async with running(env) as relay, Healthy(relay) as healthy:
            await relay.until(lambda status: status["devices_waiting"] > statuses[202] * BATCH)
            assert (await flood(relay, MADE_UP, size(500, 20_000)))[202] <= 1
            await healthy.served()
            assert peak_memory_bytes(relay.pid) < LIMIT_BYTES
    sandbox.faults.heal()
    async with running(env) as relay:
        async with asyncio.timeout(LONG_S):  # A device is forgotten one window after its last request.
            while await flood(relay, 2 * MADE_UP, BATCH) != Counter({202: 1}):
                await asyncio.sleep(0.1)
        assert peak_memory_bytes(relay.pid) < LIMIT_BYTES
