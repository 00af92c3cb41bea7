"""Count the requests in flight, and how many of them occupy a request slot (`upstream.max_in_flight`)."""

from __future__ import annotations

from relay.policy.position import SlotUse


class RequestSlots:
    """The requests in flight of one endpoint, which also count for its upstream origin and for all origins."""

    __slots__ = ("_parent", "in_flight", "stalled")

    def __init__(self, parent: RequestSlots | None = None) -> None:
        self._parent = parent
        self.in_flight = 0
        self.stalled = 0  # Requests in flight that make no progress.

    def __repr__(self) -> str:
        return f"RequestSlots(in_flight={self.in_flight}, stalled={self.stalled})"

    @property
    def occupied(self) -> int:
        return self.in_flight - self.stalled

    def change(self, before: SlotUse, after: SlotUse) -> None:
        """Count that a request uses its slot differently."""
        assert (before, after) != ("free", "stalled"), "only a request in flight can stall"
        self.in_flight += (after != "free") - (before != "free")
        self.stalled += (after == "stalled") - (before == "stalled")
        assert 0 <= self.stalled <= self.in_flight, self
        if self._parent is not None:
            self._parent.change(before, after)

    def move(self, parent: RequestSlots) -> None:
        """Count these requests for another origin."""
        for slots, sign in ((self._parent, -1), (parent, 1)):
            if slots is not None:
                slots.in_flight += sign * self.in_flight
                slots.stalled += sign * self.stalled
                assert 0 <= slots.stalled <= slots.in_flight, slots
        self._parent = parent
