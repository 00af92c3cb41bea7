"""Small datagrams are read at once, expensive ones are deferred, and a full backlog drops them."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest
from relay.event.reader import Rejection
from relay.http.guard import Networks
from relay.ingest.udp.datagrams import SMALL_BYTES, Datagrams, ReceivedDatagram

from tests.support.ingest_harness import BODY, HandClock, gzipped, new_reader

SENDER = ("127.0.0.1", 40_000)
EXPENSIVE = gzipped(BODY * 1_000)
PADDED = BODY + b" " * (SMALL_BYTES - len(BODY))
NO_SOCKET: Any = None


class Told:
    """What became of datagrams that are not events."""

    def __init__(self) -> None:
        self.drops: list[str] = []
        self.refusals: list[str] = []

    def dropped(self, reason: str, sender: Any) -> None:
        assert sender == SENDER
        self.drops.append(reason)

    def rejected(self, rejection: Rejection, received: ReceivedDatagram) -> None:
        self.refusals.append(rejection.reason)

    def failed(self, bug: Exception, received: ReceivedDatagram) -> None:
        raise bug

    def reading_together_failed(self, bug: Exception) -> None:
        raise bug


def datagrams(told: Told, max_backlog_bytes: int = 1 << 20) -> Datagrams:
    return Datagrams(new_reader(HandClock()), 1 << 20, max_backlog_bytes, Networks(()), told)


def read(reading: Datagrams, *data: bytes) -> int:
    """How many events were read at once."""
    unread = deque((each, SENDER) for each in data)
    events = 0
    while unread:
        events += len(reading.read_small(unread, NO_SOCKET).events)
    return events


@pytest.mark.parametrize(
    ("data", "waits"),
    [
        (BODY, False),
        (PADDED, False),
        (PADDED + b" ", True),
        (gzipped(BODY), False),
        (gzipped(PADDED), True),
        (EXPENSIVE, True),
    ],
)
def test_a_large_datagram_or_one_that_inflates_to_much_is_deferred(data: bytes, waits: bool) -> None:
    reading = datagrams(Told())
    assert read(reading, data) == (0 if waits else 1)
    assert reading.has_backlog is waits


def test_a_full_backlog_drops_expensive_datagrams_and_small_ones_are_still_read() -> None:
    told = Told()
    reading = datagrams(told, max_backlog_bytes=20 * (len(EXPENSIVE) + 512))
    assert read(reading, *[EXPENSIVE, BODY] * 30) == 30
    assert told.drops == ["backlog"] * 10
    while reading.has_backlog:
        reading.read_step()
    assert told.refusals == ["too_large"] * 20
    assert read(reading, EXPENSIVE) == 0
    assert reading.has_backlog


def test_a_single_datagram_fits_into_any_backlog() -> None:
    reading = datagrams(Told(), max_backlog_bytes=1)
    read(reading, EXPENSIVE)
    assert reading.has_backlog


def test_the_backlog_can_be_dropped_while_a_datagram_is_read() -> None:
    told = Told()
    reading = datagrams(told)
    read(reading, gzipped(b"\n".join([BODY] * 1_000)), EXPENSIVE)
    assert reading.read_step() is None
    reading.drop_backlog()
    assert told.drops == ["backlog"] * 2
    assert not reading.has_backlog
    read(reading, PADDED + b" ")
    batch = reading.read_step()
    assert batch is not None and len(batch.events) == 1
