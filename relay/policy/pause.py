"""A pause of a device or an endpoint: no request is sent before its end."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pause:
    """Times are monotonic milliseconds."""

    until: int
    reason: str = ""
    """The reason for people: "outbox" (prevents requests) or an endpoint state."""
    requested_until: int = 0
    """End of the part that a server requested; 0: no request. Nothing shortens this part."""

    def __post_init__(self) -> None:
        assert 0 <= self.requested_until <= self.until, self

    def ended(self) -> Pause:
        """Return what remains if the pause is ended early: the part that a server requested."""
        return (
            self
            if self.until == self.requested_until
            else Pause(self.requested_until, self.reason, self.requested_until)
        )

    def extended(self, other: Pause) -> Pause:
        """Return a pause that ends at the later end, for each part. It has the reason of `other`."""
        return Pause(max(self.until, other.until), other.reason, max(self.requested_until, other.requested_until))


NO_PAUSE = Pause(0)
