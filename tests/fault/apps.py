"""Apps that send while the relay suffers, and what must hold afterwards: G1 to G5 and G8, from outside.

An app sends its next event only when the one before was answered 202, and repeats what was not: what
a 503, or no answer, left behind is unknown until then. Three books are compared: what was offered, what
was answered 202, and what the sandbox got.
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

from tests.e2e.harness import RelayProcess, environment, event, http

WINDOW_MS = 2_000
PER_WINDOW = 12
MAX_IN_FLIGHT = 8
_AGAIN_S = 0.01


def settings(url: str, directory: Path, **more: str) -> dict[str, str]:
    """The relay's environment beside the `sandbox` fixture: its short window, quick retries."""
    rate = {"rate__window": f"{WINDOW_MS}ms", "rate__device_per_window": str(PER_WINDOW)}
    return environment(url, directory, **(rate | {"upstream__timeout": "2s"} | more))


def has_inserted_time(n: int, device: str, tenant_id: int = 1) -> dict[str, Any]:
    """An event with nothing for the relay to add: what arrives is, byte for byte, what was sent."""
    return event(n, device, tenant_id) | {"occurred_at": "2026-01-02T03:04:05.678Z"}


class Fleet:
    """Devices' apps; `address` follows the relay from start to start."""

    def __init__(self, devices: int, tenant_id: int = 1) -> None:
        self.address = ""
        self.offered: dict[str, bytes] = {}
        """Body by id."""
        self.kept: list[str] = []
        """Ids answered 202."""
        self.kept_at: dict[str, float] = {}
        """When, by time.monotonic()."""
        self.answers: dict[int, int] = {}
        """How many of each status; 0 is no answer."""
        self.forgiven = 0
        """Requests whose repetition is explained so far, where a test has several troubles."""
        self.devices = [f"device-{number:02}" for number in range(devices)]
        self._tenant_id = tenant_id
        self._sent = dict.fromkeys(self.devices, 0)
        self._stop = asyncio.Event()
        self._senders: list[asyncio.Task[None]] = []

    @asynccontextmanager
    async def sending(self) -> AsyncIterator[None]:
        """Every app sends as fast as it is answered; at the end each finishes the event it is at."""
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
        """Each app sends so many, and every one of them is taken at once; or, if they are patient, in the end."""
        for device in self.devices:
            for _ in range(each):
                body = self.offer(device)
                while not await self._post(body):
                    assert patient, "not taken"
                    await asyncio.sleep(0.05)
                self.keep(body)

    def stop(self) -> None:
        """Let each app finish the event it is at, and no more."""
        self._stop.set()

    async def until(self, kept: int) -> None:
        """Until so many more events are answered 202."""
        goal = len(self.kept) + kept
        while len(self.kept) < goal:
            for sender in self._senders:
                if sender.done():
                    sender.result()  # what it died of
            await asyncio.sleep(_AGAIN_S)

    async def post_one(self) -> int:
        """The answer to an event of another device, posted once."""
        one = has_inserted_time(0, "another", self._tenant_id)
        self.offered[one["event_id"]] = json.dumps(one).encode()
        status, _, _ = await http(self.address, "POST", "/v1/events", self.offered[one["event_id"]])
        if status == 202:
            self.keep(self.offered[one["event_id"]])
        return status

    async def _send(self, device: str) -> None:
        while not self._stop.is_set():
            body = self.offer(device)
            while not await self._post(body):
                await asyncio.sleep(_AGAIN_S)
            self.keep(body)

    def offer(self, device: str) -> bytes:
        """A device's next event, offered from here on."""
        one = has_inserted_time(self._sent[device], device, self._tenant_id)
        self._sent[device] += 1
        body = self.offered[one["event_id"]] = json.dumps(one).encode()
        return body

    def keep(self, body: bytes) -> None:
        """It was answered 202, or is where a 202 would have brought it."""
        event_id: str = json.loads(body)["event_id"]
        self.kept.append(event_id)
        self.kept_at[event_id] = time.monotonic()

    async def _post(self, body: bytes) -> bool:
        try:
            status, _, _ = await http(self.address, "POST", "/v1/events", body)
        except (OSError, IndexError, ValueError):  # the relay is not there, or went in mid-answer
            status = 0
        assert status in (0, 202, 503), status
        self.answers[status] = self.answers.get(status, 0) + 1
        return status == 202


def balanced(status: dict[str, Any]) -> bool:
    """G2."""
    ledger = status["ledger"]
    gone = ledger["delivered"] + ledger["dead_lettered"] + ledger["dropped"]
    return bool(ledger["accepted"] + ledger["requeued"] == gone + ledger["pending"])


def state(status: dict[str, Any], tenant_id: int = 1) -> str | None:
    """The state of a tenant's route, None before its first event."""
    return next((route["state"] for route in status["upstreams"] if route["tenant"] == tenant_id), None)


async def ready(relay: RelayProcess) -> bool:
    status, _, _ = await relay.request("GET", "/readyz")
    assert status in (200, 503), status
    return status == 200


async def flush(relay: RelayProcess) -> None:
    """`relay flush`: send now what waits, and probe what is held."""
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
) -> dict[str, Any]:
    """Once the relay is healthy again: everything drains, and every promise held. The status then.

    `repeats`: how many requests may have been sent twice (G3), by kills and by answers that were lost.
    `dead`: events that had to be given up. `limited`: 429s that were the upstream's whim. `states`: of the routes.
    """
    await until_ready(relay)
    status = await relay.until(lambda status: status["ledger"]["pending"] == 0)
    assert balanced(status)
    assert status["outbox"]["writable"]
    ledger = status["ledger"]
    assert (ledger["dead_lettered"], ledger["dropped"]) == (dead, 0)
    assert all(route["state"] in states for route in status["upstreams"]), status["upstreams"]
    held_to_promises(sandbox, fleet, repeats=repeats, limited=limited, dead=await dead_ids(relay))
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


def held_to_promises(
    sandbox: Sandbox, fleet: Fleet, *, repeats: int = 0, limited: int = 0, dead: set[str] | None = None
) -> None:
    """G1 and G3 to G5 and G8, when nothing is pending."""
    got = delivered(sandbox)
    lost = [id_ for id_ in fleet.kept if id_ not in got and id_ not in (dead or ())]
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
    """Events that the sandbox committed, by id, each as its bytes arrived."""
    arrived = (bytes(raw) for kept in sandbox.record.kept for raw in msgspec.json.decode(kept.body, type=_Batch).events)
    by_id = {json.loads(raw)["event_id"]: raw for raw in arrived}
    return {id_: raw for id_, raw in by_id.items() if sandbox.record.has(bytes.fromhex(id_.replace("-", "")))}


class _Batch(msgspec.Struct):
    events: list[msgspec.Raw]
