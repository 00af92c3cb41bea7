"""Choose the events of one request: those of the next ready device queue and, where devices may mix, of further ones.

The schedule decides when a device queue is ready; this module does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from relay.policy.class_turns import CLASSES, DeviceClass
from relay.policy.device_queue import DeviceQueue
from relay.policy.endpoint import Endpoint
from relay.policy.limits import Limits
from relay.policy.position import READY
from relay.policy.ready_queues import ReadyQueues
from relay.policy.request_slots import Room
from relay.policy.requests import Share

_MAX_SEPARATE, _MAX_MOVED = 32, 256
"""Maximum numbers of ready device queues that one choice passes over, because they must not share its request, and
moves to another class."""


def _others(classes: Sequence[DeviceClass]) -> Sequence[Sequence[DeviceClass]]:
    """Return for each class the other ones of `classes`; for a class that is none of them, no other one."""
    return [[other for other in classes if other is not each] if each in classes else [] for each in CLASSES]


_OTHERS, _OTHER_KNOWN = _others(CLASSES[:-1]), _others(CLASSES[:-2])


class Chosen(NamedTuple):
    queues: Sequence[tuple[DeviceQueue, int]]
    """The device queues of one request with their numbers of events; empty without a request."""
    is_exact: bool = False
    is_trial: bool = False
    wake_at: int | None = None
    """Earliest time of an exact request that must wait."""

    def shares(self) -> tuple[Share, ...]:
        is_exact = self.is_exact
        return tuple([Share(queue.id, events, queue.omitted if is_exact else ()) for queue, events in self.queues])


def select(
    endpoint: Endpoint,
    device_class: DeviceClass,
    room: Room,
    limits: Limits,
    now: int,
    occupied_slots: int,
    postponed: Callable[[DeviceQueue, int], object],
) -> Chosen:
    """Return the next request of a class that the room permits.

    Exact requests are first. They are trials, because their previous attempt did not end well. An endpoint that is
    in doubt or unproven is first tried with a device queue that is not in doubt. `occupied_slots`: the number of
    occupied request slots.
    """
    free_slots = limits.max_in_flight - occupied_slots
    if room.are_trials:
        device_class = endpoint.prefer_probe(device_class)
    elif not room.unproven:
        preferred = endpoint.prefer_served(device_class)
        if preferred is None:
            return Chosen(())
        device_class = preferred
    chosen: Sequence[tuple[DeviceQueue, int]] = ()
    if (room.are_trials or not room.in_doubt) and device_class is not DeviceClass.IN_DOUBT:
        chosen = choose(endpoint, device_class, limits, now, free_slots, postponed)
    wake_at: int | None = None
    if not chosen and room.in_doubt:
        exact, wake_at = endpoint.ready.take_exact(device_class, now, limits)
        if exact:
            return Chosen(exact, True, True, wake_at)
        chosen = choose(endpoint, device_class, limits, now, free_slots, postponed)
    is_trial = room.are_trials or device_class is DeviceClass.IN_DOUBT or endpoint.is_trial(chosen)
    return Chosen(chosen, False, is_trial, wake_at)


def choose(
    endpoint: Endpoint,
    device_class: DeviceClass,
    limits: Limits,
    now: int,
    free_slots: int,
    postponed: Callable[[DeviceQueue, int], object],
) -> Sequence[tuple[DeviceQueue, int]]:
    """Return the chosen device queues with their numbers of events, and remove them from `endpoint.ready`.

    The first ones are of `device_class`. A mixed request is filled up with the other classes in their order. A device
    queue that may no longer send, because of its rate window or a pause, or whose class changed, is passed to
    `postponed`, which lists it again. `free_slots`: the number of free request slots.
    """
    others = _classes(endpoint, device_class, limits, free_slots, now)
    chosen: list[tuple[DeviceQueue, int]] = []
    separate: list[DeviceQueue] = []
    room_events, room_bytes = limits.max_events, endpoint.body_size.max_bytes(limits.max_body_bytes)
    for queue in _in_turn(endpoint.ready, [device_class, *(others or ())], limits, now, postponed):
        if chosen and queue.needs_own_request():
            separate.append(queue)
            if len(separate) == _MAX_SEPARATE:
                break
            continue
        events = min(queue.max_events(limits.max_events), queue.events, room_events)
        chosen.append((queue, events))
        room_events -= events
        room_bytes -= queue.body_bytes * events // queue.events
        if others is None or room_events <= 0 or room_bytes <= 0 or queue.needs_own_request():
            break
    for queue in reversed(separate):
        endpoint.ready.add_first(queue, limits)
    return chosen


def _classes(
    endpoint: Endpoint, device_class: DeviceClass, limits: Limits, free_slots: int, now: int
) -> Sequence[DeviceClass] | None:
    """Return the other classes that may share a request, in order; None if a request contains one device.

    Devices share requests always, or while there are too few requests for all. If only request slots are missing, new
    devices are kept apart, because their events may be rejected, and all devices while one hangs, or may hang because
    the latest success is too old. Devices in doubt share requests with each other only.
    """
    if limits.mix_devices == "never" or endpoint.tenant_id is None:  # A request contains events of one tenant.
        return None
    if limits.mix_devices == "always" or endpoint.limit.is_limited:
        return _OTHERS[device_class]
    if len(endpoint.ready) <= free_slots or endpoint.slots.hanging or endpoint.is_quiet(now):
        return None
    return _OTHER_KNOWN[device_class]


def split(request: Sequence[tuple[DeviceQueue, int]]) -> Sequence[Sequence[tuple[DeviceQueue, int]]]:
    """Return the two parts of a rejected request of several devices: the known and the new devices, or else halves."""
    known = [each for each in request if each[0].is_known]
    if 0 < len(known) < len(request):
        return known, [each for each in request if not each[0].is_known]
    middle = (len(request) + 1) // 2
    return request[:middle], request[middle:]


def _in_turn(
    ready: ReadyQueues,
    classes: Sequence[DeviceClass],
    limits: Limits,
    now: int,
    postponed: Callable[[DeviceQueue, int], object],
) -> Iterator[DeviceQueue]:
    """Remove and yield the device queues of the classes that may send."""
    moved = 0
    for each in classes:
        while queue := ready.take(each):
            if queue.position is not READY:
                continue
            is_moved = queue.device_class(limits) is not each and moved < _MAX_MOVED
            if is_moved or not queue.events or queue.free_at(now, limits) > now:
                moved += is_moved
                queue.postpone(now)
                postponed(queue, now)
            else:
                yield queue
