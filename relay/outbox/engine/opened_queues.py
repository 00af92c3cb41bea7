"""The device queues that opening a store found, in compact form.

Rules: a store adds one row after the other and keeps none, so that a start needs no more memory than the relay later.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from relay.event.reader import DeviceKey
from relay.outbox import RestoredQueue
from relay.outbox.engine.queue_index import Index


class QueueRow(NamedTuple):
    """A stored device queue. `request` to `shift_ms` and `omitted` are its journal entry, None without a request."""

    queue_id: int
    key: DeviceKey
    cursor: int
    window: bytes
    boot: int
    request: int | None
    ordinal: int | None
    first_seq: int | None
    last_seq: int | None
    shift_ms: int | None = None
    quarantined_after: int | None = None
    quarantined_to: int | None = None
    omitted: bytes | None = None
    """See WantedEvents."""


class OpenedQueues:
    def __init__(self, boot: int, rows: Iterable[QueueRow] = ()) -> None:
        """`boot`: the number of the present boot. `rows`: in the order of their ids. Raise ValueError, see `add`."""
        self.index = Index()
        self.journal: list[QueueRow] = []
        """The queues with a journal entry."""
        self._boot = boot
        self._ids = array("I")
        self._cursors = array("Q")
        self._windows: dict[int, bytes] = {}
        """Rate windows that are not empty, until `restored` returns them."""
        self._is_same_boot = bytearray()
        """For each queue whether its rate window was stored in the present boot."""
        self._quarantined: dict[int, range] = {}
        for row in rows:
            self.add(row)

    def __len__(self) -> int:
        return len(self._ids)

    def __repr__(self) -> str:
        return f"<OpenedQueues: {len(self)}, {len(self.journal)} in flight, {len(self._quarantined)} quarantined>"

    def add(self, row: QueueRow) -> None:
        """Add a queue. Raise ValueError if its device has one."""
        if row.key in self.index.by_key:
            raise ValueError("a device has two queues")
        self.index.add(row.queue_id, row.key)
        self._ids.append(row.queue_id)
        self._cursors.append(row.cursor)
        self._is_same_boot.append(row.boot == self._boot)
        if row.window:
            self._windows[row.queue_id] = row.window
        if row.request is not None:
            self.journal.append(row)
        if row.quarantined_to is not None:
            self._quarantined[row.queue_id] = range((row.quarantined_after or 0) + 1, row.quarantined_to + 1)

    @property
    def last_request(self) -> int:
        """The largest number of a request in the journal; 0: there is none."""
        return max((row.request or 0 for row in self.journal), default=0)

    def cursor_of(self, queue_id: int) -> int | None:
        """Return the cursor of a queue; None if it does not exist."""
        at = bisect_left(self._ids, queue_id)
        return self._cursors[at] if at < len(self._ids) and self._ids[at] == queue_id else None

    def is_quarantined(self, queue_id: int, seq: int) -> bool:
        return queue_id in self._quarantined and seq in self._quarantined[queue_id]

    def restored(self) -> Iterator[RestoredQueue]:
        """Return each queue with its rate window, once."""
        for queue_id, is_same_boot in zip(self._ids, self._is_same_boot, strict=True):
            key = self.index.key_of(queue_id)
            assert key is not None, queue_id
            window = self._windows.pop(queue_id, b"")
            yield RestoredQueue(self.index.by_key[key], key, window, 0 if is_same_boot else None)
