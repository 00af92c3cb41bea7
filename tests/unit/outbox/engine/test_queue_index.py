"""The index of device queues, compared with a dictionary of lists. Most queues are in compact form."""

from __future__ import annotations

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st
from relay.outbox.engine.queue_index import Index
from relay.outbox.engine.stored_queue import Flight

FORGOTTEN = 2_000
STEPS = st.lists(
    st.tuples(st.sampled_from(["append", "deliver", "claim", "release", "read", "forget"]), st.integers(1, 12)),
    max_size=80,
)


def key(number: int) -> tuple[int, str, str]:
    return (1, "tv", f"tv-{number}")


@given(STEPS)
def test_index_behaves_as_a_dictionary_of_lists(steps: list[tuple[str, int]]) -> None:
    index, model, seq = Index(), dict[int, list[tuple[int, int]]](), 0
    for number in range(1, 13):
        index.add(number, key(number))
        model[number] = []
    for what, number in steps:
        queue = index.find(number) if what != "append" else None
        assert what == "append" or (queue is None) == (number not in model)
        if number not in model:
            continue
        match what:
            case "append":
                seq += 1
                index.append([seq], [number], [seq % 97])
                model[number].append((seq, seq % 97))
            case "deliver" if model[number] and queue is not None:
                queue.release()
                queue.remove(0, 1)
                del model[number][0]
            case "claim" if queue is not None and queue.in_flight is None:
                queue.claim(Flight(queue.seqs(2)), 0)
            case "release" if queue is not None:
                queue.release()
            case "forget":
                index.calm(number)
                assert index.is_idle(number) == (not model[number])
                if index.is_idle(number):
                    index.forget(number)
                    del model[number]
        index.calm(number)
    assert list(index) == [(n, key(n), len(events), sum(size for _, size in events)) for n, events in model.items()]
    seqs = sorted(seq for events in model.values() for seq, _ in events)
    assert index.first_seq() == index.first_row_seq() == (seqs[0] if seqs else None)
    held = {n: queue.in_flight.seqs for n, queue in index.in_flight().items()}
    for number, events in model.items():
        assert list(index.sizes(number, 9)) == [size for _, size in events[:9]]
        assert [each for each in range(seq + 1) if index.is_pending(number, each)] == [each for each, _ in events]
    for last in (0, seq // 2, seq):
        later = {n: [each for each, _ in events if each <= last][len(held.get(n, ())) :] for n, events in model.items()}
        assert {n: list(rest) for n, _, rest in index.pending_to(last) if rest} == {n: r for n, r in later.items() if r}


def test_oldest_droppable_events_of_all_queues_exclude_events_in_flight() -> None:
    index = Index()
    for number in (1, 2, 3):
        index.add(number, key(number))
    index.append(range(1, 7), [1, 1, 2, 2, 1, 3], [100] * 6)
    first, second = index.queue(1), index.queue(2)
    first.in_flight = Flight(first.seqs(1))
    assert index.oldest_droppable(1) == 2
    assert index.oldest_droppable(250) == 4
    assert index.oldest_droppable(10_000) == 6
    second.in_flight = Flight(second.seqs(2))
    first.in_flight = Flight(first.seqs(3))
    assert index.oldest_droppable(1) == 6
    index.queue(3).in_flight = Flight(index.queue(3).seqs(1))
    assert index.oldest_droppable(1) is None


def test_a_queue_with_one_pending_event_becomes_quiet_again() -> None:
    index = Index()
    index.add(1, key(1))
    index.append([5, 6], [1, 1], [10, 20])
    queue = index.queue(1)
    index.calm(1)
    assert index.queue(1) is queue, "it has two events"
    queue.remove(0, 1)
    index.calm(1)
    assert index.queue(1) is not queue
    assert (list(index.queue(1).seqs(9)), index.backlog(1)) == ([6], (1, key(1), 1, 20))


def test_a_quiet_queue_takes_at_most_130_bytes_beside_its_device() -> None:
    count = 20_000
    keys = [key(number) for number in range(count)]
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        index = Index()
        for number in range(count):
            index.add(1_000 + number, keys[number])
        index.append(range(count), list(index.by_key.values()), [400] * count)
        for number in range(0, count, 3):
            index.find(1_000 + number)
            index.calm(1_000 + number)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(index) == count
    assert after - before <= 130 * count
