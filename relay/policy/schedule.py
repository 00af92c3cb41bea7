"""INTERFACE STUB of what ops shows of the schedule; the schedule itself is being built."""

from __future__ import annotations

from typing import Literal, NamedTuple

from relay.event import LaneKey

RouteState = Literal["ok", "backing_off", "rate_limited", "unauthorized", "misconfigured"]


class RouteView(NamedTuple):
    """A route for people; times are monotonic milliseconds."""

    tenant_id: int
    state: RouteState
    since_ms: int
    next_attempt_ms: int | None
    """When it may send next, if it is held or paced."""
    last_error: str


class LaneView(NamedTuple):
    """A lane for people."""

    key: LaneKey
    events: int
    """Pending, in flight included."""
    held_until_ms: int | None
    """Not before, or None if it may send now."""
    why: str
    """Why it is held: "" | "limit" | "rate_limited" | "backing_off" | "in_flight" ..."""


class Schedule:
    def routes(self, now: int) -> list[RouteView]:
        raise NotImplementedError

    def busiest(self, limit: int, now: int) -> list[LaneView]:
        """Lanes with most pending events first."""
        raise NotImplementedError

    def most_held(self, limit: int, now: int) -> list[LaneView]:
        """Lanes held longest into the future first."""
        raise NotImplementedError

    def waiting_lanes(self) -> int:
        raise NotImplementedError

    def held_lanes(self, now: int) -> int:
        raise NotImplementedError
