"""Choose the events of one request: those of the next ready device queue and, where devices may mix, of further ones.

The schedule decides when a device queue is ready; this module does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from relay.policy.class_turns import CLASSES, DeviceClass
from relay.policy.device_queue import DeviceQueue
from relay.policy.endpoint import Endpoint
from relay.policy.limits import Limits
from relay.policy.position import READY
from relay.policy.ready_queues import ReadyQueues

_MAX_SEPARATE, _MAX_MOVED = 32, 256
"""Maximum numbers of ready device queues that one choice passes over, because they must not share its request, and
moves to another class."""


def choose(
    endpoint: Endpoint,
    device_class: DeviceClass,
    limits: Limits,
    now: int,
    postponed: Callable[[DeviceQueue, int], object],
) -> Sequence[tuple[DeviceQueue, int]]:
    """Return the chosen device queues with their numbers of events, and remove them from `endpoint.ready`.

    The first ones are of `device_class`. A mixed request is filled up with the other classes in their order. A ready
    device queue that may no longer send, because of its rate window or a pause, is passed to `postponed`.
    """
    mix = limits.mix_devices == "always" or (limits.mix_devices == "when_ip_limited" and endpoint.limit.is_limited)
    mix = mix and endpoint.tenant_id is not None  # A request contains events of one tenant.
    chosen: list[tuple[DeviceQueue, int]] = []
    separate: list[DeviceQueue] = []
    room_events, room_bytes = limits.max_events, endpoint.body_size.max_bytes(limits.max_body_bytes)
    others = [each for each in CLASSES if each is not device_class] if mix else []
    for queue in _in_turn(endpoint.ready, [device_class, *others], limits):
        if not queue.events or queue.free_at(now, limits) > now:
            queue.postpone(now)
            postponed(queue, now)
            continue
        if chosen and queue.needs_own_request():
            separate.append(queue)
            if len(separate) == _MAX_SEPARATE:
                break
            continue
        events = min(queue.max_events(limits.max_events), queue.events, room_events)
        chosen.append((queue, events))
        room_events -= events
        room_bytes -= queue.body_bytes * events // queue.events
        if not mix or room_events <= 0 or room_bytes <= 0 or queue.needs_own_request():
            break
    for queue in reversed(separate):
        endpoint.ready.add_first(queue, limits)
    return chosen


def _in_turn(ready: ReadyQueues, classes: Sequence[DeviceClass], limits: Limits) -> Iterator[DeviceQueue]:
    """Remove and yield the ready device queues of the classes. One that outgrew its class takes its turn in another."""
    moved = 0
    for each in classes:
        while queue := ready.take(each):
            if queue.position is not READY:
                continue
            if queue.device_class(limits) is each or moved == _MAX_MOVED:
                yield queue
            else:
                ready.add(queue, limits)
                moved += 1
