"""Leases without a clock of the database: who may send, who is dead, and who holds which queue group.

A lease is a counter that must change. Each replica measures on its own monotonic clock how long it has seen the
counter of another one unchanged. No clock is compared with another one. All functions are pure; times are arguments.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from hashlib import blake2b

from relay.outbox.postgres.database import GROUPS

_MARGIN_MS = 200
"""The holder stops sending this much earlier than its lease ends."""


def shares(replicas: Collection[int]) -> dict[int, int]:
    """Return the replica that should hold each queue group: the highest hash wins (rendezvous hashing)."""
    return {group: max(replicas, key=lambda replica: _weight(group, replica)) for group in range(GROUPS)}


def _weight(group: int, replica: int) -> bytes:
    return blake2b(b"%d/%d" % (group, replica), digest_size=8).digest()


class Lease:
    """How long this replica may send. Times are its monotonic milliseconds."""

    def __init__(self, lease_ms: int) -> None:
        self._lease_ms = lease_ms
        self.until_ms: int | None = None
        """None before the first beat."""

    def __repr__(self) -> str:
        return f"<Lease until {self.until_ms}>"

    def renew(self, sent_at: int) -> None:
        """Record a successful beat that was sent at `sent_at`."""
        self.until_ms = sent_at + self._lease_ms - min(_MARGIN_MS, self._lease_ms // 10)


class Observer:
    """How long the beats of the other replicas have not changed."""

    def __init__(self, lease_ms: int) -> None:
        self._lease_ms = lease_ms
        self._since: dict[int, tuple[int, int]] = {}
        """By replica: its last beat, and when this replica saw it first."""
        self._looked_at = 0

    def __repr__(self) -> str:
        return f"<Observer of {self._since}>"

    def ages_ms(self, now: int) -> dict[int, int]:
        """Return by replica the time since its last beat was seen first."""
        return {replica: now - since for replica, (_, since) in self._since.items()}

    def look(self, beats: Mapping[int, int], now: int) -> list[int]:
        """Record the beats of the others. Return the replicas that are to be fenced.

        If the last look is long ago, nothing is known about the time between: all silence begins anew.
        """
        if now - self._looked_at > self._lease_ms // 2:
            self._since.clear()
        self._looked_at = now
        for replica, beat in beats.items():
            if self._since.get(replica, (-1, 0))[0] != beat:
                self._since[replica] = (beat, now)
        self._since = {replica: seen for replica, seen in self._since.items() if replica in beats}
        return [replica for replica, (_, since) in self._since.items() if now - since > self._lease_ms * 5 // 4]
