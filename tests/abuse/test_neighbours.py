"""A flooding app beside a well-behaved one, whose events are still accepted, stored and sent (G6)."""

from __future__ import annotations

import asyncio
import json
import uuid
from pathlib import Path
from typing import Any

from relay.sandbox.faults import Misbehaviour
from relay.sandbox.server import Sandbox

from tests.abuse.box import Healthy, connect, datagram_socket, metrics, udp_address
from tests.e2e.harness import PATIENCE_S, RelayProcess, environment, event, running
from tests.fault.sizes import size
from tests.support.ingest_harness import post

BATCH = 200
TIMEOUT_S = 60
"""No request that hangs ends sooner. A relay without the rules would send nothing else until then."""
SILENT_TENANTS = ('"tenant_id": 2', '"tenant_id": 3')


def noise(start: int) -> bytes:
    pad = "x" * 200
    batch = [event(n, "noisy") | {"context": {"n": n, "pad": pad}} for n in range(start, start + BATCH)]
    return json.dumps(batch).encode()


def id_of(sent: dict[str, Any]) -> bytes:
    return uuid.UUID(sent["event_id"]).bytes


class Noisy:
    """An app that posts batches one after the other and sends datagrams without a pause."""

    def __init__(self, relay: RelayProcess) -> None:
        self._relay = relay
        self.statuses: dict[int, int] = {}

    async def __aenter__(self) -> Noisy:
        self._tasks = [asyncio.create_task(self._post(app)) for app in range(8)]
        self._tasks.append(asyncio.create_task(self._send()))
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def until_responses(self, status: int, goal: int) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while self.statuses.get(status, 0) < goal:
                await asyncio.sleep(0.01)

    async def _post(self, app: int) -> None:
        client = await connect(self._relay)
        start = (app + 1) * 10_000_000
        try:
            while True:
                client.send(post(noise(start)))
                status = (await client.response()).status
                self.statuses[status] = self.statuses.get(status, 0) + 1
                start += BATCH
        finally:
            client.writer.close()

    async def _send(self) -> None:
        sending, to = datagram_socket(), udp_address(self._relay)
        number = 0
        try:
            while True:
                for _ in range(20):
                    number += 1
                    sending.sendto(json.dumps(event(number, "noisy-udp")).encode(), to)
                await asyncio.sleep(0)
        finally:
            sending.close()


async def test_a_flooding_app_does_not_block_another_app(relay: RelayProcess, sandbox: Sandbox) -> None:
    async with Noisy(relay) as noisy, Healthy(relay) as healthy:
        await noisy.until_responses(202, size(20, 1_000))
        await healthy.served(5)
        async with asyncio.timeout(PATIENCE_S):
            await sandbox.until(
                lambda record: record.has(bytes.fromhex(event(0, "healthy")["event_id"].replace("-", "")))
            )
        await healthy.served(5)


async def test_a_device_with_many_rejected_events_removes_no_dead_letter_of_another(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    sandbox.faults.add(Misbehaviour(answer=422, when="rejected"))
    env = environment(sandbox.url, tmp_path, outbox__max_dead_letters="10")
    async with running(env) as relay:
        rejections = [("polite", n) for n in range(2)] + [("noisy", n) for n in range(2, size(40, 1_000))]
        for device, n in rejections:
            assert await relay.post(event(n, device) | {"context": {"n": n, "text": "rejected"}}) == 202
            if n == 1:
                await relay.until(lambda status: status["dead_letters"]["count"] == 2)
        await relay.until(lambda status: status["ledger"]["dead_lettered"] == len(rejections))
        _, _, body = await relay.request("GET", "/dead-letters")
    devices = [letter["device_id"] for letter in json.loads(body)["dead_letters"]]
    assert devices == ["polite"] * 2 + ["noisy"] * 8


async def test_a_device_that_fills_the_outbox_does_not_block_other_devices(sandbox: Sandbox, tmp_path: Path) -> None:
    """While the upstream is unavailable, a device that has filled its share gets 503 and other devices get 202.

    After the recovery, the events of the other devices do not wait for the long backlog before them.
    """
    sandbox.close_port()
    env = environment(
        sandbox.url, tmp_path, outbox__max_size="8MiB", batch__max_events="10", batch__mix_devices="never"
    )
    async with running(env | {"RELAY__RATE__DEVICE_PER_WINDOW": "100000"}) as relay:
        async with Noisy(relay) as noisy:
            await noisy.until_responses(503, 8)
            polite = [event(n, f"polite-{n % 3}") for n in range(30)]
            assert [await relay.post(each) for each in polite] == [202] * 30
        full = await relay.status()
        assert not full["outbox"]["writable"]
        assert full["outbox"]["bytes"] <= 8 << 20
        assert (await relay.request("GET", "/readyz"))[0] == 503
        assert (await metrics(relay))['events_rejected_total{reason="full",transport="http"}'] > 0
        await sandbox.open_port()
        ids = [id_of(each) for each in polite]
        async with asyncio.timeout(PATIENCE_S):
            await sandbox.until(lambda record: all(map(record.has, ids)))
        assert (await relay.status())["ledger"]["pending"] > 1_000
        assert not any(status >= 500 and status != 503 for status in noisy.statuses)


async def delivered_while_others_hang(relay: RelayProcess, sandbox: Sandbox, first: int, count: int) -> None:
    """Send events of a good device, one after the other. All must be delivered before the first request times out."""
    for number in range(first, first + count):
        one = event(number, "good")
        assert await relay.post(one) == 202
        async with asyncio.timeout(PATIENCE_S):
            await sandbox.until(lambda record, one=one: record.has(id_of(one)))
    assert (await metrics(relay)).get('upstream_requests_total{code="error"}', 0) == 0


async def test_silent_tenants_and_hanging_devices_do_not_delay_others(sandbox: Sandbox, tmp_path: Path) -> None:
    """Two of three tenants and many devices of the third hang. A kill does not change that.

    The good device was served once since the first ones hang.
    """
    hanging = [event(0, f"hanging-{n}") for n in range(size(5, 9))]
    silent = [event(0, f"device-{n}", tenant_id) for n in range(size(2, 10)) for tenant_id in (2, 3)]
    env = environment(sandbox.url, tmp_path, upstream__timeout=f"{TIMEOUT_S}s")
    async with running(env) as relay:
        for one in (event(0, "good"), *hanging, *silent[:2]):
            assert await relay.post(one) == 202
        await relay.until(lambda status: status["ledger"]["delivered"] == len(hanging) + 3)
        sandbox.faults.add(*(Misbehaviour(action="silence", when=when) for when in ("hanging-", *SILENT_TENANTS)))
        first = (hanging[0], *silent[:2])
        for one in first:
            assert await relay.post(one | {"event_id": str(uuid.uuid4())}) == 202
        async with asyncio.timeout(PATIENCE_S):
            while (await metrics(relay))["upstream_in_flight"] < len(first):
                await asyncio.sleep(0.05)
        await delivered_while_others_hang(relay, sandbox, 1, 1)
        for one in (*silent[2:], *hanging[1:]):
            assert await relay.post(one | {"event_id": str(uuid.uuid4())}) == 202
        await delivered_while_others_hang(relay, sandbox, 2, size(5, 20))
        await relay.until(lambda status: status["ledger"]["pending"] == len(hanging) + len(silent))
        await relay.kill()
    async with running(env | {"RELAY__UPSTREAM__TIMEOUT": f"{4 * TIMEOUT_S}s"}) as relay:
        await delivered_while_others_hang(relay, sandbox, 1_000, size(5, 20))
