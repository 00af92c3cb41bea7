"""Choose the events of one request: those of the next ready device queue and, where devices may mix, of further ones.

The schedule decides when a device queue is ready; this module does not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from relay.policy.device_queue import DeviceQueue
from relay.policy.endpoint import Endpoint
from relay.policy.limits import Limits


def choose(
    endpoint: Endpoint, limits: Limits, now: int, postponed: Callable[[DeviceQueue, int], object]
) -> Sequence[tuple[DeviceQueue, int]]:
    """Return the chosen device queues with their numbers of events, and remove them from `endpoint.ready`.

    A ready device queue that may no longer send, because of its rate window or a pause, is passed to `postponed`.
    """
    mix = limits.mix_devices == "always" or (limits.mix_devices == "when_ip_limited" and endpoint.limit.is_limited)
    mix = mix and endpoint.tenant_id is not None  # A request contains events of one tenant.
    chosen: list[tuple[DeviceQueue, int]] = []
    room_events, room_bytes = limits.max_events, endpoint.body_size.max_bytes(limits.max_body_bytes)
    ready = endpoint.ready
    for _ in range(len(ready)):
        queue = ready.take()
        if not queue.events or queue.free_at(now, limits) > now:
            queue.postpone(now)
            postponed(queue, now)
            continue
        if chosen and queue.needs_own_request():
            ready.add(queue)
            continue
        events = min(queue.max_events(limits.max_events), queue.events, room_events)
        chosen.append((queue, events))
        room_events -= events
        room_bytes -= queue.body_bytes * events // queue.events
        if not mix or room_events <= 0 or room_bytes <= 0 or queue.needs_own_request():
            break
    return chosen
