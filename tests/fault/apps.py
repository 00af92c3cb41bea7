"""Apps that send while faults occur, and the checks of G1 to G5 and G8 after them.

An app repeats an event until the relay responds with 202, then sends the next one: after a 503 or without a
response it is unknown whether the event is stored. The checks compare the events that the apps sent, the events
answered with 202, and the events that the sandbox received.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from relay.sandbox.server import Sandbox

from tests.e2e.harness import PATIENCE_S, RelayProcess, environment, event, http

WINDOW_MS = 2_000
PER_WINDOW = 12
MAX_IN_FLIGHT = 8
_AGAIN_S = 0.01


def settings(url: str, directory: Path, **more: str) -> dict[str, str]:
    """Return the environment of a relay that delivers to the `sandbox` fixture: its short window, short backoffs."""
    rate = {"rate__window": f"{WINDOW_MS}ms", "rate__device_per_window": str(PER_WINDOW)}
    return environment(url, directory, **(rate | {"upstream__timeout": "2s"} | more))


def timed_event(n: int, device: str, tenant_id: int = 1) -> dict[str, Any]:
    """Return an event to which the relay adds nothing, so that the upstream receives the same bytes."""
    return event(n, device, tenant_id) | {"occurred_at": "2026-01-02T03:04:05.678Z"}


class Fleet:
    """The apps of several devices. `address` is that of the current relay process; tests update it at each start."""

    def __init__(self, devices: int, tenant_id: int = 1) -> None:
        self.address = ""
        self.offered: dict[str, bytes] = {}
        """Bodies of all events sent, by event id."""
        self.stored: list[str] = []
        """Ids of the events answered with 202."""
        self.stored_at: dict[str, float] = {}
        """time.monotonic() of each 202, by event id."""
        self.statuses: dict[int, int] = {}
        """Number of responses by status. 0 stands for a request without a response."""
        self.durabilities: set[str] = set()
        """The durability that each 202 promised."""
        self.explained_repeats = 0
        """Number of requests whose repetition the faults so far explain, in a test with several faults."""
        self.devices = [f"device-{number:02}" for number in range(devices)]
        self._tenant_id = tenant_id
        self._sent = dict.fromkeys(self.devices, 0)
        self._stop = asyncio.Event()
        self._senders: list[asyncio.Task[None]] = []

    @asynccontextmanager
    async def sending(self) -> AsyncIterator[None]:
        """Let every app send one event after the other. At the end, each app finishes its current event."""
        self._stop.clear()
        self._senders = [asyncio.create_task(self._send(device)) for device in self.devices]
        try:
            yield
            self.stop()
            await asyncio.gather(*self._senders)
        finally:
            for sender in self._senders:
                sender.cancel()

    async def send(self, each: int, *, patient: bool = False) -> None:
        """Send `each` events from every app. The first attempt must succeed, unless the apps are patient."""
        for device in self.devices:
            for _ in range(each):
                body = self.offer(device)
                while not await self._post(body):
                    assert patient, "the relay did not store the event"
                    await asyncio.sleep(0.05)
                self.mark_stored(body)

    def stop(self) -> None:
        """Let each app stop after its current event."""
        self._stop.set()

    async def until(self, stored: int) -> None:
        """Wait until `stored` more events are answered with 202."""
        goal = len(self.stored) + stored
        while len(self.stored) < goal:
            for sender in self._senders:
                if sender.done():
                    sender.result()  # Raises the error that ended the task.
            await asyncio.sleep(_AGAIN_S)

    async def post_one(self) -> int:
        """Post one event of another device once, and return the status of the response."""
        one = timed_event(0, "another", self._tenant_id)
        self.offered[one["event_id"]] = json.dumps(one).encode()
        status, _, _ = await http(self.address, "POST", "/v1/events", self.offered[one["event_id"]])
        if status == 202:
            self.mark_stored(self.offered[one["event_id"]])
        return status

    async def _send(self, device: str) -> None:
        while not self._stop.is_set():
            body = self.offer(device)
            while not await self._post(body):
                await asyncio.sleep(_AGAIN_S)
            self.mark_stored(body)

    def offer(self, device: str) -> bytes:
        """Return the body of a device's next event, and record it as sent."""
        one = timed_event(self._sent[device], device, self._tenant_id)
        self._sent[device] += 1
        body = self.offered[one["event_id"]] = json.dumps(one).encode()
        return body

    def mark_stored(self, body: bytes) -> None:
        """Record that the event was answered with 202, or is stored by other means."""
        event_id: str = json.loads(body)["event_id"]
        self.stored.append(event_id)
        self.stored_at[event_id] = time.monotonic()

    async def _post(self, body: bytes) -> bool:
        try:
            status, headers, _ = await http(self.address, "POST", "/v1/events", body)
            self.durabilities |= {headers["relay-durability"]} if status == 202 else set()
        except (OSError, IndexError, ValueError):  # The relay is down, or ended within its response.
            status = 0
        assert status in (0, 202, 503), status
        self.statuses[status] = self.statuses.get(status, 0) + 1
        return status == 202


