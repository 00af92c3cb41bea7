"""The dedupe window, compared with a list of all appended ids."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from relay.outbox.engine.dedupe_window import DEAD, DROPPED, DedupeWindow, pack_check, split_ids


def number_id(number: int) -> bytes:
    return (1 << 100 | number).to_bytes(16)


@given(st.integers(1, 12), st.lists(st.lists(st.integers(0, 30), max_size=20), max_size=12))
def test_window_contains_the_last_ids_with_their_latest_seq(window: int, batches: list[list[int]]) -> None:
    """Ids may be repeated, as ids of requeued events are."""
    dedupe_window = DedupeWindow(window)
    seen: list[int] = []
    for batch in batches:
        dedupe_window.extend(len(seen) + 1, [number_id(n) for n in batch], [n + 7 for n in batch])
        seen += batch
    known = seen[-window:]
    assert dedupe_window.known == {number_id(n) for n in known}
    for number in range(31):
        found = dedupe_window.find(number_id(number))
        if number in known:
            assert found is not None
            assert found.seq == len(seen) - seen[::-1].index(number)
            assert found.queue_id == number + 7
        else:
            assert found is None


@given(st.integers(1, 12), st.lists(st.integers(0, 1_000), unique=True, max_size=40), st.data())
def test_packed_content_equals_the_window(window: int, numbers: list[int], data: st.DataObject) -> None:
    dedupe_window = DedupeWindow(window)
    for at, number in enumerate(numbers):
        dedupe_window.extend(at + 1, [number_id(number)], [1], [number + 1])
    first = data.draw(st.integers(1, len(numbers) + 1))
    last = data.draw(st.integers(first - 1, len(numbers)))
    from_seq, ids, marks, checks = dedupe_window.packed(first, last)
    held = range(max(first, len(numbers) - window + 1), last + 1)
    assert split_ids(ids) == [number_id(numbers[seq - 1]) for seq in held]
    assert len(marks) == len(held)
    assert checks == b"".join(pack_check(numbers[seq - 1] + 1) for seq in held)
    assert from_seq == held.start


@given(
    st.integers(1, 8),
    st.lists(st.tuples(st.lists(st.integers(0, 9), max_size=6), st.lists(st.integers(1, 40), max_size=4)), max_size=12),
)
def test_dropped_event_is_unknown_until_it_is_appended_again(
    window: int, rounds: list[tuple[list[int], list[int]]]
) -> None:
    """Dropping the latest slot of an id drops its earlier slots, too: those of a requeued dead letter."""
    dedupe_window = DedupeWindow(window)
    seen: list[int] = []
    dropped: set[int] = set()
    for batch, drops in rounds:
        dedupe_window.extend(len(seen) + 1, [number_id(n) for n in batch], [1] * len(batch))
        seen += batch
        held = range(max(len(seen) - window, 0) + 1, len(seen) + 1)
        for seq in [seq for seq in drops if seq in held]:
            dedupe_window.mark(seq, DROPPED)
            is_latest = seen[seq - 1] not in seen[seq:]
            dropped |= {each for each in held if seen[each - 1] == seen[seq - 1]} if is_latest else {seq}
        assert dedupe_window.known == {number_id(seen[seq - 1]) for seq in held if seq not in dropped}
        for seq in held:
            found = dedupe_window.find(number_id(seen[seq - 1]))
            assert found is not None
            assert (found.mark == DROPPED) == (found.seq in dropped)


def test_mark_is_forgotten_with_its_event() -> None:
    dedupe_window = DedupeWindow(3)
    dedupe_window.extend(1, [number_id(n) for n in (1, 2, 3)], [1, 1, 1])
    dedupe_window.mark(1, DEAD)
    dedupe_window.mark(2, DROPPED)
    marks = [found.mark for n in (1, 2, 3) if (found := dedupe_window.find(number_id(n)))]
    assert marks == [DEAD, DROPPED, 0]
    dedupe_window.extend(4, [number_id(4)], [1])
    found = dedupe_window.find(number_id(4))
    assert found is not None and found.mark == 0
    dedupe_window.mark(1, DEAD)
    assert dedupe_window.packed(2, 4)[2] == bytes([DROPPED, 0, 0])


def test_window_of_size_0_is_empty() -> None:
    dedupe_window = DedupeWindow(0)
    dedupe_window.extend(1, [number_id(1)], [1])
    assert dedupe_window.find(number_id(1)) is None
    assert dedupe_window.packed(1, 1)[1:] == (b"", b"", b"")


def test_repeated_id_without_a_check_keeps_its_check() -> None:
    dedupe_window = DedupeWindow(4)
    dedupe_window.extend(1, [number_id(1), number_id(2)], [1, 1], [11, 22])
    dedupe_window.extend(3, [number_id(1)], [1])
    found = dedupe_window.find(number_id(1))
    assert found is not None
    assert (found.seq, found.check) == (3, 11)
    dedupe_window.extend(4, [number_id(2), number_id(3)], [1, 1], [33, 44])
    found = dedupe_window.find(number_id(2))
    assert found is not None
    assert (found.seq, found.check) == (4, 33)


@given(st.integers(1, 9), st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=14), max_size=9))
def test_check_is_the_latest_known_check_of_the_id(window: int, batches: list[list[int]]) -> None:
    """A check of 0 is unknown. Empty ids are not remembered."""
    dedupe_window = DedupeWindow(window)
    seen: list[int] = []
    for number, batch in enumerate(batches):
        ids = [number_id(n) if n else bytes(16) for n in batch]
        dedupe_window.extend(len(seen) + 1, ids, [1] * len(ids), [(n + number) % 3 and n for n in batch])
        seen += batch
    for n in range(1, 13):
        found = dedupe_window.find(number_id(n))
        assert (found is None) == (n not in seen[-window:])
        assert found is None or found.check in (0, n)
    assert dedupe_window.find(bytes(16)) is None
