"""Queues in blocks: found by their ids, also after most of them were removed."""

from __future__ import annotations

from random import Random

from relay.outbox.engine.quiet_queues import PendingEvent, QuietQueues

COUNT = 3_000


def key(number: int) -> tuple[int, str, str]:
    return (1, "tv", f"tv-{number}")


def filled() -> QuietQueues:
    """Return COUNT queues with every third id. Each second one has an event; seqs are not in the order of ids."""
    queues = QuietQueues()
    for number in range(COUNT):
        queues.add(3 * number + 1, key(number))
        if number % 2:
            assert queues.append(3 * number + 1, 7 * COUNT - number, number)
    return queues


def test_a_queue_is_found_by_its_id() -> None:
    queues = filled()
    for number in range(0, COUNT, 7):
        assert queues.key_of(3 * number + 1) == key(number)
        assert queues.event_of(3 * number + 1) == (PendingEvent(7 * COUNT - number, number) if number % 2 else None)
        assert queues.key_of(3 * number + 2) is queues.key_of(3 * number) is None
    assert queues.key_of(10**6) is None
    assert not queues.append(4, 1, 1), "it has an event"


def test_removed_queues_are_gone_and_the_others_are_found() -> None:
    queues = filled()
    numbers = list(range(COUNT))
    Random(1).shuffle(numbers)
    gone, left = numbers[: COUNT - 50], sorted(numbers[COUNT - 50 :])
    assert [queues.remove(3 * number + 1) for number in gone] == [key(number) for number in gone]
    assert [number for number in range(COUNT) if queues.key_of(3 * number + 1)] == left
    queues.add(3 * COUNT + 1, key(COUNT))
    assert queues.key_of(3 * COUNT + 1) == key(COUNT)
    for number in (*left, COUNT):
        queues.remove(3 * number + 1)
    assert queues.first_seq() is None
    assert repr(queues) == "<QuietQueues: 0 in 0 blocks>"


def test_events_are_returned_in_the_order_of_their_seqs() -> None:
    queues = filled()
    expected = [PendingEvent(7 * COUNT - number, number) for number in reversed(range(1, COUNT, 2))]
    assert list(queues.in_order()) == expected
    assert queues.first_seq() == expected[0].seq
    assert list(QuietQueues().in_order()) == []
