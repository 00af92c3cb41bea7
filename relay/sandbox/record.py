"""What the sandbox got, when and from which device; and what can be said of it at the end.

Rules: every request whose head arrived counts, whatever became of it; an event counts once its request is
committed. Times are monotonic milliseconds of the head's arrival. An event's order is its sender's
`context.n`, which must rise within a device: an order break is a first delivery whose n is below one
delivered before. Costs about 120 bytes an event and 40 a request, more only with `keep_requests`.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from relay.sandbox.validate import Device, Seen

NO_RESPONSE = 0
"""Status of a request that was not answered, or whose client had left."""


class Request(NamedTuple):
    """A request as recorded; `device` is the one it counted for."""

    at_ms: int
    peer: str
    device: Device | None
    events: int
    status: int
    """As sent, also if the answer was cut short; NO_ANSWER for none."""
    committed: bool


class Kept(NamedTuple):
    """Headers (names lower case) and body, after undoing gzip, of a request."""

    headers: Mapping[str, str]
    body: bytes


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The end of a run, in numbers."""

    requests: int
    by_status: dict[str, int]
    """ "none" for no answer."""
    events: int
    """Committed, each time it was."""
    distinct: int
    duplicates: int
    stored: int
    """What a data base behind it would hold: `distinct` with dedupe, else `events`."""
    devices: int
    order_breaks: int
    window_ms: int
    most_of_device: int
    """Most requests in any window (sliding) that carried events of one device, refused ones included."""
    most_of_peer: int
    """Most requests in any window (sliding) from one address."""
    rate_limited: int
    """Requests answered 429."""


class _DeviceLog:
    """One device's requests and order."""

    __slots__ = ("arrivals_ms", "device", "highest_n", "order_breaks")

    def __init__(self, device: Device) -> None:
        self.device = device
        self.arrivals_ms = array("q")
        self.highest_n: int | None = None
        self.order_breaks = 0


class Record:
    """Filled by the server, read by anybody at any time."""

    def __init__(self, *, keep_requests: bool = False) -> None:
        self.kept: list[Kept] = []
        self.events = 0
        """Committed so far, duplicates included."""
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

    @property
    def distinct(self) -> int:
        """Event ids committed so far; an event that was not parsed passes for another one."""
        return len(self._delivered) + self._unparsed

    def arrived(self, at_ms: int, peer: str) -> int:
        """A request's head is here; returns the request's number."""
        self._at_ms.append(at_ms)
        self._status.append(NO_RESPONSE)
        self._events_of.append(0)
        self._committed.append(False)
        self._device_of.append(None)
        self._peer_of.append(peer)
        return len(self._at_ms) - 1

    def read(self, number: int, device: Device | None, events: Sequence[Seen], kept: Kept) -> None:
        """Its body is here and holds `events` (none if they are not valid; then only `device` is told)."""
        self._events_of[number] = len(events)
        carried = {event.device for event in events}
        if device is not None:
            self._device_of[number] = self._log(device)
            carried.add(device)
        for each in carried:
            self._log(each).arrivals_ms.append(self._at_ms[number])
        if self._keep:
            self.kept.append(kept)

    def counted(self, number: int, events: int) -> None:
        """Its body was not parsed but holds so many events; they are committed."""
        self._events_of[number] = events
        self._committed[number] = True
        self.events += events
        self._unparsed += events

    def commit(self, number: int, events: Sequence[Seen]) -> None:
        """Its events are the upstream's now."""
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

    def answered(self, number: int, status: int) -> None:
        self._status[number] = status

    def requests(self) -> Iterator[Request]:
        """In order of arrival."""
        for number, at_ms in enumerate(self._at_ms):
            log = self._device_of[number]
            yield Request(
                at_ms,
                self._peer_of[number],
                log.device if log else None,
                self._events_of[number],
                self._status[number],
                bool(self._committed[number]),
            )

    def delivered(self, device: Device | None = None) -> list[bytes]:
        """Event ids (16 bytes) of first deliveries in their order; of one device, or of all."""
        return [event_id for event_id, log in self._delivered.items() if device is None or log.device == device]

    def has(self, event_id: bytes) -> bool:
        return event_id in self._delivered

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
    """Most of `times_ms` (any order) within any half-open span of `window_ms`."""
    ordered = sorted(times_ms)
    most = oldest = 0
    for newest, at_ms in enumerate(ordered):
        while ordered[oldest] <= at_ms - window_ms:
            oldest += 1
        most = max(most, newest - oldest + 1)
    return most
