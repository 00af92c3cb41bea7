"""The record counts requests and events, duplicates, order breaks and request rates."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from relay.sandbox.record import Record, RecordedRequest, RequestContent, most_in_window
from relay.sandbox.validate import Device, ReceivedEvent

TV: Device = (2, "tv", "a")
BOX: Device = (2, "tv", "b")


def seen(number: int, device: Device = TV, n: int | None = None) -> ReceivedEvent:
    return ReceivedEvent(number.to_bytes(16, "big"), device, n)


def deliver(record: Record, *events: ReceivedEvent, at_ms: int = 0, peer: str = "ip", status: int = 202) -> None:
    number = record.arrived(at_ms, peer)
    record.read(number, events[0].device, events, RequestContent({}, b""))
    if status == 202:
        record.commit(number, events)
    record.responded(number, status)


def test_an_event_committed_twice_is_one_duplicate() -> None:
    record = Record()
    deliver(record, seen(1), seen(2))
    deliver(record, seen(2), seen(3))
    report = record.report(60_000)
    assert (report.events, report.distinct, report.duplicates, report.stored) == (4, 3, 1, 3)
    assert record.report(60_000, dedupe=False).stored == 4


def test_an_event_that_was_rejected_first_is_not_a_duplicate() -> None:
    record = Record()
    deliver(record, seen(1), status=503)
    deliver(record, seen(1))
    report = record.report(60_000)
    assert (report.events, report.duplicates, report.by_status) == (1, 0, {"202": 1, "503": 1})


def test_a_first_delivery_behind_a_later_one_breaks_the_order() -> None:
    record = Record()
    deliver(record, seen(1, n=1), seen(5, n=5), seen(2, n=2), seen(3, n=3), seen(6, n=6))
    assert record.report(60_000).order_breaks == 2


def test_gaps_duplicates_and_other_devices_do_not_break_the_order() -> None:
    record = Record()
    deliver(record, seen(1, n=1), seen(9, n=9), seen(2, BOX, n=2), seen(5))
    deliver(record, seen(1, n=1), seen(10, n=10), seen(3, BOX, n=3))
    assert record.report(60_000).order_breaks == 0


def test_a_request_counts_for_every_device_it_carries() -> None:
    record = Record()
    deliver(record, seen(1), seen(2, BOX), at_ms=0)
    deliver(record, seen(3, BOX), at_ms=59_999, status=429)
    deliver(record, seen(4, BOX), at_ms=60_000, peer="other")
    report = record.report(60_000)
    assert (report.most_of_device, report.most_of_peer, report.rate_limited, report.devices) == (2, 2, 1, 2)


def test_requests_are_reported_individually() -> None:
    record = Record()
    record.arrived(5, "ip")
    deliver(record, seen(1), seen(2), at_ms=7)
    assert list(record.requests()) == [
        RecordedRequest(5, "ip", None, 0, 0, committed=False),
        RecordedRequest(7, "ip", TV, 2, 202, committed=True),
    ]
    assert record.report(60_000).by_status == {"none": 1, "202": 1}


def test_deliveries_are_reported_in_order() -> None:
    record = Record()
    deliver(record, seen(2), seen(1, BOX), seen(3))
    deliver(record, seen(2))
    ids = [number.to_bytes(16, "big") for number in (2, 1, 3)]
    assert record.delivered() == ids
    assert record.delivered(TV) == [ids[0], ids[2]]
    assert record.has(ids[1])
    assert not record.has(bytes(16))


def test_unparsed_events_are_counted() -> None:
    record = Record()
    record.counted(record.arrived(0, "ip"), 500)
    deliver(record, seen(1))
    report = record.report(60_000)
    assert (report.events, report.distinct, report.duplicates) == (501, 501, 0)


def test_bodies_are_stored_only_with_keep_requests() -> None:
    keeping, plain = Record(keep_requests=True), Record()
    for record in (keeping, plain):
        record.read(record.arrived(0, "ip"), None, [], RequestContent({"accept": "*/*"}, b"{}"))
    assert (keeping.contents, plain.contents) == ([RequestContent({"accept": "*/*"}, b"{}")], [])


@given(st.lists(st.integers(0, 1000), max_size=40), st.integers(1, 300))
def test_most_in_window_equals_the_maximum_over_all_windows(times_ms: list[int], window_ms: int) -> None:
    tried = [sum(start <= at < start + window_ms for at in times_ms) for start in times_ms]
    assert most_in_window(times_ms, window_ms) == max(tried, default=0)
