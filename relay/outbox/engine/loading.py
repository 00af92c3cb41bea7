"""The phases of the state in memory: the log is being loaded, or was loaded.

While the log is loaded, appends are possible. The events that were appended are put after the loaded ones at the end.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from relay.outbox import NOTHING_OMITTED, ClaimPart, RestoredState
from relay.outbox.engine.storage import LogChunk, Opened
from relay.outbox.engine.stored_queue import Flight, unpacked


class Loaded:
    """The state contains every event."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "Loaded"


class LoadingLog:
    """The rows of the log that were loaded so far. They are in the index of the opened queues."""

    def __init__(self, opened: Opened) -> None:
        self.after_seq = opened.first_row - 1
        """Rows up to this seq have been loaded."""
        self.to_seq = opened.totals.last_seq
        self.orphans = 0
        """Number of loaded rows of unknown queues: settled rows of a forgotten queue, or rows changed by the disk."""
        self.pending = 0
        """Number of pending events, quarantined ones and appended ones included."""
        self._queues = opened.queues
        self._appended_to: array[int] = array("I")
        """Queue id of each event that was appended meanwhile."""
        self._appended_sizes: array[int] = array("I")

    def __repr__(self) -> str:
        return f"LoadingLog({self.after_seq} of {self.to_seq})"

    def add(self, chunk: LogChunk) -> None:
        opened, index = self._queues, self._queues.index
        cursors = {number: opened.cursor_of(number) for number in set(chunk.queues)}
        rows = zip(chunk.seqs, chunk.queues, chunk.sizes, strict=True)
        pending = [row for row in rows if (cursor := cursors[row[1]]) is not None and row[0] > cursor]
        if pending:
            index.append(*zip(*pending, strict=True))
        self.pending += len(pending)
        if len(pending) < len(chunk.seqs):
            self.orphans += sum(cursors[number] is None for number in chunk.queues)
            self._add_quarantined(chunk)
        self.after_seq = chunk.last_seq

    def _add_quarantined(self, chunk: LogChunk) -> None:
        for seq, number in zip(chunk.seqs, chunk.queues, strict=True):
            if self._queues.is_quarantined(number, seq):
                self._queues.index.queue(number).quarantined.append(seq)
                self.pending += 1

    def append(self, queue_ids: Sequence[int], sizes: Sequence[int]) -> None:
        """Add new events, which follow the events to load."""
        self._appended_to.extend(queue_ids)
        self._appended_sizes.extend(sizes)
        self.pending += len(sizes)

    def is_pending(self, queue_id: int, seq: int) -> bool:
        """Return whether an event that is not in the index may be pending: it was appended, or not loaded yet."""
        if seq > self.to_seq:
            return True
        cursor = self._queues.cursor_of(queue_id)
        return seq > self.after_seq and cursor is not None and seq > cursor

    def finish(self, *, restores_requests: bool) -> RestoredState:
        """Put the events that were appended meanwhile into the index."""
        index = self._queues.index
        seqs = range(self.to_seq + 1, self.to_seq + 1 + len(self._appended_to))
        index.append(seqs, self._appended_to, self._appended_sizes)
        return RestoredState(self._queues.restored(), self._restore_requests() if restores_requests else ())

    def _restore_requests(self) -> Sequence[Sequence[ClaimPart]]:
        """Return the requests of the journal whose events all exist. They stay in flight until they are claimed."""
        requests: dict[int, list[tuple[int, ClaimPart]]] = {}
        for row in self._queues.journal:
            queue = self._queues.index.queue(row.queue_id)
            if queue.first_seq == row.first_seq:
                assert row.request is not None
                assert row.last_seq is not None
                events = queue.count_to(row.last_seq)
                seqs, stored = queue.seqs(events), unpacked(row.omitted or b"")
                omitted = {seq: stored[seq] for seq in seqs if seq in stored} if stored else NOTHING_OMITTED
                queue.restore(Flight(array("Q", seqs), omitted), row.shift_ms)
                part = ClaimPart(row.queue_id, events, omitted=omitted)
                requests.setdefault(row.request, []).append((row.ordinal or 0, part))
            self._queues.index.calm(row.queue_id)
        return [[part for _, part in sorted(requests[number])] for number in sorted(requests)]