def balanced(status: dict[str, Any]) -> bool:
    """Return whether the ledger balances (G2)."""
    ledger = status["ledger"]
    settled = ledger["delivered"] + ledger["dead_lettered"] + ledger["dropped"]
    return bool(ledger["accepted"] + ledger["requeued"] == settled + ledger["pending"])


def state(status: dict[str, Any], tenant_id: int = 1) -> str | None:
    """Return the state of a tenant's endpoint, None before its first event."""
    return next((route["state"] for route in status["upstreams"] if route["tenant"] == tenant_id), None)


async def ready(relay: RelayProcess) -> bool:
    status, _, _ = await relay.request("GET", "/readyz")
    assert status in (200, 503), status
    return status == 200


async def flush(relay: RelayProcess) -> None:
    """Send pending events now and probe paused endpoints, like `relay flush`."""
    status, _, _ = await relay.request("POST", "/flush", b"{}", {"Content-Type": "application/json"})
    assert status < 300, status


async def until_ready(relay: RelayProcess, wanted: bool = True) -> None:
    async with asyncio.timeout(60):
        while await ready(relay) is not wanted:
            await asyncio.sleep(_AGAIN_S)


async def all_settled(
    relay: RelayProcess,
    sandbox: Sandbox,
    fleet: Fleet,
    *,
    repeats: int = 0,
    dead: int = 0,
    limited: int = 0,
    states: tuple[str, ...] = ("ok",),
    patience_s: float = PATIENCE_S,
) -> dict[str, Any]:
    """Wait until a recovered relay has settled all events, check every promise, and return the status.

    `repeats`: number of requests that may be sent twice (G3), because of kills and lost responses.
    `dead`: number of events that must be dead-lettered. `limited`: number of 429 responses that the test injects.
    `states`: allowed states of the endpoints.
    """
    await until_ready(relay)
    status = await relay.until(lambda status: status["ledger"]["pending"] == 0, patience_s)
    assert balanced(status)
    assert status["outbox"]["writable"]
    ledger = status["ledger"]
    assert (ledger["dead_lettered"], ledger["dropped"]) == (dead, 0)
    used = [route for route in status["upstreams"] if (route["tenant"], route["state"]) != (None, "untested")]
    assert all(route["state"] in states for route in used), status["upstreams"]
    check_promises(sandbox, fleet, repeats=repeats, limited=limited, dead=await dead_ids(relay))
    return status


async def dead_ids(relay: RelayProcess) -> set[str]:
    ids: set[str] = set()
    after: int | None = 0
    while after is not None:
        _, _, body = await relay.request("GET", f"/dead-letters?after={after}")
        page = json.loads(body)
        ids.update(letter["event_id"] for letter in page["dead_letters"])
        after = page["next_after"]
    return ids


def check_promises(
    sandbox: Sandbox, fleet: Fleet, *, repeats: int = 0, limited: int = 0, dead: set[str] | None = None
) -> None:
    """Check G1, G3 to G5 and G8. No event may be pending."""
    got = delivered(sandbox)
    lost = [id_ for id_ in fleet.stored if id_ not in got and id_ not in (dead or ())]
    assert lost == []
    altered = [id_ for id_, raw in got.items() if fleet.offered[id_] != raw]
    assert altered == []
    report = sandbox.report()
    assert report.order_breaks == 0
    assert report.most_of_device <= PER_WINDOW
    assert report.rate_limited <= limited
    largest = max((request.events for request in sandbox.record.requests()), default=0)
    assert report.duplicates <= repeats * largest


def delivered(sandbox: Sandbox) -> dict[str, bytes]:
    """Return the events that the sandbox committed, by id, with the bytes that it received."""
    arrived = (
        bytes(raw)
        for request in sandbox.record.contents
        for raw in msgspec.json.decode(request.body, type=_Batch).events
    )
    by_id = {json.loads(raw)["event_id"]: raw for raw in arrived}
    return {id_: raw for id_, raw in by_id.items() if sandbox.record.has(bytes.fromhex(id_.replace("-", "")))}


class _Batch(msgspec.Struct):
    events: list[msgspec.Raw]
