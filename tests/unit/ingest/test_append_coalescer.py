"""The appends of one turn of the event loop are coalesced, with the same outcome for each caller."""

from __future__ import annotations

import asyncio

import pytest
from relay.event.reader import Event
from relay.ingest.append_coalescer import AppendCoalescer
from relay.outbox import AppendResult, OutboxFull, OutboxUnavailable
from relay.runtime.event_feed import EventFeed

from tests.support.event_loop import turns
from tests.support.ingest_harness import STORED, ScriptedOutbox


def events(first: int, count: int = 1) -> list[Event]:
    return [Event(n.to_bytes(16, "big"), (1, "tv", f"device {n}"), b"{}") for n in range(first, first + count)]


class Outcomes:
    """The outcome for each caller, by the number of its first event, and the counted events."""

    def __init__(self, outbox: ScriptedOutbox) -> None:
        self.results: dict[int, AppendResult | BaseException] = {}
        self.received = 0
        self.stored: list[tuple[int, int]] = []
        self.feed = EventFeed()
        self._coalescer = AppendCoalescer(
            outbox,
            self._count_received,
            lambda count, duplicates: self.stored.append((count, duplicates)),
            self.feed,
        )

    def append(self, first: int, count: int = 1) -> None:
        self._coalescer.append(events(first, count), lambda result: self.results.update({first: result}))

    def _count_received(self, count: int) -> None:
        self.received += count


async def test_the_appends_of_a_turn_are_coalesced_in_order_of_arrival() -> None:
    outbox = ScriptedOutbox(duplicates=1)
    outcomes = Outcomes(outbox)
    for first, count in ((1, 1), (2, 3), (5, 1)):
        outcomes.append(first, count)
    await turns(5)
    assert len(outbox.appends) == 1
    assert outbox.stored == events(1, 5)
    assert outcomes.results == dict.fromkeys((1, 2, 5), AppendResult(1, "full"))
    assert (outcomes.received, outcomes.stored) == (5, [(5, 1)])
    outcomes.append(6)
    await turns(5)
    assert len(outbox.appends) == 2


async def test_no_callback_is_called_before_the_outcome_of_the_append() -> None:
    outbox = ScriptedOutbox(waits=True)
    outcomes = Outcomes(outbox)
    outcomes.append(1)
    await turns(5)
    assert outcomes.results == {}
    outbox.appends[0].set_result(STORED)
    await turns(5)
    assert outcomes.results == {1: STORED}


async def test_events_that_fit_are_stored_when_the_outbox_has_no_room_for_all() -> None:
    full = OutboxFull("the outbox is full")
    outbox = ScriptedOutbox(error=full, room_events=4)
    outcomes = Outcomes(outbox)
    for first, count in ((1, 3), (4, 2), (6, 1)):
        outcomes.append(first, count)
    await turns(5)
    assert outcomes.results == {1: STORED, 4: full, 6: STORED}
    assert outbox.stored == events(1, 3) + events(6)
    assert (outcomes.received, outcomes.stored) == (6, [(3, 0), (1, 0)])


@pytest.mark.parametrize("error", [OutboxUnavailable("the disk fails"), ZeroDivisionError("a bug")])
async def test_another_failure_applies_to_all_callers_without_a_retry(error: Exception) -> None:
    outbox = ScriptedOutbox(error=error)
    outcomes = Outcomes(outbox)
    outcomes.append(1)
    outcomes.append(2)
    await turns(5)
    assert outcomes.results == {1: error, 2: error}
    assert len(outbox.appends) == 1


async def test_an_exception_in_one_callback_affects_no_other() -> None:
    outbox = ScriptedOutbox()
    results: list[AppendResult | BaseException] = []
    bugs: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: bugs.append(context["exception"]))
    gather = AppendCoalescer(outbox, lambda count: None, lambda count, duplicates: None, EventFeed())
    bug = ZeroDivisionError("a bug")

    def fail(_: AppendResult | BaseException) -> None:
        raise bug

    gather.append(events(1), fail)
    gather.append(events(2), results.append)
    await turns(5)
    assert results == [STORED]
    assert bugs == [bug]


async def test_a_turn_with_many_events_is_several_appends() -> None:
    outbox = ScriptedOutbox()
    outcomes = Outcomes(outbox)
    for first in range(0, 2_500, 100):
        outcomes.append(first, 100)
    await turns(5)
    assert [len(outbox.appends), outcomes.received, sum(count for count, _ in outcomes.stored)] == [3, 2_500, 2_500]
    assert outbox.stored == events(0, 2_500)
