"""Simulated TV boxes: devices that send events to a relay over HTTP or UDP, as apps do.

This module decides which events the devices send, when, and how they handle each response. Rules: a device has one
request in flight and sends its events in order, with increasing `context.n`. A request without a response, or with 408,
425, 429 or 5xx, is repeated with the same bytes. The clock's random numbers alone determine the sequence of events.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import uuid
from dataclasses import dataclass
from urllib.parse import urlsplit

import msgspec

from relay.runtime.clock import Clock, rfc3339
from relay.runtime.tasks import Tasks

_EVENT_TYPES = ("video.play", "video.pause", "video.complete", "post.view", "screen.view", "app.open")
_MODELS = ("Box 4K", "Box Mini", "Kiosk 32")
_AGAIN = frozenset({408, 425, 429})


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Amount and target of the traffic. Without `events` and `for_ms`, the devices send until they are cancelled."""

    target: str
    """URL: "http://127.0.0.1:8080/v1/events" or "udp://127.0.0.1:8125"."""
    devices: int = 10
    events_per_s: float = 0.0
    """Rate over all devices; 0: as fast as the relay responds."""
    events: int | None = None
    """Number of events in one run, over all devices."""
    for_ms: int | None = None
    """Time after which no event is created."""
    events_per_request: int = 1
    enveloped: bool = False
    """Whether a single event is sent as {"events": [...]}, the only form that the upstream accepts."""
    connections: int = 8
    """Maximum number of connections. Each device uses one of them."""
    tenant_id: int = 2
    retry_ms: int = 100
    """Delay before a request is repeated."""
    response_timeout_ms: int = 30_000


@dataclass(slots=True)
class Tally:
    """Counts of events by outcome."""

    sent: int = 0
    """Events sent at least once."""
    accepted: int = 0
    """Events with a 202 response. UDP has no responses."""
    refused: int = 0
    """Events with a final rejection, which a repetition would not change."""
    retries: int = 0
    """Repeated requests."""


