"""Helpers that observe a relay under abuse from outside: memory, metrics, raw connections, service for other apps.

Time limits (`PATIENCE_S`) only end a test of a broken relay. No test measures speed.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from relay.sandbox.server import Sandbox

from tests.abuse.judge import strict
from tests.e2e.harness import PATIENCE_S, RelayProcess, event
from tests.support.ingest_harness import Client, post

HOST = "127.0.0.1"


def peak_memory_bytes(pid: int) -> int:
    """Return the peak resident memory of the process (VmHWM)."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


async def metrics(relay: RelayProcess) -> dict[str, float]:
    """Return the value of every series, by name and labels without the prefix `relay_`."""
    _, _, text = await relay.request("GET", "/metrics")
    lines = [line.rpartition(" ") for line in text.decode().splitlines() if not line.startswith("#")]
    return {series.removeprefix("relay_"): float(value) for series, _, value in lines}


async def rejected(relay: RelayProcess, reason: str, transport: str = "http") -> float:
    return (await metrics(relay))[f'events_rejected_total{{reason="{reason}",transport="{transport}"}}']


class Patient(Client):
    patience_s = PATIENCE_S


async def connect(relay: RelayProcess) -> Client:
    return await Patient.connect(relay.http)


async def ask(relay: RelayProcess, raw: bytes) -> tuple[int, bytes]:
    """Send a request that closes its connection. Return the status (0 without a response) and all received bytes."""
    client = await connect(relay)
    client.send(raw)
    response = await client.rest()
    client.writer.close()
    return int(response[9:12] or b"0"), response


def datagram_socket() -> socket.socket:
    sending = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sending.setblocking(False)
    return sending


def udp_address(relay: RelayProcess) -> tuple[str, int]:
    host, _, port = relay.udp.rpartition(":")
    return host, int(port)


class Healthy:
    """A well-behaved app beside hostile ones: posts one event at a time and requires a 202 for each."""

    def __init__(self, relay: RelayProcess) -> None:
        self._relay = relay
        self._stop = asyncio.Event()
        self.accepted = 0

    async def __aenter__(self) -> Healthy:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        self._stop.set()
        await self._task
        if kind is None:
            assert self.accepted > 0

    async def served(self, further: int = 3) -> None:
        """Wait for `further` more responses."""
        goal = self.accepted + further
        async with asyncio.timeout(PATIENCE_S):
            while self.accepted < goal:
                assert not self._task.done(), self._task.exception()
                await asyncio.sleep(0.01)

    async def _run(self) -> None:
        client = await connect(self._relay)
        try:
            while not self._stop.is_set():
                client.send(post(json.dumps(event(self.accepted, "healthy")).encode()))
                response = await client.response()
                assert response.status == 202, response.body
                self.accepted += 1
                await asyncio.sleep(0.01)
        finally:
            client.writer.close()


async def check_accepted_events_are_strict(relay: RelayProcess, sandbox: Sandbox) -> int:
    """Wait until the outbox is empty, and check that every accepted event was delivered as strict JSON.

    Return the number of delivered events.
    """
    status = await relay.until(lambda status: status["ledger"]["pending"] == 0)
    ledger: Mapping[str, Any] = status["ledger"]
    assert (ledger["dead_lettered"], ledger["dropped"]) == (0, 0), "the upstream rejected accepted events"
    for request in sandbox.record.contents:
        strict(request.body)
    delivered: int = ledger["delivered"]
    assert delivered == ledger["accepted"]
    return delivered
