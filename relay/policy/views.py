"""The schedule for people: what status pages and metrics show of it. Times are monotonic milliseconds."""

from __future__ import annotations

from collections.abc import Iterable
from heapq import nlargest
from typing import NamedTuple

from relay.event import LaneKey
from relay.policy.lane import Lane
from relay.policy.limits import Limits
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


def busiest(lanes: Iterable[Lane], limit: int, limits: Limits, now: int) -> list[LaneView]:
    """Lanes with most pending events first."""
    return [_view(lane, limits, now) for lane in nlargest(limit, lanes, key=lambda lane: lane.events)]


def most_held(lanes: Iterable[Lane], limit: int, limits: Limits, now: int) -> list[LaneView]:
    """Lanes held longest into the future first."""
    held = ((free_at, lane) for lane in lanes if (free_at := lane.free_at(now, limits)) > now)
    return [_view(lane, limits, now) for _, lane in nlargest(limit, held, key=lambda one: one[0])]


def _view(lane: Lane, limits: Limits, now: int) -> LaneView:
    free_at = lane.free_at(now, limits)
    if free_at <= now:
        return LaneView(lane.key, lane.events, None, "")
    return LaneView(lane.key, lane.events, free_at, lane.why if lane.hold >= free_at else "limit")
