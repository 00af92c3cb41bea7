"""The commit rows that this replica has seen: the dedupe window, and the events of queue groups that it may claim."""

from __future__ import annotations

from array import array
from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from relay.outbox.engine.dedupe_window import ID_BYTES, split_ids
from relay.outbox.postgres.database import POSITION_BITS, CommitRow, Mark, Why


def in_order(streams: Mapping[int, Sequence[CommitRow]], limit: int) -> list[CommitRow]:
    """Return the rows of one poll, sorted by id, without rows that could overtake rows not read yet.

    A stream with `limit` rows may have more. Rows of the other streams with higher ids are read by a later poll.
    """
    ends = [rows[-1].id for rows in streams.values() if len(rows) >= limit]
    end = min(ends, default=None)
    rows = (row for stream in streams.values() for row in stream if end is None or row.id <= end)
    return sorted(rows, key=lambda row: row.id)


class Commits:
    """Commit rows by id, and the seq of each id in the dedupe window."""

    def __init__(self, window: int) -> None:
        self.window = window
        self.rows: dict[int, CommitRow] = {}
        self.unseen: dict[int, CommitRow] = {}
        """Own rows that were committed, but not polled yet."""
        self.positions: dict[int, int] = {}
        """By replica: the id of the last polled row."""
        self.known: dict[bytes, int] = {}
        """The seq of each id in the dedupe window, except of dropped events."""
        self.dropped: dict[bytes, int] = {}
        """The seq of each id in the dedupe window whose event was dropped and not stored again."""
        self.marks: dict[int, Why] = {}
        self._latest: deque[int] = deque()
        """The seqs in the dedupe window, oldest first."""
        self._in_window: Counter[int] = Counter()
        """By row: the number of its seqs in the dedupe window."""

    def __repr__(self) -> str:
        return f"<Commits: {len(self.rows)} rows, {len(self.known)} ids, at {self.positions}>"

    def add(self, row: CommitRow) -> None:
        """Add a row that was polled or committed, once."""
        if row.id in self.rows:
            return
        self.rows[row.id] = row
        self._in_window[row.id] = len(row.sizes)
        for at, event_id in enumerate(split_ids(row.ids)):
            seq = row.seq(at)
            self._latest.append(seq)
            if self.marks.get(seq) == "dropped":
                self.dropped[event_id] = seq
                if row.is_requeue:
                    self.known.pop(event_id, None)
                continue
            first = self.known.get(event_id)
            if first is None or row.is_requeue or self.marks.get(first) == "duplicate":
                self.known[event_id] = seq
                self.dropped.pop(event_id, None)
        while len(self._latest) > self.window:
            self._forget(self._latest.popleft())

    def _forget(self, seq: int) -> None:
        """Remove a seq from the dedupe window."""
        event_id = self.event_id(seq)
        for ids in (self.known, self.dropped):
            if ids.get(event_id) == seq:
                del ids[event_id]
        self._in_window[seq >> POSITION_BITS] -= 1
        if not self._in_window[seq >> POSITION_BITS]:
            del self._in_window[seq >> POSITION_BITS]

    def polled(self, row: CommitRow) -> None:
        self.positions[row.replica] = row.id
        self.unseen.pop(row.id, None)

    def is_polled(self, row: CommitRow) -> bool:
        return row.id <= self.positions.get(row.replica, 0)

    def row_of(self, seq: int) -> CommitRow:
        return self.rows[seq >> POSITION_BITS]

    def event_id(self, seq: int) -> bytes:
        at = (seq & (1 << POSITION_BITS) - 1) - 1
        return self.row_of(seq).ids[at * ID_BYTES : (at + 1) * ID_BYTES]

    def queue_id(self, seq: int) -> int:
        return self.row_of(seq).queue_ids[(seq & (1 << POSITION_BITS) - 1) - 1]

    def check(self, seq: int) -> int:
        """Return the CRC-32 of an event as received; 0 if it is not known."""
        return self.row_of(seq).checks[(seq & (1 << POSITION_BITS) - 1) - 1]

    def mark(self, marks: Iterable[Mark]) -> None:
        for seq, _, why in marks:
            self.marks[seq] = why
            if why in ("dropped", "duplicate") and seq >> POSITION_BITS in self.rows:
                event_id = self.event_id(seq)
                if self.known.get(event_id) == seq:
                    if why == "dropped":
                        del self.known[event_id]
                        self.dropped[event_id] = seq
                    else:
                        self.known[event_id] = self._other_copy(event_id, seq)

    def _other_copy(self, event_id: bytes, seq: int) -> int:
        """Return the seq of another copy of an event; `seq` if there is none."""
        for row in self.rows.values():
            if event_id in row.ids:
                for at, other in enumerate(split_ids(row.ids)):
                    if other == event_id and row.seq(at) != seq:
                        return row.seq(at)
        return seq

    def events(self) -> Iterator[tuple[int, int, int, CommitRow]]:
        """Yield (seq, queue id, body bytes, row) of every event that is in a polled row, sorted by seq."""
        for number in sorted(self.rows):
            row = self.rows[number]
            if self.is_polled(row):
                for at, (queue_id, size) in enumerate(zip(row.queue_ids, row.sizes, strict=True)):
                    yield row.seq(at), queue_id, size, row

    def last_seqs(self, seqs: array[int]) -> dict[int, int]:
        """Return the highest of these seqs by appending replica."""
        last: dict[int, int] = {}
        for seq in seqs:
            replica = self.row_of(seq).replica
            last[replica] = max(seq, last.get(replica, 0))
        return last

    def oldest_in_window(self) -> int:
        """Return the id of the oldest row with an id in the dedupe window, of the newest row if the window is empty."""
        return self._latest[0] >> POSITION_BITS if self._latest else max(self.rows, default=0)

    def prune(self, before_id: int, kept: Collection[int]) -> None:
        """Forget rows below an id that the database deleted (`kept`: it did not) and that are not in the window."""
        gone = [
            number
            for number, row in self.rows.items()
            if number < before_id and number not in self._in_window and number not in kept and self.is_polled(row)
        ]
        for number in gone:
            row = self.rows.pop(number)
            for at in range(len(row.sizes)):
                self.marks.pop(row.seq(at), None)
