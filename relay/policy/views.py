"""The schedule for people: what status pages and metrics show of it. Times are monotonic milliseconds."""

from __future__ import annotations

from typing import NamedTuple

from relay.event import LaneKey
from relay.policy.route import RouteState


class RouteView(NamedTuple):
    tenant_id: int
    state: RouteState
    since_ms: int
    next_attempt_ms: int | None
    """When it may send next, if it is held or paced."""
    last_error: str


class LaneView(NamedTuple):
    key: LaneKey
    events: int
    """Pending, in flight included."""
    held_until_ms: int | None
    """Not before, or None if it may send now."""
    why: str
    """Why it is held: "", "limit" (its window is full), "outbox" (the disk), or the state that holds it."""
