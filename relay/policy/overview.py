"""The schedule for people: what status pages and metrics show of it. Times are monotonic milliseconds."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from heapq import nlargest
from itertools import chain, islice
from operator import attrgetter, itemgetter
from typing import NamedTuple

from relay.event.reader import LaneKey
from relay.policy.device_queue import Lane
from relay.policy.endpoint import Route, RouteState
from relay.policy.limits import Limits


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


class Lanes(NamedTuple):
    """All lanes, in one look."""

    known: int
    """Those without pending events, too."""
    waiting: int
    """With pending events."""
    held: int
    """Of those, how many may not send yet."""
    busiest: Sequence[LaneView]
    """With most pending events first."""
    most_held: Sequence[LaneView]
    """Held longest into the future first."""


def look(lanes: Collection[Lane], limit: int, limits: Limits, now: int) -> Lanes:
    """What is to be shown of all of them, in one pass."""
    waiting = [lane for lane in lanes if lane.events]
    held = [(free_at, lane) for lane in waiting if (free_at := lane.free_at(now, limits)) > now]
    return Lanes(
        len(lanes),
        len(waiting),
        len(held),
        [_view(lane, limits, now) for lane in nlargest(limit, waiting, key=attrgetter("events"))],
        [_view(lane, limits, now) for _, lane in nlargest(limit, held, key=itemgetter(0))],
    )


def shown(routes: Mapping[int, Route], first: Collection[int], others: int) -> list[int]:
    """Tenants: all, as they came, if no more than `others`.

    Else those `first`, then at most so many others, those in trouble before the rest.
    """
    if len(routes) <= others:
        return list(routes)

    def strangers(*, ok: bool) -> Iterator[int]:
        return (each for each, route in routes.items() if (route.state() == "ok") is ok and each not in first)

    known = [tenant_id for tenant_id in first if tenant_id in routes]
    return known + list(islice(chain(strangers(ok=False), strangers(ok=True)), others))


def _view(lane: Lane, limits: Limits, now: int) -> LaneView:
    free_at = lane.free_at(now, limits)
    if free_at <= now:
        return LaneView(lane.key, lane.events, None, "")
    return LaneView(lane.key, lane.events, free_at, lane.why if lane.hold >= free_at else "limit")
