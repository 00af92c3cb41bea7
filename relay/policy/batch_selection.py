"""Who travels in one request: the next lane in turn, and, where devices may mix, those after it that still fit.

It must not know when a lane may send at all; the schedule queues only those that may.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from relay.policy.device_queue import Lane
from relay.policy.endpoint import Route
from relay.policy.limits import Limits


def company(
    route: Route, limits: Limits, now: int, not_yet: Callable[[Lane, int], object]
) -> Sequence[tuple[Lane, int]]:
    """The lanes, and how many of each one's events. They leave the route's queue; `not_yet` is told of others that do.

    A lane that met its limit while it was queued may not send after all.
    """
    mix = limits.mix_devices == "always" or (limits.mix_devices == "when_ip_limited" and route.ceiling is not None)
    chosen: list[tuple[Lane, int]] = []
    room_events, room_bytes = limits.max_events, route.body_size.max_bytes(limits.max_body_bytes)
    ready = route.ready
    for _ in range(len(ready)):
        lane = ready.popleft()
        lane.queued = False
        if not lane.events or lane.in_flight or lane.reserved:
            continue
        if lane.free_at(now, limits) > now:
            not_yet(lane, now)
            continue
        if chosen and lane.by_itself():
            lane.queued = True
            ready.append(lane)
            continue
        events = min(lane.max_events(limits.max_events), lane.events, room_events)
        chosen.append((lane, events))
        room_events -= events
        room_bytes -= lane.body_bytes * events // lane.events
        if not mix or room_events <= 0 or room_bytes <= 0 or lane.by_itself():
            break
    return chosen
