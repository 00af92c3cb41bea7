"""The sandbox's record of received requests and committed events, and its final report.

Rules: a request counts when its head is complete, with every outcome. An event counts when its request is committed.
Times are monotonic milliseconds at which the head was received. The order of events is `context.n`, which must increase
within a device. An order break is a first delivery with a lower n than an earlier delivery of the device. The record
needs about 120 bytes per event and 40 per request, and more only with `keep_requests`.
"""

from __future__ import annotations

from array import array
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from relay.sandbox.validate import Device, ReceivedEvent

RECENT_BYTES = 2 << 20
"""Total size of the latest bodies that are kept for people."""
NO_RESPONSE = 0
"""Status of a request without a response, or whose client closed the connection first."""


class RecordedRequest(NamedTuple):
    """A recorded request. `device` is the device that the request counted for."""

    at_ms: int
    peer: str
    device: Device | None
    events: int
    status: int
    """Status as sent, also of a truncated response; NO_RESPONSE without a response."""
    committed: bool


class RequestContent(NamedTuple):
    """Headers (by lower-case name) and decompressed body of a request."""

    headers: Mapping[str, str]
    body: bytes


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Totals of a run."""

    requests: int
    by_status: dict[str, int]
    """Number of requests by status, or "none" without a response."""
    events: int
    """Committed events, duplicates included."""
    distinct: int
    duplicates: int
    stored: int
    """Events that a database behind the upstream would hold: `distinct` with dedupe, otherwise `events`."""
    devices: int
    order_breaks: int
    window_ms: int
    most_of_device: int
    """Maximum number of requests with events of one device in any sliding window, rejected requests included."""
    most_of_peer: int
    """Maximum number of requests from one address in any sliding window."""
    rate_limited: int
    """Requests with a 429 response."""


class _DeviceLog:
    """Arrival times and event order of one device."""

    __slots__ = ("arrivals_ms", "device", "highest_n", "order_breaks")

    def __init__(self, device: Device) -> None:
        self.device = device
        self.arrivals_ms = array("q")
        self.highest_n: int | None = None
        self.order_breaks = 0


class Record:
    """All requests and deliveries of one sandbox. The server writes the record, and it can be read at any time."""

    def __init__(self, *, keep_requests: bool = False) -> None:
        self.contents: list[RequestContent] = []
        self.events = 0
        """Events committed so far, duplicates included."""
        self._keep = keep_requests
        self._at_ms = array("q")
        self._status = array("h")
        self._events_of = array("l")
        self._committed = bytearray()
        self._device_of: list[_DeviceLog | None] = []
        self._peer_of: list[str] = []
        self._devices: dict[Device, _DeviceLog] = {}
        self._delivered: dict[bytes, _DeviceLog] = {}
        self._unparsed = 0
        self._recent: deque[tuple[int, bytes]] = deque()
        self._recent_bytes = 0

    @property
    def distinct(self) -> int:
        """Return the number of committed event ids. Each event that was not parsed counts as distinct."""
        return len(self._delivered) + self._unparsed

    def arrived(self, at_ms: int, peer: str) -> int:
        """Record a request whose head is complete, and return its number."""
        self._at_ms.append(at_ms)
        self._status.append(NO_RESPONSE)
        self._events_of.append(0)
        self._committed.append(False)
        self._device_of.append(None)
        self._peer_of.append(peer)
        return len(self._at_ms) - 1

    def read(
        self, number: int, device: Device | None, events: Sequence[ReceivedEvent], content: RequestContent
    ) -> None:
        """Record the events of a complete body. An invalid body has no events, but may have a `device`."""
        self._events_of[number] = len(events)
        carried = {event.device for event in events}
        if device is not None:
            self._device_of[number] = self._log(device)
            carried.add(device)
        for each in carried:
            self._log(each).arrivals_ms.append(self._at_ms[number])
        self._remember(number, content.body)
        if self._keep:
            self.contents.append(content)

    def counted(self, number: int, events: int) -> None:
        """Commit a number of events of a body that was not parsed."""
        self._events_of[number] = events
        self._committed[number] = True
        self.events += events
        self._unparsed += events

    def commit(self, number: int, events: Sequence[ReceivedEvent]) -> None:
        """Commit the events of a request, and check their order."""
        self._committed[number] = True
        self.events += len(events)
        delivered = self._delivered
        for event in events:
            if event.event_id in delivered:
                continue
            log = delivered[event.event_id] = self._devices[event.device]
            n = event.n
            if n is not None:
                if log.highest_n is not None and n < log.highest_n:
                    log.order_breaks += 1
                else:
                    log.highest_n = n

    def responded(self, number: int, status: int) -> None:
        self._status[number] = status

    def requests(self) -> Iterator[RecordedRequest]:
        """Return the requests in the order of their arrival."""
        return map(self.request, range(len(self._at_ms)))

    def request(self, number: int) -> RecordedRequest:
        """Return one request."""
        log = self._device_of[number]
        return RecordedRequest(
            self._at_ms[number],
            self._peer_of[number],
            log.device if log else None,
            self._events_of[number],
            self._status[number],
            bool(self._committed[number]),
        )

    def recent(self) -> Iterator[tuple[RecordedRequest, bytes]]:
        """Yield the latest requests with their bodies, oldest first."""
        return ((self.request(number), body) for number, body in self._recent)

    def body(self, number: int) -> bytes:
        """Return the body of a recent request; b"" if it was not read or is not kept any more."""
        return next((body for each, body in reversed(self._recent) if each == number), b"")

    def delivered(self, device: Device | None = None) -> list[bytes]:
        """Return the event ids (16 bytes) in order of first delivery, of one device or of all devices."""
        return [event_id for event_id, log in self._delivered.items() if device is None or log.device == device]

    def has(self, event_id: bytes) -> bool:
        return event_id in self._delivered

    def _remember(self, number: int, body: bytes) -> None:
        self._recent.append((number, body))
        self._recent_bytes += len(body)
        while self._recent_bytes > RECENT_BYTES:
            self._recent_bytes -= len(self._recent.popleft()[1])

    def _log(self, device: Device) -> _DeviceLog:
        log = self._devices.get(device)
        if log is None:
            log = self._devices[device] = _DeviceLog(device)
        return log

    def report(self, window_ms: int, *, dedupe: bool = True) -> Report:
        statuses, logs = Counter(self._status), self._devices.values()
        by_peer: dict[str, list[int]] = {}
        for at_ms, peer in zip(self._at_ms, self._peer_of, strict=True):
            by_peer.setdefault(peer, []).append(at_ms)
        return Report(
            requests=len(self._at_ms),
            by_status={str(status) if status else "none": count for status, count in sorted(statuses.items())},
            events=self.events,
            distinct=self.distinct,
            duplicates=self.events - self.distinct,
            stored=self.distinct if dedupe else self.events,
            devices=len(self._devices),
            order_breaks=sum(log.order_breaks for log in logs),
            window_ms=window_ms,
            most_of_device=max((most_in_window(log.arrivals_ms, window_ms) for log in logs), default=0),
            most_of_peer=max((most_in_window(times, window_ms) for times in by_peer.values()), default=0),
            rate_limited=statuses[429],
        )


def most_in_window(times_ms: Sequence[int], window_ms: int) -> int:
    """Return the maximum number of `times_ms` (in any order) within a half-open interval of `window_ms`."""
    ordered = sorted(times_ms)
    most = oldest = 0
    for newest, at_ms in enumerate(ordered):
        while ordered[oldest] <= at_ms - window_ms:
            oldest += 1
        most = max(most, newest - oldest + 1)
    return most
