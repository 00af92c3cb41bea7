"""Count the requests in flight by their use of a request slot (`upstream.max_in_flight`), and bound each use.

Requests that hang must not delay others:

- A request without progress is stalled: it needs a connection, but no request slot (`patience` says when).
- A device queue is in doubt after a failure, and if its request was in flight at a crash. An endpoint is in doubt while
  it fails, while a request hangs and no other one succeeds, and, if it is not the only one, until its first response.
- A request of a device queue or an endpoint in doubt is a trial. All trials together use at most half of the request
  slots, and leave as many connections as there are request slots. An endpoint in doubt has one or two trials at a time,
  one of them of a device queue in doubt.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from relay.policy.position import SlotUse

CONNECTIONS_PER_SLOT = 8


class Room(NamedTuple):
    """Which requests of an endpoint may be sent now."""

    in_doubt: bool
    """Those of device queues in doubt."""
    others: bool
    are_trials: bool = False
    """Every request is a trial, because the endpoint is in doubt."""


NO_ROOM: Final = Room(False, False)
FOR_ANY: Final = Room(True, True)
FOR_OTHERS: Final = Room(False, True)
FOR_TRIAL: Final = Room(True, True, are_trials=True)
FOR_OTHER_TRIAL: Final = Room(False, True, are_trials=True)


class RequestSlots:
    """The requests in flight of one endpoint, which also count for its upstream origin and for all origins."""

    __slots__ = ("_parent", "in_flight", "stalled", "trials")

    def __init__(self, parent: RequestSlots | None = None) -> None:
        self._parent = parent
        self.in_flight = 0
        self.stalled = 0  # Requests in flight that make no progress.
        self.trials = 0  # Trials in flight that are not stalled.

    def __repr__(self) -> str:
        return f"RequestSlots(in_flight={self.in_flight}, stalled={self.stalled}, trials={self.trials})"

    @property
    def occupied(self) -> int:
        return self.in_flight - self.stalled

    def permits_trial(self, request_slots: int) -> bool:
        """Return whether one more trial may be in flight, if these are the requests of all origins."""
        most = (CONNECTIONS_PER_SLOT - 1) * request_slots
        return self.trials < max(1, request_slots // 2) and self.in_flight < most

    def change(self, before: SlotUse, after: SlotUse) -> None:
        """Count that a request uses its slot differently."""
        assert (before, after) != ("free", "stalled"), "only a request in flight can stall"
        in_flight = (after != "free") - (before != "free")
        stalled = (after == "stalled") - (before == "stalled")
        trials = (after == "trial") - (before == "trial")
        slots: RequestSlots | None = self
        while slots is not None:
            slots.in_flight += in_flight
            slots.stalled += stalled
            slots.trials += trials
            assert slots.trials >= 0 <= slots.stalled <= slots.in_flight - slots.trials, slots
            slots = slots._parent
