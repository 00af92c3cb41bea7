"""Small datagrams are read at once, expensive ones are deferred, and a full backlog drops them."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest
from relay.http.guard import Networks
from relay.ingest.udp.datagrams import SMALL_BYTES, Datagrams
from relay.ingest.udp.expensive import ExpensiveDatagrams
from relay.ingest.udp.outcomes import Outcomes
from relay.runtime.metrics import Metrics

from tests.support.ingest_harness import BODY, HandClock, gzipped, new_reader

SENDER = ("127.0.0.1", 40_000)
EXPENSIVE = gzipped(BODY * 1_000)
PADDED = BODY + b" " * (SMALL_BYTES - len(BODY))
NO_SOCKET: Any = None


class Reading(Datagrams):
    """Reads with a full set of counters."""

    def __init__(self, max_backlog_bytes: int = 1 << 20) -> None:
        clock, self.metrics = HandClock(), Metrics()
        outcomes = Outcomes(self.metrics, clock.monotonic_ms)
        self.expensive = ExpensiveDatagrams(max_backlog_bytes, outcomes)
        super().__init__(new_reader(clock), 1 << 20, Networks(()), outcomes, self.expensive)

    def dropped(self) -> float | None:
        return self.metrics.registry.get_sample_value("relay_udp_datagrams_dropped_total", {"reason": "backlog"})

    def too_large(self) -> float | None:
        labels = {"transport": "udp", "reason": "too_large"}
        return self.metrics.registry.get_sample_value("relay_events_rejected_total", labels)


def read(reading: Reading, *data: bytes) -> int:
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
    reading = Reading()
    assert read(reading, data) == (0 if waits else 1)
    assert bool(reading.expensive) is waits


def test_a_full_backlog_drops_expensive_datagrams_and_small_ones_are_still_read() -> None:
    reading = Reading(max_backlog_bytes=20 * (len(EXPENSIVE) + 512))
    assert read(reading, *[EXPENSIVE, BODY] * 30) == 30
    assert reading.dropped() == 10
    while reading.expensive:
        reading.expensive.read_step()
    assert reading.too_large() == 20
    assert read(reading, EXPENSIVE) == 0
    assert reading.expensive
