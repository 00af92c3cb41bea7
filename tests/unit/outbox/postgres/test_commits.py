"""The commit rows in memory: order of discovery, dedupe window, marks."""

from __future__ import annotations

from array import array

from relay.outbox.postgres.commits import Commits, in_order
from relay.outbox.postgres.database import CommitRow, Mark


def row(number: int, replica: int = 1, *ids: int, is_requeue: bool = False) -> CommitRow:
    names = ids or (number,)
    columns = array("q", [7] * len(names)), array("I", [10] * len(names))
    packed = b"".join(name.to_bytes(16) for name in names)
    checks = array("I", names)
    return CommitRow(replica, number, 0, is_requeue, 0, 0, *columns, packed, checks, None)


def name(number: int) -> bytes:
    return number.to_bytes(16)


def test_rows_of_all_streams_are_discovered_by_id() -> None:
    streams = {1: [row(1), row(4)], 2: [row(2, 2), row(3, 2)]}
    assert [each.id for each in in_order(streams, 50)] == [1, 2, 3, 4]


def test_a_row_does_not_overtake_rows_that_were_not_read() -> None:
    """Stream 1 has more rows after 3. Row 9 may be later than them."""
    streams = {1: [row(1), row(3)], 2: [row(2, 2)], 3: [row(9, 3)]}
    assert [each.id for each in in_order(streams, 2)] == [1, 2, 3]


def test_ids_outside_the_window_are_forgotten() -> None:
    commits = Commits(3)
    commits.add(row(1, 1, 1, 2))
    commits.add(row(2, 1, 3, 4))
    assert set(commits.known) == {name(2), name(3), name(4)}


def test_the_first_copy_counts_unless_it_is_marked_as_the_duplicate() -> None:
    commits = Commits(10)
    first, second = row(1, 1, 5), row(2, 2, 5)
    commits.add(first)
    commits.add(second)
    assert commits.known[name(5)] == first.seq(0)
    other = Commits(10)
    other.mark([Mark(first.seq(0), 7, "duplicate")])
    other.add(first)
    other.add(second)
    assert other.known[name(5)] == second.seq(0)


def test_a_dropped_event_is_not_known_and_may_be_stored_again() -> None:
    commits = Commits(10)
    commits.add(row(1, 1, 5))
    commits.mark([Mark(row(1).seq(0), 7, "dropped")])
    assert name(5) not in commits.known and name(5) in commits.dropped
    commits.add(row(2, 1, 5))
    assert commits.known[name(5)] == row(2).seq(0) and not commits.dropped


def test_rows_are_pruned_when_they_are_deleted_and_outside_the_window() -> None:
    commits = Commits(1)
    for number in (1, 2, 3):
        commits.add(row(number))
        commits.polled(row(number))
    commits.prune(3, {1})
    assert set(commits.rows) == {1, 3}
    commits.prune(commits.oldest_in_window(), ())
    assert set(commits.rows) == {3}


def test_a_row_that_was_not_polled_is_not_pruned() -> None:
    commits = Commits(0)
    commits.add(row(1))
    commits.prune(9, ())
    assert set(commits.rows) == {1}
