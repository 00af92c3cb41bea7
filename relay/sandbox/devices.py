"""Simulated TV boxes: devices that send events to a relay over HTTP, as apps do.

Rules: a device has one request in flight and sends its events in order, with increasing `context.n`. A request without
a response, or with 408, 425, 429 or 5xx, is repeated with the same bytes. Any other response is final.
"""

from __future__ import annotations

import asyncio
import uuid
from urllib.parse import urlsplit

import msgspec

from relay.runtime.clock import Clock, rfc3339
from relay.runtime.tasks import Tasks

_EVENT_TYPES = ("video.play", "video.pause", "video.complete", "post.view", "screen.view", "app.open")
_MODELS = ("Box 4K", "Box Mini", "Kiosk 32")
_AGAIN = frozenset({408, 425, 429})
_RESPONSE_TIMEOUT_S = 30


class Devices:
    """A group of devices that send to the events endpoint at `url`, each one event per `interval_s` on average."""

    def __init__(self, url: str, devices: int, interval_s: float, clock: Clock, *, retry_s: float = 0.1) -> None:
        """`retry_s` is the delay before a request is repeated."""
        parts = urlsplit(url)
        self._host, self._port = parts.hostname, parts.port or 80
        self._request_line = f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n"
        self._devices = devices
        self._interval_s = interval_s
        self._retry_s = retry_s
        self._clock = clock

    async def run(self) -> None:
        """Send until cancelled."""
        tasks = Tasks()
        try:
            await asyncio.gather(*(tasks.start(f"device {n}", self._run_device(n)) for n in range(self._devices)))
        finally:
            await tasks.cancel_all()

    async def _run_device(self, number: int) -> None:
        n = 0
        while True:
            await asyncio.sleep(self._clock.chance() * 2 * self._interval_s)
            # The upstream accepts only batches, so that the devices can also send to it directly.
            body = msgspec.json.encode({"events": [self._event(number, n)]})
            await self._post_until_final(body)
            n += 1

    async def _post_until_final(self, body: bytes) -> None:
        while True:
            status = await self._post(body)
            if status is not None and status < 500 and status not in _AGAIN:
                return
            await asyncio.sleep(self._retry_s)

    async def _post(self, body: bytes) -> int | None:
        """Return the status, or None without a response."""
        try:
            async with asyncio.timeout(_RESPONSE_TIMEOUT_S):
                reader, writer = await asyncio.open_connection(self._host, self._port)
                try:
                    head = f"{self._request_line}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
                    writer.write(head.encode() + body)
                    http, status, *_ = (await reader.readline()).split()
                    return int(status) if http.startswith(b"HTTP/1.") else None
                finally:
                    writer.transport.abort()
        except (OSError, TimeoutError, ValueError):  # ValueError: the response is not HTTP.
            return None

    def _event(self, number: int, n: int) -> dict[str, object]:
        event_type = _EVENT_TYPES[int(self._clock.chance() * len(_EVENT_TYPES))]
        return {
            "event_id": self._clock.new_event_id(),
            "event_type": event_type,
            "tenant_id": 2,
            "source": {
                "platform": "tv",
                "device_id": device_id(number),
                "app_version": "2.1.0",
                "os_version": "11",
                "device_model": _MODELS[number % len(_MODELS)],
            },
            "subject": {"type": event_type.partition(".")[0], "id": f"01HQ{int(self._clock.chance() * 1e6):06d}"},
            "context": {"n": n, "session_s": n * 7},
            "occurred_at": rfc3339(self._clock.wall_ms()),
        }


def device_id(number: int) -> str:
    """Return the persistent UUID of a device, in upper case as in the upstream's documented sample."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"sandbox/device/{number}")).upper()