class Devices:
    """A group of devices. The next `run` continues after the last one: n increases, and the device ids are the same."""

    def __init__(self, load: Load, clock: Clock) -> None:
        self.tally = Tally()
        self._load = load
        self._clock = clock
        self._next_n = [0] * load.devices
        self._device_ids = [device_id(number) for number in range(load.devices)]
        self._accepted = bytearray()
        self._begun_ms = 0

    def accepted_ids(self) -> list[bytes]:
        """Return the event ids (16 bytes) with a 202 response, in the order of the responses."""
        return [bytes(self._accepted[at : at + 16]) for at in range(0, len(self._accepted), 16)]

    async def run(self) -> Tally:
        """Send until the bounds of the load are reached and the last request has its response."""
        self._begun_ms = self._clock.monotonic_ms()
        if urlsplit(self._load.target).scheme == "udp":
            await self._send_datagrams()
            return self.tally
        workers = min(self._load.connections, self._load.devices)
        tasks = Tasks()
        try:
            await asyncio.gather(*(tasks.start("devices", self._post_all(n, workers)) for n in range(workers)))
        finally:
            await tasks.cancel_all()
        return self.tally

    async def _post_all(self, worker: int, workers: int) -> None:
        """Post this worker's share of the events of its share of the devices, one request at a time."""
        devices = range(worker, self._load.devices, workers)
        left = None if self._load.events is None else (self._load.events + workers - 1 - worker) // workers
        post = _Poster(self._load.target, self._load.response_timeout_ms)
        sent = turn = 0
        try:
            while left is None or sent < left:
                if not await self._due(sent, workers):
                    return
                size = (
                    self._load.events_per_request if left is None else min(self._load.events_per_request, left - sent)
                )
                ids, body = self._make(devices[turn % len(devices)], size)
                sent += size
                turn += 1
                await self._post_until_answered(post, ids, body)
        finally:
            post.close()

    async def _post_until_answered(self, post: _Poster, ids: bytes, body: bytes) -> None:
        count = len(ids) // 16
        self.tally.sent += count
        while True:
            status = await post(body)
            if status == 202:
                self.tally.accepted += count
                self._accepted += ids
                return
            if status is not None and status < 500 and status not in _AGAIN:
                self.tally.refused += count
                return
            self.tally.retries += 1
            await asyncio.sleep(self._load.retry_ms / 1000)

    async def _send_datagrams(self) -> None:
        """Send from one socket, alternating the devices. A datagram that the kernel rejects is lost."""
        address = urlsplit(self._load.target)
        family = socket.AF_INET6 if ":" in (address.hostname or "") else socket.AF_INET
        sent = turn = 0
        with socket.socket(family, socket.SOCK_DGRAM) as sender:
            sender.connect((address.hostname, address.port))
            while (self._load.events is None or sent < self._load.events) and await self._due(sent, 1):
                size = self._load.events_per_request
                if self._load.events is not None:
                    size = min(size, self._load.events - sent)
                _, body = self._make(turn % self._load.devices, size)
                with contextlib.suppress(ConnectionRefusedError):
                    sender.send(body)
                self.tally.sent += size
                sent += size
                turn += 1
                if turn % 32 == 0:
                    await asyncio.sleep(0)

    async def _due(self, sent: int, workers: int) -> bool:
        """Wait for the moment of the next event after `sent` ones of one of `workers`; False once time is up."""
        elapsed_ms = self._clock.monotonic_ms() - self._begun_ms
        if self._load.events_per_s:
            due_ms = round(sent * workers * 1000 / self._load.events_per_s)
            if self._load.for_ms is not None and due_ms >= self._load.for_ms:
                return False
            if due_ms > elapsed_ms:
                await asyncio.sleep((due_ms - elapsed_ms) / 1000)
        return self._load.for_ms is None or elapsed_ms < self._load.for_ms

    def _make(self, device: int, events: int) -> tuple[bytes, bytes]:
        """Return a device's next events: the ids (16 bytes each) and the body of the request."""
        made = [self._event(device) for _ in range(events)]
        ids = b"".join(bytes.fromhex(str(event["event_id"]).replace("-", "")) for event in made)
        return ids, msgspec.json.encode(made[0] if events == 1 and not self._load.enveloped else {"events": made})

    def _event(self, device: int) -> dict[str, object]:
        n = self._next_n[device]
        self._next_n[device] = n + 1
        event_type = _EVENT_TYPES[int(self._clock.chance() * len(_EVENT_TYPES))]
        return {
            "event_id": self._clock.new_event_id(),
            "event_type": event_type,
            "tenant_id": self._load.tenant_id,
            "source": {
                "platform": "tv",
                "device_id": self._device_ids[device],
                "app_version": "2.1.0",
                "os_version": "11",
                "device_model": _MODELS[device % len(_MODELS)],
            },
            "subject": {"type": event_type.partition(".")[0], "id": f"01HQ{int(self._clock.chance() * 1e6):06d}"},
            "context": {"n": n, "session_s": n * 7},
            "occurred_at": rfc3339(self._clock.wall_ms()),
        }


def device_id(number: int) -> str:
    """Return the persistent UUID of a device, in upper case as in the upstream's documented sample."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"sandbox/device/{number}")).upper()


class _Poster:
    """Posts bodies to one URL over one connection, which it reopens after an error."""

    def __init__(self, url: str, timeout_ms: int) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname, parts.port or 80
        self._timeout_s = timeout_ms / 1000
        self._head = (
            f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\nContent-Length: "
        ).encode()
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def __call__(self, body: bytes) -> int | None:
        """Return the status, or None without a complete response."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._exchange(b"%s%d\r\n\r\n%s" % (self._head, len(body), body))
        except (OSError, EOFError, asyncio.LimitOverrunError, TimeoutError, ValueError):
            self.close()
            return None

    async def _exchange(self, request: bytes) -> int:
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port)
        reader, writer = self._streams
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        if not head.startswith("http/1."):
            raise ValueError("the response is not HTTP/1.x")
        length = head.partition("content-length:")[2].partition("\r\n")[0]
        await reader.readexactly(int(length or 0))
        if "connection: close" in head:
            self.close()
        return int(head.split(" ", 2)[1])

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None
