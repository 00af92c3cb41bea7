"""Count the requests in flight by their use of a request slot (`upstream.max_in_flight`), and bound each use.

Requests that hang must not delay others:

- A request without progress for 5 s is stalled: it needs a connection, but no request slot. Long before, it is overdue
  (`patience` says when): it occupies its request slot, and shows that requests hang.
- A device queue is in doubt after a failure, and if its request was in flight at a crash. An endpoint is in doubt while
  it fails, and while its requests hang, or hung until they timed out, and none succeeds. Their requests are trials.
  Together with the overdue requests they leave half of the request slots to others.
- While requests hang, a device queue or an endpoint without a success since then is unproven. So is an endpoint before
  its first response, if it is not the only one. Their requests are trials, too, but leave only a quarter of the request
  slots to others. So a device that was served since then finds a free request slot, unless its endpoint is in doubt.
- An endpoint that is in doubt or unproven has one trial at a time. All trials leave as many connections as there are
  request slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from relay.policy.position import SlotUse

CONNECTIONS_PER_SLOT = 8
STALLED_MS = 5_000
"""Time without progress after which a request is stalled."""
_HANGING: Sequence[SlotUse] = ("overdue", "stalled")


class Room(NamedTuple):
    """Which requests of an endpoint may be sent now, by their device queues."""

    in_doubt: bool
    unproven: bool
    proven: bool
    are_trials: bool = False
    """Every request is a trial, because the endpoint is in doubt or unproven."""


NO_ROOM: Final = Room(False, False, False)
FOR_TRIAL: Final = Room(True, True, True, are_trials=True)
FOR_UNPROVEN_TRIAL: Final = Room(False, True, True, are_trials=True)


class RequestSlots:
    """The requests in flight of one endpoint, which also count for its upstream origin and for all origins."""

    __slots__ = ("_parent", "hanging_since", "in_flight", "overdue", "stalled", "trials")

    def __init__(self, parent: RequestSlots | None = None) -> None:
        self._parent = parent
        self.in_flight = 0
        self.trials = 0  # Trials in flight that are neither overdue nor stalled.
        self.overdue = 0
        self.stalled = 0
        self.hanging_since: int | None = None
        """While requests are overdue or stalled: when the first one made its last progress."""

    def __repr__(self) -> str:
        counts = f"in_flight={self.in_flight}, trials={self.trials}, overdue={self.overdue}, stalled={self.stalled}"
        return f"RequestSlots({counts}, hanging_since={self.hanging_since})"

    @property
    def occupied(self) -> int:
        return self.in_flight - self.stalled

    @property
    def hanging(self) -> int:
        return self.overdue + self.stalled

    def has_room(self, request_slots: int) -> bool:
        """Return whether one more request may be in flight, if these are the requests of all origins."""
        return self.occupied < request_slots and self.in_flight < CONNECTIONS_PER_SLOT * request_slots

    def permits_in_doubt(self, request_slots: int) -> bool:
        """Return whether one more trial of one in doubt may be sent, if these are the requests of all origins."""
        return self._permits(max(1, request_slots // 2), request_slots)

    def permits_unproven(self, request_slots: int) -> bool:
        """Return the same for a trial of an unproven device queue or endpoint."""
        return self._permits(request_slots - request_slots // 4, request_slots)

    def _permits(self, most: int, request_slots: int) -> bool:
        return self.trials + self.overdue < most and self.in_flight < (CONNECTIONS_PER_SLOT - 1) * request_slots

    def change(self, before: SlotUse, after: SlotUse, progress_at: int = 0) -> None:
        """Count that a request uses its slot differently. `progress_at`: the last progress of one that hangs."""
        in_flight = (after != "free") - (before != "free")
        trials = (after == "trial") - (before == "trial")
        hangs = before in _HANGING or after in _HANGING
        assert before != "free" or not hangs, "only a request in flight can hang"
        slots: RequestSlots | None = self
        while slots is not None:
            slots.in_flight += in_flight
            slots.trials += trials
            if hangs:
                slots._count_hanging(before, after, progress_at)
            assert slots.trials >= 0 <= slots.in_flight - slots.trials - slots.overdue - slots.stalled, slots
            slots = slots._parent

    def _count_hanging(self, before: SlotUse, after: SlotUse, progress_at: int) -> None:
        self.overdue += (after == "overdue") - (before == "overdue")
        self.stalled += (after == "stalled") - (before == "stalled")
        assert self.overdue >= 0 <= self.stalled, self
        if not self.hanging:
            self.hanging_since = None
        elif self.hanging_since is None:
            self.hanging_since = progress_at
