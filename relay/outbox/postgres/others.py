"""What the other replicas store: as they published it, and what this replica stored or polled for them since then."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from relay.outbox.postgres.database import LiveReplica


class Others:
    def __init__(self) -> None:
        self._published: Sequence[LiveReplica] = ()
        self._rows: deque[tuple[int, int]] = deque()
        """(Events, body bytes) of the latest polled rows, oldest first."""
        self._new_devices = deque([0, 0], 2)
        """Number of device queues that this replica announced to others, before and after its last beat."""

    def __repr__(self) -> str:
        return f"<Others: {self.totals()} events and bytes, {self.devices()} devices>"

    def see(self, published: Sequence[LiveReplica], pending: int) -> None:
        """Record a beat. `pending`: number of events that this replica does not hold."""
        self._published = published
        self._new_devices.append(0)
        unpublished = pending - sum(each.events for each in published)
        newer = sum(events for events, _ in self._rows)
        while self._rows and newer - self._rows[0][0] >= unpublished:
            newer -= self._rows.popleft()[0]

    def add(self, sizes: Sequence[int]) -> None:
        """Add events of a polled row."""
        if sizes:
            self._rows.append((len(sizes), sum(sizes)))

    def announced(self, devices: int) -> None:
        self._new_devices[-1] += devices

    def totals(self) -> tuple[int, int]:
        """Return the number and the body bytes of their events. They may have sent some since then."""
        events = sum(each.events for each in self._published) + sum(events for events, _ in self._rows)
        return events, sum(each.body_bytes for each in self._published) + sum(size for _, size in self._rows)

    def devices(self) -> int:
        """Return the number of devices that they remember."""
        return sum(each.devices for each in self._published) + sum(self._new_devices)
