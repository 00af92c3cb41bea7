"""The guarantees of relay.outbox, checked for each outbox."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
import structlog
from relay.config import OutboxSettings
from relay.event.reader import DeviceKey, Event
from relay.outbox import (
    Claimed,
    ClaimPart,
    Dead,
    Ledger,
    OutboxFull,
    OutboxShareUsed,
    OutboxUnavailable,
    Selection,
    Settled,
    Timestamp,
    TooManyDevices,
)

from tests.contract.boxes import DAY_MS, PHONE, REFUSED, TABLET, TV, Box, bodies, close, event, event_id, events
from tests.contract.conftest import MakeBox

ALL = Selection(all=True)
KIB = 1 << 10


class TestAppend:
    async def test_committed_events_survive_a_kill(self, box: Box) -> None:
        assert await box.append(range(10)) == 0
        after = await box.restart_after_kill()
        assert (await after.claim(100)).bodies == bodies(range(10))
        await close(after)

    async def test_backlog_is_reported_after_the_commit(self, box: Box) -> None:
        appended = box.outbox.append(events(range(3)))
        assert not appended.done() and box.backlog == {}
        await appended
        await box.seen()
        assert box.backlog == {TV: (3, sum(map(len, bodies(range(3)))))}

    async def test_concurrent_appends_all_succeed(self, box: Box) -> None:
        answers = [box.outbox.append([event(number)]) for number in range(200)]
        assert [result.duplicates for result in await asyncio.gather(*answers)] == [0] * 200
        await box.seen()
        assert box.outbox.ledger().accepted == 200
        assert (await box.claim(500)).bodies == bodies(range(200))

    async def test_cancelled_append_is_still_committed(self, box: Box) -> None:
        box.outbox.append([event(1)]).cancel()
        await box.append([2])
        assert (await box.claim(10)).bodies == bodies([1, 2])

    async def test_append_to_a_closed_outbox_fails(self, box: Box) -> None:
        await box.append([1])
        await box.outbox.close()
        with pytest.raises(OutboxUnavailable):
            await box.append([2])
        assert not box.outbox.room()

    async def test_close_commits_waiting_appends(self, box: Box) -> None:
        appended = box.outbox.append(events(range(5)))
        await box.outbox.close()
        assert (await appended).duplicates == 0
        box.outbox = box.make()
        await box.start()
        assert (await box.claim(10)).bodies == bodies(range(5))


class TestOrder:
    async def test_events_of_a_queue_are_claimed_in_order(self, box: Box) -> None:
        for number in range(0, 30, 3):
            await box.append([number], TV)
            await box.append([number + 1, number + 2], PHONE)
        assert await box.deliver(4) == bodies(range(0, 12, 3))
        assert await box.deliver(100) == bodies(range(12, 30, 3))
        phone = [number for number in range(30) if number % 3]
        assert await box.deliver(100, PHONE) == bodies(phone, PHONE)

    async def test_one_request_can_contain_several_queues(self, box: Box) -> None:
        await box.append(range(5), TV)
        await box.append(range(5, 9), PHONE)
        claimed = await box.outbox.claim([ClaimPart(box.queues[PHONE], 2), ClaimPart(box.queues[TV], 3)])
        assert [each.queue_id for each in claimed] == [box.queues[PHONE], box.queues[TV]]
        assert [list(each.bodies) for each in claimed] == [bodies([5, 6], PHONE), bodies(range(3))]

    async def test_released_events_are_claimed_first(self, box: Box) -> None:
        await box.append(range(6))
        first = await box.claim(3)
        box.outbox.release([first.queue_id])
        assert (await box.claim(4)).bodies == bodies(range(4))

    async def test_sizes_include_events_in_flight(self, box: Box) -> None:
        for number, size in enumerate((150, 170, 160, 190)):
            await box.append([number], body_bytes=size)
        await box.claim(2)
        assert list(box.outbox.sizes(box.queues[TV], 3)) == [150, 170, 160]
        await box.settle()
        assert list(box.outbox.sizes(box.queues[TV], 3)) == [160, 190]

    async def test_settle_and_next_claim_may_share_a_commit(self, box: Box) -> None:
        await box.append(range(6))
        await box.claim(3)
        settled = box.outbox.settle([Settled(box.queues[TV], True, {}, b"")])
        claimed = box.outbox.claim([ClaimPart(box.queues[TV], 3)])
        _, (found,) = await asyncio.gather(settled, claimed)
        assert list(found.bodies) == bodies(range(3, 6))
        box.check()

    async def test_claim_after_settle_is_not_committed_before_it(self, box: Box) -> None:
        await box.append(range(2), TV)
        await box.append(range(2, 4), PHONE)
        await box.claim(2, TV)
        order: list[str] = []

        async def settle() -> None:
            await box.settle(key=TV)
            order.append("settled")

        async def claim() -> None:
            await box.claim(2, PHONE)
            order.append("taken")

        await asyncio.gather(settle(), claim())
        assert order == ["settled", "taken"]
        after = await box.restart_after_kill()
        assert after.loaded.unsettled == [[ClaimPart(box.queues[PHONE], 2)]]
        await close(after)


class TestSettle:
    async def test_delivered_events_are_removed_and_counted(self, box: Box) -> None:
        await box.append(range(10))
        await box.deliver(4)
        assert box.outbox.ledger() == Ledger(accepted=10, delivered=4, pending=6)
        assert box.backlog[TV] == (6, sum(map(len, bodies(range(4, 10)))))
        assert box.metrics.events_delivered._value.get() == 4
        box.check()

    async def test_dead_events_of_a_delivered_request_become_dead_letters(self, box: Box) -> None:
        await box.append(range(5))
        await box.claim(4)
        await box.settle(dead={1: REFUSED, 3: Dead("too_large", 413, "")})
        assert box.outbox.ledger() == Ledger(accepted=5, delivered=2, dead_lettered=2, pending=1)
        letters = await box.outbox.dead_letters(ALL, 10)
        assert [(each.body, each.reason, each.status, each.message) for each in letters] == [
            (event(1).body, "refused", 422, "no such subject"),
            (event(3).body, "too_large", 413, ""),
        ]
        assert (await box.claim(10)).bodies == bodies([4])
        box.check()

    async def test_undelivered_events_stay_pending_without_the_dead_ones(self, box: Box) -> None:
        await box.append(range(5))
        await box.claim(3)
        await box.settle(delivered=False, dead={1: REFUSED})
        assert box.outbox.ledger() == Ledger(accepted=5, dead_lettered=1, pending=4)
        assert (await box.claim(10)).bodies == bodies([0, 2, 3, 4])
        box.check()

    async def test_it_survives_a_kill(self, box: Box) -> None:
        await box.append(range(5))
        await box.claim(3)
        await box.settle(delivered=False, dead={1: REFUSED})
        await box.deliver(2)
        after = await box.restart_after_kill()
        assert after.outbox.ledger() == Ledger(accepted=5, delivered=2, dead_lettered=1, pending=2)
        assert after.loaded.unsettled == []
        assert (await after.claim(10)).bodies == bodies([3, 4])
        after.check()
        await close(after)

    async def test_settle_affects_only_the_claimed_events(self, box: Box) -> None:
        """Events appended while a request is in flight are not settled with it."""
        await box.append(range(3))
        await box.claim(10)
        await box.append(range(3, 6))
        await box.settle()
        assert (await box.claim(10)).bodies == bodies(range(3, 6))


class TestTimestamps:
    """`claim` returns the true time of events whose timestamp the relay inserted."""

    NOW = 1_795_420_800_000

    async def append(self, box: Box, numbers: range) -> None:
        await box.outbox.append([event(number, has_inserted_time=number % 2 == 0) for number in numbers])
        await box.seen()

    async def test_timestamp_is_true_time_minus_the_age_of_the_event(self, box: Box) -> None:
        await self.append(box, range(2))
        box.clock.advance(5_000)
        await self.append(box, range(2, 4))
        box.clock.advance(1_000)
        claimed = await box.claim(4, true_ms=self.NOW)
        assert claimed.timestamps == {0: Timestamp(self.NOW - 6_000, True), 2: Timestamp(self.NOW - 1_000, True)}
        assert claimed.bodies == bodies(range(4))

    async def test_no_timestamps_while_the_true_time_is_unknown(self, box: Box) -> None:
        await self.append(box, range(2))
        assert not (await box.claim(2)).timestamps

    async def test_timestamps_are_exact_after_a_restart_and_marked_after_a_reboot(self, box: Box) -> None:
        await self.append(box, range(1))
        box.clock.advance(7_000)
        after = await box.restart_after_kill()
        assert (await after.claim(1, true_ms=self.NOW)).timestamps == {0: Timestamp(self.NOW - 7_000, True)}
        after.outbox.release([after.queues[TV]])
        killed = await after.kill()
        killed.clock.reboot(10)
        rebooted = await killed.start()
        await self.append(rebooted, range(2, 3))
        rebooted.outbox.release([rebooted.queues[TV]])
        timestamps = (await rebooted.claim(2, true_ms=self.NOW)).timestamps
        assert [timestamps[index].same_boot for index in range(2)] == [False, True]
        await close(rebooted)

    async def test_events_that_may_be_delivered_keep_their_timestamps(self, box: Box) -> None:
        await self.append(box, range(1))
        before = await box.claim(1, true_ms=self.NOW)
        box.outbox.release([before.queue_id], perhaps_delivered=True)
        box.clock.advance(1_000)
        assert (await box.claim(1, true_ms=self.NOW + 50_000)).timestamps == before.timestamps
        after = await box.restart_after_kill()
        assert (await after.claim(1, true_ms=self.NOW + 90_000)).timestamps == before.timestamps
        await close(after)

    async def test_events_that_may_be_delivered_without_timestamps_get_none(self, box: Box) -> None:
        await self.append(box, range(1))
        await box.claim(1)
        after = await box.restart_after_kill()
        assert not (await after.claim(1, true_ms=self.NOW)).timestamps
        await close(after)

    async def test_undelivered_events_get_new_timestamps(self, box: Box) -> None:
        await self.append(box, range(2))
        before = await box.claim(1)
        box.outbox.release([before.queue_id])
        assert (await box.claim(1, true_ms=self.NOW)).timestamps == {0: Timestamp(self.NOW, True)}
        await box.settle()
        box.clock.advance(10)
        await self.append(box, range(2, 3))
        assert (await box.claim(2, true_ms=self.NOW)).timestamps == {1: Timestamp(self.NOW, True)}

    async def test_requeued_dead_letter_keeps_the_mark_of_its_timestamp(self, box: Box) -> None:
        await self.append(box, range(1))
        await box.claim(1)
        await box.settle(delivered=False, dead={0: Dead("refused", 422, "no")})
        await box.outbox.requeue(Selection(all=True), 10)
        await box.seen()
        assert (await box.claim(1, true_ms=self.NOW)).timestamps == {0: Timestamp(self.NOW, False)}


class TestJournal:
    async def test_load_after_a_kill_returns_the_same_requests(self, box: Box) -> None:
        await box.append(range(10), TV)
        await box.append(range(10, 20), PHONE)
        await box.claim(3, PHONE)
        await box.settle(key=PHONE)
        await box.outbox.claim([ClaimPart(box.queues[PHONE], 2), ClaimPart(box.queues[TV], 4)])
        await box.append(range(20, 30), TV)
        after = await box.restart_after_kill()
        ((first, second),) = after.loaded.unsettled
        assert (first, second) == (ClaimPart(box.queues[PHONE], 2), ClaimPart(box.queues[TV], 4))
        again = await after.outbox.claim([first, second])
        assert [list(each.bodies) for each in again] == [bodies([13, 14], PHONE), bodies(range(4))]
        await close(after)

    async def test_load_returns_the_oldest_request_first(self, box: Box) -> None:
        await box.append(range(4), TV)
        await box.append(range(4, 8), PHONE)
        await box.claim(1, PHONE)
        await box.claim(2, TV)
        after = await box.restart_after_kill()
        assert after.loaded.unsettled == [[ClaimPart(box.queues[PHONE], 1)], [ClaimPart(box.queues[TV], 2)]]
        await close(after)

    async def test_claim_and_settle_store_the_rate_window(self, box: Box) -> None:
        await box.append(range(4), TV)
        await box.append(range(4, 8), PHONE)
        await box.claim(1, TV, window=b"taken")
        await box.claim(1, PHONE, window=b"taken")
        await box.settle(key=PHONE, window=b"settled")
        after = await box.restart_after_kill()
        assert {queue.key: (queue.window, queue.shift_ms) for queue in after.loaded.queues} == {
            TV: (b"taken", 0),
            PHONE: (b"settled", 0),
        }
        rebooted = await after.kill()
        rebooted.clock.reboot(1_000)
        await rebooted.start()
        assert [queue.shift_ms for queue in rebooted.loaded.queues] == [rebooted.shift_after_reboot()] * 2
        await close(rebooted)

    async def test_load_after_a_clean_stop_returns_unsettled_requests(self, box: Box) -> None:
        await box.append(range(4))
        await box.claim(2)
        await box.restart()
        assert box.loaded.unsettled == [[ClaimPart(box.queues[TV], 2)]]

    async def test_requests_returned_by_load_are_not_dropped(self, make_box: MakeBox) -> None:
        box = await make_box(max_age_ms=DAY_MS).start()
        await box.append(range(4))
        await box.claim(2)
        await box.restart()
        box.clock.advance(2 * DAY_MS)
        assert await box.outbox.expire() == 2
        assert (await box.claim(10)).bodies == bodies(range(2))


class TestOmitted:
    async def claim(self, box: Box, events: int, *omitted: int, dead: Dead | None = REFUSED) -> Claimed:
        """Claim events of the TV except some of them, by their index."""
        seqs = (await box.claim(events)).seqs
        box.outbox.release([box.queues[TV]])
        part = ClaimPart(box.queues[TV], events, omitted={seqs[at]: dead for at in omitted})
        (claimed,) = await box.outbox.claim([part])
        assert list(claimed.seqs) == [seq for seq in seqs if seq not in part.omitted]
        return claimed

    async def dead(self, box: Box) -> list[tuple[bytes, str]]:
        return [(letter.body, letter.message) for letter in await box.outbox.dead_letters(ALL, 100)]

    async def test_delivery_moves_omitted_events_to_the_dead_letters(self, box: Box) -> None:
        await box.append(range(6))
        assert (await self.claim(box, 5, 1, 3)).bodies == bodies([0, 2, 4])
        assert box.outbox.ledger().pending == 6
        await box.settle(dead={2: Dead("refused", 202, "late")})
        assert await self.dead(box) == [
            (bodies([4])[0], "late"), (bodies([1])[0], REFUSED.message), (bodies([3])[0], REFUSED.message)
        ]  # fmt: skip
        assert (box.outbox.ledger().delivered, box.outbox.ledger().dead_lettered) == (2, 3)
        assert (await box.claim(9)).bodies == bodies([5])
        box.check()

    async def test_release_leaves_omitted_events_at_their_place(self, box: Box) -> None:
        await box.append(range(4))
        await self.claim(box, 3, 0, 2)
        box.outbox.release([box.queues[TV]])
        assert (await box.claim(9)).bodies == bodies(range(4))

    async def test_a_rejected_event_of_the_remainder_moves_no_omitted_event(self, box: Box) -> None:
        await box.append(range(4))
        await self.claim(box, 4, 0)
        await box.settle(delivered=False, dead={1: REFUSED})
        assert await self.dead(box) == [(bodies([2])[0], REFUSED.message)]
        assert (await box.claim(9)).bodies == bodies([0, 1, 3])

    async def test_omitted_events_without_a_reason_stay_pending(self, box: Box) -> None:
        await box.append(range(7))
        assert (await self.claim(box, 6, 2, 4, dead=None)).bodies == bodies([0, 1, 3, 5])
        await box.settle(dead={2: REFUSED})
        assert box.backlog[TV][0] == 3
        assert [await box.outbox.find(event_id(number)) for number in range(7)] == [
            "delivered", "delivered", "pending", "dead_lettered", "pending", "delivered", "pending"
        ]  # fmt: skip
        assert await box.append(range(7)) == 7
        box.check()
        after = await box.restart_after_kill()
        after.check()
        assert await after.append(range(7)) == 7
        assert await after.outbox.find(event_id(5)) == "delivered"
        assert (await after.claim(9)).bodies == bodies([2, 4, 6])
        await close(after)

    async def test_newest_event_delivered_ahead_keeps_its_number(self, box: Box) -> None:
        await box.append(range(2))
        await self.claim(box, 2, 0, dead=None)
        await box.settle()
        after = await box.restart_after_kill()
        await after.append([2])
        after.check()
        assert (await after.claim(9)).bodies == bodies([0, 2])
        await close(after)

    async def test_a_part_may_omit_all_its_events(self, box: Box) -> None:
        await box.append(range(2))
        await box.append([2], PHONE)
        await self.claim(box, 2, 0, 1)
        await box.claim(1, PHONE)
        await box.outbox.settle([Settled(box.queues[key], True, {}, b"") for key in (TV, PHONE)])
        assert (box.outbox.ledger().delivered, box.outbox.ledger().dead_lettered) == (1, 2)
        box.check()

    async def test_load_after_a_kill_returns_the_same_remainder(self, box: Box) -> None:
        await box.append(range(6))
        claimed = await self.claim(box, 4, 0, 3)
        await box.append([6])
        after = await box.restart_after_kill()
        ((part,),) = after.loaded.unsettled
        assert (part.events, dict(part.omitted)) == (4, {claimed.seqs[0] - 1: REFUSED, claimed.seqs[-1] + 1: REFUSED})
        (again,) = await after.outbox.claim([part])
        assert again.bodies == claimed.bodies == bodies([1, 2])
        await after.settle()
        assert sorted(body for body, _ in await self.dead(after)) == bodies([0, 3])
        assert (await after.claim(9)).bodies == bodies([4, 5, 6])
        after.check()
        await close(after)

    async def test_long_messages_are_cut_in_the_journal(self, box: Box) -> None:
        long = Dead("refused", 422, "x" * 256)
        await box.append(range(100))
        await self.claim(box, 100, *range(99), dead=long)
        after = await box.restart_after_kill()
        ((part,),) = after.loaded.unsettled
        assert {dead.message for dead in part.omitted.values() if dead} == {"x" * (8192 // 99)}
        await close(after)

    async def test_omitted_events_are_not_dropped(self, make_box: MakeBox) -> None:
        box = await make_box(max_age_ms=DAY_MS).start()
        await box.append(range(4))
        await self.claim(box, 2, 0)
        box.clock.advance(2 * DAY_MS)
        assert await box.outbox.expire() == 2
        await box.settle()
        box.check()

    async def test_seqs_that_are_not_claimed_are_ignored(self, box: Box) -> None:
        await box.append(range(4))
        part = ClaimPart(box.queues[TV], 2, omitted={99: REFUSED, 4: REFUSED})
        assert (await box.outbox.claim([part]))[0].bodies == bodies([0, 1])
        await box.settle()
        assert (await box.claim(9)).bodies == bodies([2, 3])

    async def test_a_corrupt_event_of_the_remainder_does_not_change_which_events_are_omitted(
        self, make_box: MakeBox
    ) -> None:
        box = await make_box().start()
        await box.append(range(5))
        seqs = (await box.claim(4)).seqs
        await box.outbox.close()
        box.corrupt(1)
        box.outbox = box.make()
        await box.start()
        part = ClaimPart(box.queues[TV], 4, omitted={seqs[2]: REFUSED})
        assert (await box.outbox.claim([part]))[0].bodies == bodies([0, 3])
        await box.settle(dead={1: Dead("refused", 202, "second")})
        reasons = {letter.body[:6]: letter.reason for letter in await box.outbox.dead_letters(ALL, 9)}
        assert sorted(reasons.values()) == ["corrupt", "refused", "refused"]
        assert await box.outbox.find(event_id(0)) == "delivered"
        assert (await box.claim(9)).bodies == bodies([4])


class TestCorrupt:
    async def test_corrupt_event_becomes_a_dead_letter(self, box: Box) -> None:
        await box.append(range(5))
        await box.outbox.close()
        box.corrupt(2)
        box.outbox = box.make()
        await box.start()
        assert (await box.claim(4)).bodies == bodies([0, 1, 3])
        assert box.outbox.ledger() == Ledger(accepted=5, dead_lettered=1, pending=4)
        (letter,) = await box.outbox.dead_letters(ALL, 10)
        assert letter.reason == "corrupt"
        assert await box.outbox.find(event_id(2)) == "dead_lettered"
        await box.settle()
        assert (await box.claim(10)).bodies == bodies([4])
        box.check()

    async def test_nothing_is_in_flight_if_all_events_are_corrupt(self, box: Box) -> None:
        await box.append([1])
        await box.outbox.close()
        box.corrupt(1)
        box.outbox = box.make()
        await box.start()
        assert list((await box.claim(4)).bodies) == []
        await box.append([2])
        assert (await box.claim(4)).bodies == bodies([2])


class TestDedupe:
    async def test_duplicate_is_counted_and_not_stored(self, box: Box) -> None:
        await box.append(range(3))
        assert await box.append([1, 2, 3]) == 2
        assert (await box.claim(10)).bodies == bodies(range(4))
        assert box.outbox.ledger().accepted == 4

    async def test_duplicates_within_one_call_and_within_one_commit(self, box: Box) -> None:
        calls = [box.outbox.append(events(numbers)) for numbers in ([1, 1, 2], [2, 3], [3])]
        assert [result.duplicates for result in await asyncio.gather(*calls)] == [1, 1, 1]
        await box.seen()
        assert (await box.claim(10)).bodies == bodies([1, 2, 3])

    async def test_duplicate_of_an_uncommitted_event_succeeds_with_its_commit(self, box: Box) -> None:
        first, again = box.outbox.append([event(1)]), box.outbox.append([event(1)])
        assert not again.done()
        assert [(await first).duplicates, (await again).duplicates] == [0, 1]

    async def test_duplicate_of_a_committed_event_succeeds_at_once(self, box: Box) -> None:
        await box.append([1])
        assert box.outbox.append([event(1)]).done()

    @pytest.mark.parametrize("deliver", [False, True])
    async def test_across_a_restart_and_after_delivery(self, box: Box, deliver: bool) -> None:
        await box.append(range(600))
        if deliver:
            await box.deliver(600)
            await box.append([1000])
        after = await box.restart_after_kill()
        assert await after.append([0, 599, 2000]) == 2
        await after.restart()
        assert await after.append([0, 599, 2000]) == 3
        await close(after)

    async def test_ids_outside_the_window_are_forgotten(self, make_box: MakeBox) -> None:
        box = await make_box(dedupe_window=10).start()
        await box.append(range(15))
        assert await box.append([5, 14]) == 2
        assert await box.append([4]) == 0
        await box.restart()
        assert await box.append([6, 4]) == 2
        assert await box.append([5]) == 0

    async def test_duplicate_of_a_dead_letter_is_not_stored(self, box: Box) -> None:
        await box.append(range(3))
        await box.claim(3)
        await box.settle(delivered=False, dead={0: REFUSED})
        await box.outbox.discard(ALL, 10)
        await box.restart()
        assert await box.append([0]) == 1


def conflicts(box: Box) -> float:
    return box.metrics.event_id_conflicts._value.get()


class TestConflicts:
    """Events with the same number have the same id. Events of another device have other bytes."""

    async def test_event_with_a_stored_id_and_other_bytes_is_counted_and_not_stored(self, box: Box) -> None:
        await box.append(range(3))
        assert await box.append([1], PHONE) == 1
        assert conflicts(box) == 1
        assert box.outbox.ledger() == Ledger(accepted=3, pending=3)
        assert await box.append([1]) == 1
        assert conflicts(box) == 1, "a repetition is no conflict"

    async def test_conflict_is_detected_among_new_events_and_within_one_commit(self, box: Box) -> None:
        appended = [box.outbox.append([event(1), event(1), event(1, PHONE)]), box.outbox.append([event(1, PHONE)])]
        assert [result.duplicates for result in await asyncio.gather(*appended)] == [2, 1]
        assert conflicts(box) == 2
        assert (await box.outbox.append([event(2), event(1, PHONE)])).duplicates == 1
        assert conflicts(box) == 3

    async def test_inserted_timestamp_causes_no_conflict(self, box: Box) -> None:
        """The time of receipt differs between repetitions. The outbox compares the received bytes."""
        first = Event(event_id(1), TV, b'{"occurred_at":"first"}', has_inserted_time=True, received_crc=7)
        await box.outbox.append([first])
        again = first._replace(body=b'{"occurred_at":"later"}')
        assert (await box.outbox.append([again])).duplicates == 1
        assert conflicts(box) == 0
        after = await box.restart_after_kill()
        assert (await after.outbox.append([again])).duplicates == 1
        assert conflicts(after) == 0
        assert (await after.outbox.append([again._replace(received_crc=8)])).duplicates == 1
        assert conflicts(after) == 1
        await close(after)

    @pytest.mark.parametrize("delivered", [0, 1, 600])
    async def test_across_a_restart_and_after_delivery(self, box: Box, delivered: int) -> None:
        await box.append(range(600))
        if delivered:
            await box.deliver(delivered)
            await box.append([1000])
        after = await box.restart_after_kill()
        assert await after.append([0, 599]) == 2
        assert conflicts(after) == 0
        assert await after.append([0, 599], PHONE) == 2
        assert conflicts(after) == 2
        await after.restart()
        assert await after.append([0, 599, 2000], PHONE) == 2
        assert conflicts(after) == 4
        await close(after)

    async def test_conflict_with_a_requeued_dead_letter(self, box: Box) -> None:
        await box.append(range(3))
        await box.claim(3)
        await box.settle(delivered=False, dead={0: REFUSED})
        after = await box.restart_after_kill()
        await after.append([0], PHONE)
        assert conflicts(after) == 1
        await after.outbox.requeue(ALL, 10)
        await after.append([0], PHONE)
        assert conflicts(after) == 2
        await close(after)

    async def test_conflicts_are_logged_with_both_devices_at_a_limited_rate(self, box: Box) -> None:
        with structlog.testing.capture_logs() as lines:
            await box.append(range(100))
            for number in range(100):
                await box.append([number], PHONE)
            box.clock.advance(10_001)
            await box.append([1], PHONE)
        assert [(line["event_id"], line["device"], line["stored_device"], line["suppressed"]) for line in lines] == [
            (str(UUID(bytes=event_id(0))), "1/ios/phone-1", "1/tv/tv-1", 0),
            (str(UUID(bytes=event_id(1))), "1/ios/phone-1", "1/tv/tv-1", 99),
        ]
        assert conflicts(box) == 101


class TestFind:
    async def test_find_returns_each_state_of_an_event(self, make_box: MakeBox) -> None:
        box = await make_box(max_age_ms=DAY_MS).start()
        await box.append(range(3))
        find = box.outbox.find
        assert [await find(event_id(number)) for number in range(4)] == ["pending", "pending", "pending", None]
        await box.claim(2)
        await box.settle(dead={1: REFUSED})
        assert [await find(event_id(number)) for number in range(3)] == ["delivered", "dead_lettered", "pending"]
        await box.outbox.requeue(ALL, 10)
        assert await find(event_id(1)) == "pending"

    @pytest.mark.parametrize("killed", [False, True])
    async def test_dropped_event_can_be_stored_again(self, make_box: MakeBox, killed: bool) -> None:
        """G3: only the app still has the event."""
        box = await make_box(max_age_ms=DAY_MS).start()
        await box.append([1])
        box.clock.advance(DAY_MS + 1)
        await box.append([2])
        assert await box.outbox.expire() == 1
        if killed:
            box = await box.restart_after_kill()
        assert await box.outbox.find(event_id(1)) == "dropped"
        assert await box.outbox.find(event_id(2)) == "pending"
        assert await box.append([1]) == 0, "it is no duplicate"
        assert await box.append([1]) == 1, "now it is one"
        assert await box.outbox.find(event_id(1)) == "pending"
        box = await box.restart_after_kill()
        assert await box.append([1, 2]) == 2
        assert await box.deliver_all() == bodies([2, 1])
        assert await box.outbox.find(event_id(1)) == "delivered"
        await close(box)

    async def test_requeued_and_dropped_event_can_be_stored_again(self, make_box: MakeBox) -> None:
        """The id has two slots in the dedupe window. Neither makes the event a duplicate."""
        box = await make_box(max_age_ms=DAY_MS).start()
        await box.append([1])
        await box.claim(1)
        await box.settle(dead={0: REFUSED})
        assert await box.outbox.requeue(ALL, 10) == 1
        assert await box.append([1]) == 1
        box.clock.advance(DAY_MS + 1)
        assert await box.outbox.expire() == 1
        box = await box.restart_after_kill()
        assert await box.outbox.find(event_id(1)) == "dropped"
        assert await box.append([1]) == 0
        await close(box)

    async def test_find_works_after_a_restart(self, box: Box) -> None:
        await box.append(range(3))
        await box.claim(2)
        await box.settle(dead={1: REFUSED})
        after = await box.restart_after_kill()
        states = [await after.outbox.find(event_id(number)) for number in range(3)]
        assert states == ["delivered", "dead_lettered", "pending"]
        await close(after)


class TestAge:
    async def test_expired_events_are_dropped_and_counted(self, make_box: MakeBox) -> None:
        box = await make_box(max_age_ms=DAY_MS).start()
        await box.append(range(5), TV)
        box.clock.advance(DAY_MS // 2)
        await box.append(range(5, 8), PHONE)
        assert await box.outbox.expire() == 0
        box.clock.advance(DAY_MS // 2 + 1)
        assert await box.outbox.expire() == 5
        assert box.outbox.ledger() == Ledger(accepted=8, dropped=5, pending=3)
        assert box.backlog[TV] == (0, 0)
        assert box.metrics.events_dropped.labels("age")._value.get() == 5
        box.check()

    async def test_expired_events_in_flight_are_not_dropped(self, make_box: MakeBox) -> None:
        box = await make_box(max_age_ms=DAY_MS).start()
        await box.append(range(6))
        await box.claim(2)
        box.clock.advance(2 * DAY_MS)
        assert await box.outbox.expire() == 4
        assert box.backlog[TV][0] == 2
        box.check()
        await box.settle()
        assert box.outbox.ledger() == Ledger(accepted=6, delivered=2, dropped=4)
        box.check()

    async def test_find_after_a_kill_returns_events_that_expired_behind_a_request(self, make_box: MakeBox) -> None:
        """Storing the ids of a range again, or of its first event alone, does not lose the other ids."""
        box = await make_box(max_age_ms=DAY_MS).start()
        await box.append(range(8))
        await box.claim(4)
        box.clock.advance(2 * DAY_MS)
        assert await box.outbox.expire() == 4
        await box.outbox.expire()
        await box.settle(delivered=False, dead={0: Dead("refused", 422, "no")})
        after = await box.restart_after_kill()
        states = [await after.outbox.find(event_id(number)) for number in range(8)]
        assert states == ["dead_lettered", *["pending"] * 3, *["dropped"] * 4]
        assert await after.append(range(8)) == 4
        await close(after)

    @pytest.mark.parametrize("jump_ms", [-20_000 * DAY_MS, 10 * DAY_MS, 4_000 * DAY_MS])
    async def test_jump_of_the_wall_clock_drops_nothing(self, make_box: MakeBox, jump_ms: int) -> None:
        box = await make_box(max_age_ms=DAY_MS).start()
        await box.append(range(3))
        box.clock.wall += jump_ms
        await box.outbox.check()
        assert await box.outbox.expire() == 0
        await box.restart()
        assert await box.outbox.expire() == 0
        box.clock.advance(DAY_MS + 1)
        assert await box.outbox.expire() == 3

    @pytest.mark.parametrize(
        ("off_ms", "dropped"), [(DAY_MS - 10, 0), (DAY_MS + 10, 3), (-DAY_MS, 0), (40 * DAY_MS, 0)]
    )
    async def test_time_without_power_counts_if_the_wall_clock_is_plausible(
        self, make_box: MakeBox, off_ms: int, dropped: int
    ) -> None:
        box = await make_box(max_age_ms=DAY_MS).start()
        await box.append(range(3))
        after = await box.kill()
        after.clock.reboot(off_ms)
        await after.start()
        assert await after.outbox.expire() == dropped
        await close(after)

    async def test_age_of_the_oldest_event(self, box: Box) -> None:
        assert box.outbox.gauges().oldest_age_ms == 0
        await box.append([1])
        box.clock.advance(700)
        await box.append([2])
        box.clock.advance(300)
        await box.outbox.check()
        assert box.outbox.gauges().oldest_age_ms == 1_000
        await box.deliver(1)
        await box.outbox.check()
        assert box.outbox.gauges().oldest_age_ms == 300
        await box.restart()
        await box.outbox.check()
        assert box.outbox.gauges().oldest_age_ms == 300
        await box.deliver(1)
        assert box.outbox.gauges().oldest_age_ms == 0


async def fill(box: Box, keys: Sequence[DeviceKey]) -> int:
    """Append events of the devices in turn until one is rejected. Return the number of stored events."""
    for number in range(100_000):
        try:
            await box.append([number], keys[number % len(keys)], body_bytes=2_000)
        except OutboxFull:
            return number
    raise AssertionError("never full")


class TestFull:
    async def test_full_outbox_rejects_events_until_it_has_drained(self, make_box: MakeBox) -> None:
        box = await make_box(max_size_bytes=512 * KIB, when_full="reject").start()
        number = 0
        for _ in range(3):
            kept = []
            while True:
                batch = range(number, number + 20)
                number += 20
                try:
                    await box.append(batch, body_bytes=400)
                except OutboxFull:
                    break
                kept += batch
                assert len(kept) < 2_000, "the outbox is never full"
            assert not box.outbox.gauges().writable or len(kept) > 200
            assert box.outbox.gauges().bytes <= 512 * KIB
            assert await box.deliver_all() == bodies(kept, body_bytes=400)
            box.check()
        assert box.outbox.ledger().dropped == 0

    async def test_noisy_device_leaves_space_for_other_devices(self, make_box: MakeBox) -> None:
        box = await make_box(max_size_bytes=2 * 1024 * KIB, when_full="reject").start()
        number = await fill(box, [TV])
        assert not box.outbox.gauges().writable
        assert box.outbox.room()
        assert await box.append(range(100_000, 100_100), PHONE, body_bytes=400) == 0
        with pytest.raises(OutboxShareUsed):
            await box.append([number], TV)
        with pytest.raises(OutboxShareUsed):
            await box.outbox.append([event(200_000, PHONE), event(number, TV)])
        assert await box.outbox.find(event_id(200_000)) is None
        await box.deliver(number - 100, TV)
        assert await box.append([number], TV) == 0

    async def test_several_devices_together_can_use_more_than_one(self, make_box: MakeBox) -> None:
        alone = await make_box(max_size_bytes=2 * 1024 * KIB, when_full="reject").start()
        even = await make_box(max_size_bytes=2 * 1024 * KIB, when_full="reject").start()
        assert await fill(even, [(1, "tv", f"tv-{n}") for n in range(40)]) > await fill(alone, [TV])

    async def test_a_repeated_event_that_its_own_append_drops_is_stored(self, make_box: MakeBox) -> None:
        box = await make_box(max_size_bytes=512 * KIB, when_full="drop_oldest").start()
        number = 0
        while not box.outbox.ledger().dropped:
            number += 1
            await box.append([number], body_bytes=20_000)
        oldest = box.outbox.ledger().dropped + 1
        assert await box.append([oldest, 1_000], body_bytes=20_000) == 0
        assert [await box.outbox.find(event_id(each)) for each in (oldest, 1_000)] == ["pending", "pending"]
        box.check()

    async def test_drop_oldest_drops_and_counts_the_oldest_events(self, make_box: MakeBox) -> None:
        box = await make_box(max_size_bytes=512 * KIB, when_full="drop_oldest").start()
        for number in range(0, 4_000, 20):
            key = TV if number % 40 else PHONE
            await box.append(range(number, number + 20), key, body_bytes=400)
            assert box.outbox.gauges().bytes <= 512 * KIB
        ledger = box.outbox.ledger()
        assert ledger.accepted == 4_000
        assert ledger.dropped == 4_000 - ledger.pending
        assert box.metrics.events_dropped.labels("size")._value.get() == ledger.dropped
        assert sum(count for count, _ in box.backlog.values()) == ledger.pending
        box.check()
        kept = sorted(await box.deliver_all())
        newest = range(4_000 - ledger.pending, 4_000)
        assert kept == sorted(event(n, PHONE if n // 20 % 2 == 0 else TV, 400).body for n in newest)

    async def test_drop_oldest_does_not_drop_events_in_flight(self, make_box: MakeBox) -> None:
        box = await make_box(max_size_bytes=512 * KIB, when_full="drop_oldest").start()
        await box.append(range(50), body_bytes=400)
        claimed = await box.claim(10)
        for number in range(50, 6_000, 50):
            await box.append(range(number, number + 50), body_bytes=400)
        assert box.outbox.ledger().dropped > 40
        after = await box.restart_after_kill()
        assert after.loaded.unsettled == [[ClaimPart(box.queues[TV], 10)]]
        assert (await after.claim(10)).bodies == claimed.bodies == bodies(range(10), body_bytes=400)
        await after.settle()
        after.check()
        await close(after)

    async def test_duplicate_succeeds_in_a_full_outbox(self, make_box: MakeBox) -> None:
        """The app sends the event again until the relay confirms that it is stored."""
        box = await make_box(max_size_bytes=512 * KIB).start()
        stored = await fill(box, [TV])
        assert await box.append([0, stored - 1]) == 2

    async def test_append_larger_than_the_outbox_is_rejected(self, make_box: MakeBox) -> None:
        box = await make_box(max_size_bytes=512 * KIB, when_full="drop_oldest").start()
        with pytest.raises(OutboxFull):
            await box.append(range(20), body_bytes=60 * KIB)
        assert await box.append([100]) == 0


class TestMaxDevices:
    async def test_at_the_limit_known_devices_are_served_and_further_ones_are_not(self, make_box: MakeBox) -> None:
        box = await make_box(max_devices=2).start()
        await box.append([1], TV)
        await box.append([2], PHONE)
        with pytest.raises(TooManyDevices, match=r'the device "tablet" is new.*outbox\.max_devices = 2'):
            await box.append([3], TABLET)
        assert await box.outbox.find(event_id(3)) is None
        assert await box.append([4, 5], TV) == 0
        assert (box.outbox.gauges().devices, box.outbox.gauges().max_devices) == (2, 2)
        assert box.outbox.gauges().writable and box.outbox.room()
        box.check()

    async def test_an_append_with_one_further_device_is_rejected_as_a_whole(self, make_box: MakeBox) -> None:
        box = await make_box(max_devices=1).start()
        await box.append([1], TV)
        with pytest.raises(TooManyDevices):
            await box.outbox.append([event(2, TV), event(3, PHONE)])
        assert box.outbox.ledger().accepted == 1

    async def test_appends_of_one_commit_share_the_limit(self, make_box: MakeBox) -> None:
        box = await make_box(max_devices=3).start()
        keys = [(1, "tv", f"tv-{number % 5}") for number in range(10)]
        appends = [box.outbox.append([event(number, key)]) for number, key in enumerate(keys)]
        results = await asyncio.gather(*appends, return_exceptions=True)
        assert [isinstance(each, TooManyDevices) for each in results] == [False, False, False, True, True] * 2
        await box.seen()
        assert (box.outbox.gauges().devices, box.outbox.ledger().accepted) == (3, 6)

    async def test_a_repeated_event_of_a_forgotten_device_is_a_duplicate(self, make_box: MakeBox) -> None:
        box = await make_box(max_devices=1).start()
        await box.append([1], TV)
        await box.deliver(1, TV)
        await box.outbox.forget([box.queues[TV]])
        await box.append([2], PHONE)
        assert await box.append([1], TV) == 1
        assert await asyncio.gather(box.append([1], TV), box.append([3], PHONE)) == [1, 0]

    async def test_a_forgotten_device_makes_room_for_another(self, make_box: MakeBox) -> None:
        box = await make_box(max_devices=1).start()
        await box.append([1], TV)
        await box.deliver(1, TV)
        with pytest.raises(TooManyDevices):
            await box.append([2], PHONE)
        await box.outbox.forget([box.queues[TV]])
        assert await box.append([2], PHONE) == 0

    async def test_a_dead_letter_of_a_further_device_is_not_requeued(self, make_box: MakeBox) -> None:
        box = await make_box(max_devices=1).start()
        await box.append([1], TV)
        await box.claim(1, TV)
        await box.settle(delivered=False, dead={0: REFUSED}, key=TV)
        await box.outbox.forget([box.queues[TV]])
        await box.append([2], PHONE)
        with pytest.raises(TooManyDevices):
            await box.outbox.requeue(Selection(all=True), 10)
        await box.deliver(1, PHONE)
        await box.outbox.forget([box.queues[PHONE]])
        assert await box.outbox.requeue(Selection(all=True), 10) == 1
        box.check()

    async def test_a_lower_limit_keeps_the_devices_that_exist(self, make_box: MakeBox) -> None:
        box = await make_box(max_devices=3).start()
        for number, key in enumerate((TV, PHONE, TABLET)):
            await box.append([number], key)
        box.settings = replace(box.settings, max_devices=1)
        await box.restart()
        assert box.outbox.gauges().devices == 3
        assert await box.append([9], TABLET) == 0
        with pytest.raises(TooManyDevices):
            await box.append([10], (2, "tv", "tv-1"))
        box.outbox.configure(replace(box.settings, max_devices=4))
        assert await box.append([10], (2, "tv", "tv-1")) == 0
        assert len(await box.deliver_all()) == 5


class TestConfigure:
    async def test_raised_limit_allows_appends(self, make_box: MakeBox) -> None:
        box = await make_box(max_size_bytes=512 * KIB).start()
        stored = await fill(box, [TV])
        box.outbox.configure(OutboxSettings(max_size_bytes=2 * 1024 * KIB))
        assert await fill(box, [TV]) > 2 * stored
        assert box.outbox.gauges().max_bytes == 2 * 1024 * KIB
        box.check()

    async def test_lowered_limit_rejects_appends_and_allows_deliveries(self, make_box: MakeBox) -> None:
        box = await make_box(max_size_bytes=4 * 1024 * KIB).start()
        stored = await fill(box, [TV])
        box.outbox.configure(OutboxSettings(max_size_bytes=1024 * KIB))
        with pytest.raises(OutboxFull):
            await box.append([100_000])
        assert len(await box.deliver_all(100)) == stored
        assert await box.append([100_000]) == 0

    async def test_limit_lowered_by_a_restart_rejects_appends_and_allows_deliveries(self, make_box: MakeBox) -> None:
        box = await make_box(max_size_bytes=4 * 1024 * KIB).start()
        stored = await fill(box, [TV])
        box.settings = replace(box.settings, max_size_bytes=1024 * KIB)
        await box.restart()
        with pytest.raises(OutboxFull):
            await box.append([100_000])
        assert len(await box.deliver_all(20)) == stored
        assert await box.append([100_000]) == 0

    async def test_drop_oldest_can_be_set_when_the_outbox_is_full(self, make_box: MakeBox) -> None:
        box = await make_box(max_size_bytes=512 * KIB).start()
        stored = await fill(box, [TV])
        box.outbox.configure(OutboxSettings(max_size_bytes=512 * KIB, when_full="drop_oldest"))
        for number in range(100_000, 100_050):
            assert await box.append([number], body_bytes=2_000) == 0
        assert 0 < box.outbox.ledger().dropped < stored
        box.check()

    async def test_lowered_max_age_drops_events_at_the_next_expire(self, make_box: MakeBox) -> None:
        box = await make_box().start()
        await box.append([1])
        box.clock.advance(DAY_MS)
        box.outbox.configure(OutboxSettings(max_age_ms=DAY_MS // 2))
        assert await box.outbox.expire() == 1

    async def test_other_settings_do_not_change(self, make_box: MakeBox) -> None:
        box = await make_box(dedupe_window=10).start()
        await box.append([1])
        box.outbox.configure(OutboxSettings(path=Path("elsewhere.db"), dedupe_window=1))
        await box.append([2])
        assert await box.append([1]) == 1


class TestDeadLetters:
    async def dead_lettered_rows(self, box: Box) -> None:
        """Make dead letters: events 0 and 1 of the TV (refused), event 10 of the phone (too_large)."""
        await box.append(range(5), TV)
        await box.append(range(10, 13), PHONE)
        await box.claim(2, TV)
        await box.settle(dead={0: REFUSED, 1: REFUSED}, key=TV)
        await box.claim(1, PHONE)
        await box.settle(dead={0: Dead("too_large", 413, "4 MiB")}, key=PHONE)

    async def test_selection_matches_all_given_fields(self, box: Box) -> None:
        await self.dead_lettered_rows(box)
        everything = await box.outbox.dead_letters(ALL, 10)
        assert [letter.body for letter in everything] == [event(0).body, event(1).body, event(10, PHONE).body]
        first, second, third = everything

        async def chosen(selection: Selection, limit: int = 10, after: int = 0) -> list[object]:
            return list(await box.outbox.dead_letters(selection, limit, after))

        assert await chosen(Selection(device_id="tv-1")) == [first, second]
        assert await chosen(Selection(reason="too_large")) == [third]
        assert await chosen(Selection(event_id=event_id(1))) == [second]
        assert await chosen(Selection(event_id=event_id(1), reason="too_large")) == []
        assert await chosen(Selection(event_id=event_id(2))) == []
        assert await chosen(Selection(ids=[second.id, third.id])) == [second, third]
        assert await chosen(Selection(ids=[second.id], reason="too_large")) == []
        assert await chosen(Selection()) == []
        assert await chosen(ALL, limit=1, after=first.id) == [second]
        newest = Selection(all=True, newest_first=True)
        assert await chosen(newest, limit=2) == [third, second]
        assert await chosen(newest, after=second.id) == [first]
        assert await chosen(Selection(reason="refused", newest_first=True), limit=1) == [second]
        assert (third.status, third.message, third.device_key) == (413, "4 MiB", PHONE)
        assert third.dead_at == "2026-11-18T11:06:40.000Z"

    async def test_requeued_event_is_pending_at_the_end_of_its_queue(self, box: Box) -> None:
        await self.dead_lettered_rows(box)
        assert await box.outbox.requeue(Selection(device_id="tv-1"), 10) == 2
        await box.seen()
        assert box.outbox.ledger() == Ledger(accepted=8, requeued=2, dead_lettered=3, pending=7)
        assert box.outbox.gauges().dead_letters == 1
        assert (await box.claim(10)).bodies == bodies([2, 3, 4, 0, 1])
        box.check()
        after = await box.restart_after_kill()
        assert (await after.claim(10)).bodies == bodies([2, 3, 4, 0, 1])
        await close(after)

    async def test_requeue_creates_a_forgotten_queue(self, box: Box) -> None:
        await self.dead_lettered_rows(box)
        await box.deliver_all()
        await box.outbox.forget(list(box.queues.values()))
        assert await box.outbox.requeue(ALL, 10) == 3
        await box.seen()
        assert await box.deliver_all() == [event(0).body, event(1).body, event(10, PHONE).body]
        box.check()

    async def test_requeue_and_discard_stop_at_their_limit(self, box: Box) -> None:
        await self.dead_lettered_rows(box)
        assert await box.outbox.requeue(ALL, 1) == 1
        assert await box.outbox.discard(ALL, 1) == 1
        assert [letter.body for letter in await box.outbox.dead_letters(ALL, 10)] == [event(10, PHONE).body]

    async def test_discarded_dead_letters_stay_in_the_ledger(self, box: Box) -> None:
        await self.dead_lettered_rows(box)
        assert await box.outbox.discard(Selection(reason="refused"), 10) == 2
        assert box.outbox.ledger().dead_lettered == 3
        assert box.outbox.gauges().dead_letters == 1
        box.check()

    async def test_oldest_dead_letters_are_deleted_at_the_limit(self, make_box: MakeBox) -> None:
        box = await make_box(max_dead_letters=3).start()
        await box.append(range(5))
        await box.claim(5)
        await box.settle(dead=dict.fromkeys(range(5), REFUSED))
        assert [letter.body for letter in await box.outbox.dead_letters(ALL, 10)] == bodies([2, 3, 4])
        assert box.metrics.dead_letters_discarded._value.get() == 2
        assert box.outbox.ledger().dead_lettered == 5
        box.check()

    async def test_a_device_with_many_dead_letters_loses_its_own_oldest(self, make_box: MakeBox) -> None:
        """Also after a restart, and after an operator has deleted a dead letter."""
        box = await make_box(max_dead_letters=6).start()
        await box.append([100, 101], PHONE)
        await box.claim(2, PHONE)
        await box.settle(dead={0: REFUSED, 1: REFUSED}, key=PHONE)
        for start in (0, 10, 20):
            await box.append(range(start, start + 10))
            await box.claim(10)
            await box.settle(dead=dict.fromkeys(range(10), REFUSED))
            kept = [*bodies([100, 101], PHONE), *bodies(range(start + 6, start + 10))]
            letters = await box.outbox.dead_letters(ALL, 10)
            assert [letter.body for letter in letters] == kept
            if start:
                await box.restart()
            else:
                assert await box.outbox.discard(Selection(ids=(letters[-1].id,)), 1) == 1
        assert box.outbox.gauges().dead_letters == 6
        assert box.outbox.ledger() == Ledger(accepted=32, dead_lettered=32)
        box.check()

    async def test_devices_with_equal_shares_lose_the_oldest_dead_letter(self, make_box: MakeBox) -> None:
        box = await make_box(max_dead_letters=4).start()
        for number in range(6):
            key = PHONE if number % 2 else TV
            await box.append([number], key)
            await box.claim(1, key)
            await box.settle(dead={0: REFUSED}, key=key)
        letters = await box.outbox.dead_letters(ALL, 10)
        assert [letter.body for letter in letters] == [event(n, PHONE if n % 2 else TV).body for n in (2, 3, 4, 5)]


class TestForget:
    async def test_idle_queue_is_forgotten_and_its_deliveries_stay_counted(self, box: Box) -> None:
        await box.append(range(3))
        await box.deliver(3)
        await box.outbox.forget([box.queues[TV]])
        assert box.outbox.ledger() == Ledger(accepted=3, delivered=3)
        await box.restart()
        assert box.loaded.queues == []
        assert box.outbox.ledger() == Ledger(accepted=3, delivered=3)
        await box.append([9])
        assert await box.deliver_all() == bodies([9])

    async def test_a_forgotten_device_that_sends_again_keeps_its_rate_window(self, box: Box) -> None:
        await box.append([1])
        await box.deliver(1)
        await box.outbox.forget([box.queues[TV]])
        await box.append([2])
        await box.claim(1, TV, b"occupied")
        await box.settle(key=TV, window=b"occupied")
        await box.restart()
        assert [(queue.key, queue.window) for queue in box.loaded.queues] == [(TV, b"occupied")]

    async def test_queue_with_pending_events_is_not_forgotten(self, box: Box) -> None:
        await box.append(range(3))
        await box.outbox.forget([box.queues[TV]])
        assert await box.deliver(10) == bodies(range(3))

    async def test_recreated_queue_starts_with_new_events(self, box: Box) -> None:
        await box.append(range(3), TV)
        await box.append(range(3, 6), PHONE)
        await box.deliver(3, PHONE)
        await box.outbox.forget([box.queues[PHONE]])
        await box.restart()
        await box.append([7], PHONE)
        after = await box.restart_after_kill()
        assert await after.deliver(10, PHONE) == bodies([7], PHONE)
        assert await after.deliver(10, TV) == bodies(range(3))
        after.check()
        await close(after)

    async def test_a_start_forgets_idle_devices_with_a_free_window(self, box: Box) -> None:
        for number, key in enumerate((TV, PHONE, TABLET)):
            await box.append([number], key)
        for key, window in ((TV, box.free_window), (PHONE, box.free_window), (TABLET, b"occupied")):
            await box.claim(1, key, window)
            await box.settle(key=key, window=window)
        await box.append([3], PHONE)
        next_id = max(box.queues.values()) + 1
        box.may_forget = lambda window: window == box.free_window
        await box.restart()
        assert {queue.key for queue in box.loaded.queues} == {PHONE, TABLET}
        assert box.outbox.ledger() == Ledger(accepted=4, delivered=3, pending=1)
        box.check()
        await box.append([4], TV)
        assert box.queues[TV] == next_id or not box.numbers_queues
        assert await box.deliver_all() == bodies([4], TV) + bodies([3], PHONE)

    async def test_a_start_in_another_boot_forgets_no_device_with_a_request(self, box: Box) -> None:
        await box.append([1], TV)
        await box.claim(1, TV, b"free")
        await box.settle(key=TV, window=b"free")
        after = await box.kill()
        after.may_forget = lambda window: True
        after.clock.reboot(1_000)
        await after.start()
        assert [(queue.key, queue.shift_ms) for queue in after.loaded.queues] == [(TV, after.shift_after_reboot())]
        await close(after)

    async def test_a_start_forgets_no_device_with_a_request_in_the_journal(self, box: Box) -> None:
        await box.append([1], TV)
        await box.append([2], PHONE)
        for key in (TV, PHONE):
            await box.claim(1, key)
        await box.settle(key=PHONE)
        after = await box.kill()
        after.may_forget = lambda window: True
        await after.start()
        assert [queue.key for queue in after.loaded.queues] == [TV]
        assert len(after.loaded.unsettled) == 1
        await close(after)


class TestLoad:
    async def test_appends_succeed_before_and_during_load(self, box: Box) -> None:
        await box.append(range(0, 20, 2))
        await box.outbox.close()
        box.outbox = box.make()
        await box.outbox.open()
        assert await box.append([1, 3, 4]) == 1
        box.backlog.clear()
        await box.outbox.load(box)
        assert box.backlog[TV][0] == 12
        assert (await box.claim(100)).bodies == bodies([*range(0, 20, 2), 1, 3])
        box.check()

    async def test_an_empty_outbox(self, box: Box) -> None:
        assert (list(box.loaded.queues), list(box.loaded.unsettled)) == ([], [])
        assert box.outbox.ledger() == Ledger()
        assert box.outbox.gauges().writable
