"""Expensive datagrams are read in order and in steps, and the queue is bounded."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from relay.event.reader import Event, Reading, Rejection
from relay.ingest.udp.expensive import ExpensiveDatagrams
from relay.ingest.udp.outcomes import Outcomes
from relay.ingest.udp.read_batch import ReadBatch, ReceivedDatagram
from relay.runtime.metrics import Metrics

SENDER = ("127.0.0.1", 40_000)
NO_SOCKET: Any = None
OVERHEAD_BYTES = 512
EVENT = Event(bytes(16), (1, "tv", "d"), b"{}")
INVALID = Rejection("invalid", "x")


class Queue(ExpensiveDatagrams):
    """A queue with a full set of counters."""

    def __init__(self, max_bytes: int = 1 << 20) -> None:
        self.metrics = Metrics()
        super().__init__(max_bytes, Outcomes(self.metrics, lambda: 0))

    def add_data(self, data: bytes, result: list[Event] | Rejection | Exception = INVALID) -> None:
        self.add(ReceivedDatagram(data, SENDER, NO_SOCKET), reading(result))

    def dropped(self) -> float | None:
        return self.metrics.registry.get_sample_value("relay_udp_datagrams_dropped_total", {"reason": "backlog"})

    def rejected(self, reason: str) -> float | None:
        labels = {"transport": "udp", "reason": reason}
        return self.metrics.registry.get_sample_value("relay_events_rejected_total", labels)


def reading(result: list[Event] | Rejection | Exception) -> Reading:
    """A reading of two steps."""
    yield
    if isinstance(result, Exception):
        raise result
    return result


def test_each_call_runs_one_step_of_the_oldest_datagram() -> None:
    queue = Queue()
    queue.add_data(b"first", [EVENT])
    queue.add_data(b"second", [EVENT, EVENT])
    batches = [queue.read_step() for _ in range(4)]
    assert batches == [
        None,
        ReadBatch([EVENT], [1], [5], [SENDER], NO_SOCKET),
        None,
        ReadBatch([EVENT, EVENT], [2], [6], [SENDER], NO_SOCKET),
    ]
    assert not queue


@pytest.mark.parametrize(
    ("result", "reason"), [(Rejection("too_large", "x"), "too_large"), (RuntimeError("a bug"), "unavailable")]
)
async def test_a_datagram_without_events_is_counted_and_affects_no_other(result: Any, reason: str) -> None:
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    queue = Queue()
    queue.add_data(b"first", result)
    queue.add_data(b"second", [EVENT])
    assert [queue.read_step() is not None for _ in range(4)] == [False, False, False, True]
    assert queue.rejected(reason) == 1


def test_a_datagram_that_does_not_fit_is_dropped_and_counted() -> None:
    queue = Queue(max_bytes=2 * (100 + OVERHEAD_BYTES))
    for size_bytes in (100, 101, 100, 1):
        queue.add_data(bytes(size_bytes))
    assert queue.dropped() == 2
    queue.read_step()
    queue.read_step()
    queue.add_data(bytes(100))
    assert queue.dropped() == 2


def test_a_single_datagram_fits_into_every_queue() -> None:
    queue = Queue(max_bytes=1)
    queue.add_data(bytes(1_000))
    assert queue
    assert queue.dropped() == 0


def test_the_queue_can_be_dropped_while_a_datagram_is_read() -> None:
    queue = Queue()
    queue.add_data(b"first")
    queue.add_data(b"second")
    assert queue.read_step() is None
    queue.drop_all()
    assert not queue
    assert queue.dropped() == 2
    queue.add_data(b"third", [EVENT])
    assert [queue.read_step() is not None for _ in range(2)] == [False, True]
