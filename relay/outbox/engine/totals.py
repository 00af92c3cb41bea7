"""The totals of an outbox: the ledger, and the numbers of stored dead letters and quarantined events.

Rule: they change only after the commit that makes the change has returned.
"""

from __future__ import annotations

from dataclasses import dataclass

from relay.outbox import Ledger
from relay.outbox.engine.commands import DeadLettered
from relay.outbox.engine.storage import StoredTotals


@dataclass(slots=True)
class Totals:
    appended: int
    """Seq of the newest event. Each event was accepted, requeued or adopted when it got its seq."""
    requeued: int
    delivered: int
    dead_lettered: int
    dropped: int
    adopted: int
    """Number of events that `adopt` appended a second time."""
    dead_letters: int
    dead_letter_bytes: int
    quarantined: int = 0
    """Number of pending events of another machine. Valid after loading."""

    @classmethod
    def of(cls, stored: StoredTotals, dead_letter_bytes: int) -> Totals:
        return cls(*stored, dead_letter_bytes)

    @property
    def pending(self) -> int:
        return self.appended - self.adopted - self.delivered - self.dead_lettered - self.dropped

    @property
    def queued(self) -> int:
        """Pending events that are not quarantined."""
        return self.pending - self.quarantined

    def ledger(self) -> Ledger:
        accepted = self.appended - self.adopted - self.requeued
        return Ledger(accepted, self.requeued, self.delivered, self.dead_lettered, self.dropped, self.pending)

    def count_dead_lettered(self, rows: DeadLettered) -> None:
        self.dead_lettered += rows.events
        self.dead_letters += rows.events - rows.discarded
        self.dead_letter_bytes += rows.body_bytes

    def count_removed_letters(self, letters: int, body_bytes: int) -> None:
        """Count dead letters that were requeued or discarded."""
        self.dead_letters -= letters
        self.dead_letter_bytes -= body_bytes

    def count_corrected(self, missing: int) -> None:
        """Count events that a failing disk has removed, or added (`missing` < 0)."""
        if missing > 0:
            self.dead_lettered += missing
        else:
            self.delivered += missing
