"""The dead letters of an outbox that no relay holds.

This module imports the whole outbox. It is therefore imported only if no relay responds.
"""

from __future__ import annotations

from collections.abc import Sequence

from relay.cli.dead_letters import PAGE, Action, Filter, Letter, Page
from relay.cli.outbox_on_disk import OutboxOnDisk
from relay.ops.dead_letters import MAX_ID, Query, found, shown
from relay.outbox import Selection


class DeadLettersOnDisk:
    """The dead letters of an open outbox."""

    def __init__(self, disk: OutboxOnDisk) -> None:
        self._disk = disk

    def page(self, chosen: Filter, after: int, *, with_bodies: bool) -> Page:
        selection = Selection((), chosen.device, chosen.reason, chosen.device is None and chosen.reason is None)
        query = Query(selection, chosen.search or "", PAGE, after, with_bodies)
        letters, next_after = self._disk.run(found(self._disk.outbox, query))
        return Page([shown(letter, with_body=with_bodies) for letter in letters], next_after)

    def find(self, letter_id: int) -> Letter | None:
        if not 1 <= letter_id <= MAX_ID:
            return None
        letters = self._disk.run(self._disk.outbox.dead_letters(Selection(ids=(letter_id,)), 1))
        return shown(letters[0]) if letters else None

    def move(self, action: Action, ids: Sequence[int]) -> int:
        outbox = self._disk.outbox
        return self._disk.run((outbox.requeue if action == "requeue" else outbox.discard)(Selection(ids), len(ids)))
