"""Who travels in one request: the next lane in turn, and, where devices may mix, those after it that still fit.

It must not know when a lane may send at all; the schedule queues only those that may.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from relay.policy.device_queue import DeviceQueue
from relay.policy.endpoint import Endpoint
from relay.policy.limits import Limits


def choose(
    endpoint: Endpoint, limits: Limits, now: int, postpone: Callable[[DeviceQueue, int], object]
) -> Sequence[tuple[DeviceQueue, int]]:
    """The lanes, and how many of each one's events. They leave the route's queue; `not_yet` is told of others that do.

    A lane that met its limit while it was queued may not send after all.
    """
    mix = limits.mix_devices == "always" or (
        limits.mix_devices == "when_ip_limited" and endpoint.shared_limit is not None
    )
    chosen: list[tuple[DeviceQueue, int]] = []
    room_events, room_bytes = limits.max_events, endpoint.body_size.max_bytes(limits.max_body_bytes)
    ready = endpoint.ready
    for _ in range(len(ready)):
        queue = ready.popleft()
        queue.queued = False
        if not queue.events or queue.in_flight or queue.reserved:
            continue
        if queue.free_at(now, limits) > now:
            postpone(queue, now)
            continue
        if chosen and queue.needs_own_request():
            queue.queued = True
            ready.append(queue)
            continue
        events = min(queue.max_events(limits.max_events), queue.events, room_events)
        chosen.append((queue, events))
        room_events -= events
        room_bytes -= queue.body_bytes * events // queue.events
        if not mix or room_events <= 0 or room_bytes <= 0 or queue.needs_own_request():
            break
    return chosen
