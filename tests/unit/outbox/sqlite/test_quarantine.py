"""A cloned installation: its outbox's pending events stay pending and are not sent until an operator decides."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

import pytest
from relay.outbox import Ledger, OutboxError
from relay.runtime.event_feed import EventChange
from relay.runtime.machine import MachineIds

from tests.contract.boxes import DAY_MS, PHONE, TV, Box, SqliteBox, bodies, close, event, event_id
from tests.unit.outbox.sqlite.conftest import MakeBox

BOX, OTHER_BOX, THIRD_BOX = (MachineIds(letter * 32, "") for letter in "abc")


async def original(make_box: MakeBox, **settings: object) -> SqliteBox:
    box = make_box(**settings)
    box.ids = BOX
    box.outbox = box.make()
    await box.start()
    return box


class Copied(Protocol):
    """Return what a machine finds in a copy made while the relay ran."""

    async def __call__(self, box: SqliteBox, ids: MachineIds | None = OTHER_BOX) -> SqliteBox: ...


@pytest.fixture
async def copied() -> AsyncIterator[Copied]:
    copies: list[SqliteBox] = []

    async def copy(box: SqliteBox, ids: MachineIds | None = OTHER_BOX) -> SqliteBox:
        made = await box.kill()
        made.ids = ids
        made.outbox = made.make()
        copies.append(made)
        await made.start()
        return made

    yield copy
    for each in copies:
        await close(each)


async def test_pending_events_of_another_machine_are_quarantined(make_box: MakeBox, copied: Copied) -> None:
    box = await original(make_box)
    await box.append(range(3))
    await box.append(range(3, 5), PHONE)
    await box.claim(2)

    copy = await copied(box)

    assert copy.outbox.was_moved
    assert copy.outbox.gauges().quarantined == 5
    assert copy.outbox.ledger() == Ledger(accepted=5, pending=5)
    assert not copy.loaded.unsettled
    assert set(copy.backlog.values()) <= {(0, 0)}
    assert await copy.outbox.find(event_id(0)) == "pending"
    copy.check()


async def test_new_events_of_the_same_device_are_sent_and_a_restart_changes_nothing(
    make_box: MakeBox, copied: Copied
) -> None:
    box = await original(make_box)
    await box.append(range(3))
    copy = await copied(box)
    await copy.append(range(10, 12))

    await copy.restart()

    assert not copy.outbox.was_moved
    assert copy.outbox.gauges().quarantined == 3
    assert await copy.deliver_all() == bodies(range(10, 12))
    assert copy.outbox.ledger() == Ledger(accepted=5, delivered=2, pending=3)
    copy.check()


async def test_events_are_not_stored_a_second_time_while_they_are_quarantined(
    make_box: MakeBox, copied: Copied
) -> None:
    box = await original(make_box)
    await box.append(range(3))
    copy = await copied(box)

    assert await copy.append(range(3)) == 3


async def test_adopted_events_are_sent_once_with_the_ledger_unchanged(make_box: MakeBox, copied: Copied) -> None:
    box = await original(make_box)
    await box.append(range(3))
    await box.append(range(3, 5), PHONE)
    copy = await copied(box)

    assert await copy.outbox.adopt(2) == 2
    assert copy.outbox.gauges().quarantined == 3
    copy.check()
    after = await copied(copy)
    assert after.outbox.gauges().quarantined == 3
    assert await after.outbox.adopt(1000) == 3
    assert await after.outbox.adopt(1000) == 0
    assert after.outbox.ledger() == Ledger(accepted=5, pending=5)
    assert await after.append(range(5)) == 5
    assert sorted(await after.deliver_all()) == sorted([*bodies(range(3)), *bodies(range(3, 5), PHONE)])
    after.check()
    await after.restart()
    assert after.outbox.ledger() == Ledger(accepted=5, delivered=5)


async def test_many_adopted_events_keep_their_order(make_box: MakeBox, copied: Copied) -> None:
    box = await original(make_box)
    await box.append(range(1000))
    copy = await copied(box)
    await copy.append(range(2000, 2003))
    assert await copy.deliver(1) == bodies([2000])

    assert await copy.outbox.adopt(5000) == 1000

    assert await copy.deliver_all() == bodies([2001, 2002, *range(1000)])
    copy.check()


async def test_adopted_timestamp_is_not_corrected_by_this_machines_clock(make_box: MakeBox, copied: Copied) -> None:
    box = await original(make_box)
    await box.outbox.append([event(1, has_inserted_time=True)])
    copy = await copied(box)
    await copy.outbox.adopt(1)

    assert (await copy.claim(1, true_ms=1_800_000_000_000)).timestamps == {}


async def test_discarded_events_are_dropped_counted_and_may_be_sent_again(make_box: MakeBox, copied: Copied) -> None:
    box = await original(make_box)
    await box.append(range(300))
    copy = await copied(box)
    changes: list[EventChange] = []
    copy.metrics.feed.follow(changes.append)

    assert await copy.outbox.discard_quarantined(1000) == 300
    assert changes == [EventChange("dropped", "", "", *TV, reason="discarded")] * 300

    assert copy.outbox.ledger() == Ledger(accepted=300, dropped=300)
    assert copy.metrics.events_dropped.labels("discarded")._value.get() == 300
    assert await copy.outbox.find(event_id(0)) == "dropped"
    copy.check()
    await copy.restart()
    assert copy.outbox.ledger() == Ledger(accepted=300, dropped=300)
    await copy.append(range(1))
    assert copy.outbox.ledger() == Ledger(accepted=301, dropped=300, pending=1)


async def test_quarantined_events_are_not_dropped_for_their_age(make_box: MakeBox, copied: Copied) -> None:
    box = await original(make_box, max_age_ms=DAY_MS)
    await box.append(range(3))
    copy = await copied(box)
    await copy.append(range(10, 12))
    copy.clock.advance(DAY_MS + 1)

    assert await copy.outbox.expire() == 2

    assert copy.outbox.ledger() == Ledger(accepted=5, dropped=2, pending=3)
    assert await copy.outbox.adopt(10) == 3
    assert await copy.deliver_all() == bodies(range(3))


async def test_cleanup_deletes_no_quarantined_row(make_box: MakeBox, copied: Copied) -> None:
    box = await original(make_box)
    await box.append(range(3))
    copy = await copied(box)
    for first in range(1000, 9000, 1000):
        await copy.append(range(first, first + 1000))
        await copy.deliver_all()
    await copy.restart()

    assert copy.outbox.gauges().quarantined == 3
    assert await copy.outbox.adopt(10) == 3
    assert await copy.deliver_all() == bodies(range(3))
    copy.check()


async def test_second_copy_quarantines_what_both_machines_left(make_box: MakeBox, copied: Copied) -> None:
    box = await original(make_box)
    await box.append(range(3))
    copy = await copied(box)
    await copy.append(range(10, 14))
    await copy.deliver(2)

    third = await copied(copy, THIRD_BOX)

    assert third.outbox.gauges().quarantined == 5
    assert third.outbox.ledger() == Ledger(accepted=7, delivered=2, pending=5)
    await third.outbox.adopt(10)
    assert await third.deliver_all() == bodies([0, 1, 2, 12, 13])
    third.check()


async def test_outbox_adopt_sends_the_events_of_a_moved_disk(make_box: MakeBox, copied: Copied) -> None:
    box = await original(make_box, adopt=True)
    await box.append(range(3))

    copy = await copied(box)

    assert copy.outbox.was_moved
    assert copy.outbox.gauges().quarantined == 0
    assert await copy.deliver_all() == bodies(range(3))


@pytest.mark.parametrize("ids", [None, MachineIds("", ""), BOX])
async def test_nothing_is_quarantined_on_the_same_or_an_unknown_machine(
    make_box: MakeBox, copied: Copied, ids: MachineIds | None
) -> None:
    box = await original(make_box)
    await box.append(range(3))

    copy = await copied(box, ids)

    assert copy.outbox.gauges().quarantined == 0
    assert await copy.deliver_all() == bodies(range(3))


async def test_quarantined_events_survive_the_salvage_of_a_broken_file(make_box: MakeBox, copied: Copied) -> None:
    box = await original(make_box)
    await box.append(range(3))
    copy = await copied(box)
    await copy.append(range(10, 12))
    await copy.deliver_all()
    await copy.outbox.close()
    database = copy.database()
    database.execute("UPDATE log SET queue_id = 77 WHERE seq = 2")
    database.close()
    copy.outbox = copy.make()

    await copy.start()

    assert copy.outbox.ledger().pending == copy.outbox.gauges().quarantined
    assert copy.outbox.ledger().balanced
    assert await copy.outbox.adopt(10) == copy.outbox.ledger().pending


async def test_image_is_prepared_by_discarding_everything_and_disowning_the_outbox(
    make_box: MakeBox, copied: Copied
) -> None:
    box = await original(make_box)
    await box.append(range(3))
    copy = await copied(box)
    await copy.append(range(10, 6000))
    await copy.claim(5)

    assert await copy.outbox.discard_pending() == 3 + 5990
    await copy.outbox.disown()
    copy.check()

    third = await copied(copy, THIRD_BOX)
    assert not third.outbox.was_moved
    assert third.outbox.ledger() == Ledger(accepted=5993, dropped=5993)


async def test_adopt_of_a_closed_outbox_fails_as_other_calls_do(make_box: MakeBox) -> None:
    box: Box = await original(make_box)
    await box.outbox.close()

    with pytest.raises(OutboxError):
        await box.outbox.adopt(1)
