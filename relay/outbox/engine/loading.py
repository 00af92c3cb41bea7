"""The phases of the state in memory: the log is being loaded, or was loaded.

While the log is loaded, appends are possible. The loaded events are put before them at the end.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from relay.outbox import NOTHING_OMITTED, ClaimPart, RestoredQueue, RestoredState
from relay.outbox.engine.flight import Flight, unpacked
from relay.outbox.engine.queue_index import Index
from relay.outbox.engine.storage import LogChunk, Opened


class Loaded:
    """The state contains every event."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "Loaded"


class LoadingLog:
    """The rows of the log that were loaded so far."""

    def __init__(self, opened: Opened) -> None:
        self.after_seq = opened.first_row - 1
        """Rows up to this seq have been loaded."""
        self.to_seq = opened.totals.last_seq
        self.orphans = 0
        """Number of loaded rows of unknown queues: settled rows of a forgotten queue, or rows changed by the disk."""
        self._opened = opened
        self._older = Index()
        self._cursors = {row.queue_id: row.cursor for row in opened.queues}
        self._quarantined = {
            row.queue_id: range((row.quarantined_after or 0) + 1, row.quarantined_to + 1)
            for row in opened.queues
            if row.quarantined_to is not None
        }
        for row in opened.queues:
            self._older.add(row.queue_id, row.key)

    def __repr__(self) -> str:
        return f"LoadingLog({self.after_seq} of {self.to_seq})"

    def add(self, chunk: LogChunk) -> None:
        queues, cursors, quarantined = self._older.queues, self._cursors, self._quarantined
        for seq, number, size in zip(chunk.seqs, chunk.queues, chunk.sizes, strict=True):
            cursor = cursors.get(number)
            if cursor is None:
                self.orphans += 1
            elif seq > cursor:
                queues[number].append(seq, size)
            elif number in quarantined and seq in quarantined[number]:
                queues[number].quarantined.append(seq)
        self.after_seq = chunk.last_seq

    def may_contain(self, queue_id: int, seq: int) -> bool:
        """Return whether an event may be pending in the part of the log that was not loaded yet."""
        return seq <= self.to_seq and seq > self._cursors.get(queue_id, seq)

    def count(self) -> int:
        """Return the number of loaded pending events, quarantined ones included."""
        return sum(len(queue) + len(queue.quarantined) for queue in self._older.queues.values())

    def finish(self, index: Index, boot: int, *, restores_requests: bool) -> RestoredState:
        """Put the loaded events into the index, before the events that were appended since."""
        for number, older in self._older.queues.items():
            queue = index.queues.get(number)
            if queue is not None and len(older):
                queue.prepend(older)
            if queue is not None:
                queue.quarantine(older.quarantined)
        queues = [
            RestoredQueue(row.queue_id, row.key, row.window, 0 if row.boot == boot else None)
            for row in self._opened.queues
        ]
        return RestoredState(queues, self._restore_requests(index) if restores_requests else ())

    def _restore_requests(self, index: Index) -> Sequence[Sequence[ClaimPart]]:
        """Return the requests of the journal whose events all exist. They stay in flight until they are claimed."""
        requests: dict[int, list[tuple[int, ClaimPart]]] = {}
        for row in self._opened.queues:
            queue = index.queues.get(row.queue_id)
            if row.request is None or queue is None or queue.first_seq != row.first_seq:
                continue
            assert row.last_seq is not None
            events = queue.count_to(row.last_seq)
            seqs, stored = queue.seqs(events), unpacked(row.omitted or b"")
            omitted = {seq: stored[seq] for seq in seqs if seq in stored} if stored else NOTHING_OMITTED
            queue.restore(Flight(array("Q", seqs), omitted), row.shift_ms)
            part = ClaimPart(row.queue_id, events, omitted=omitted)
            requests.setdefault(row.request, []).append((row.ordinal or 0, part))
        return [[part for _, part in sorted(requests[number])] for number in sorted(requests)]
