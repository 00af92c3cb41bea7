"""What must hold of every run, whatever happened in it: the promises, as the upstream and the apps see them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime

from tests.simulation.upstream import EventKey, Request
from tests.simulation.virtual import RIGHT_MS
from tests.simulation.world import World


def check_all(world: World) -> None:
    """The promises at the end of a run, when everything has drained."""
    check_kept(world)
    check_once(world)
    check_same_bytes(world)
    check_order(world)
    check_device_limits(world)
    check_resent_first(world)


def dead(world: World) -> set[EventKey]:
    """(device, number) of every dead letter."""
    return {_key(letter.event_id) for letter in world.dead_letters}


def check_kept(world: World) -> None:
    """G1, G2: every event answered 202 is delivered or a dead letter; the ledger says the same."""
    offered = {(device.number, n) for device in world.devices.values() for n in range(device.offered)}
    delivered, given_up = set(world.upstream.taken), dead(world)
    assert offered - delivered - given_up == set(), "lost"
    assert (delivered | given_up) - offered == set(), "invented"
    flawed = {key for key in offered if world.devices[key[0]].flaw(key[1])}
    assert given_up == flawed, "given up without a flaw, or kept in spite of one"
    ledger = world.outbox.ledger()
    assert ledger.balanced
    assert (ledger.accepted, ledger.dead_lettered, ledger.dropped, ledger.pending) == (
        len(offered),
        len(given_up),
        0,
        0,
    )


def check_once(world: World) -> None:
    """G3: an event is taken again only if the relay cannot have known: the answer was lost, or it died on it."""
    for key, requests in world.upstream.taken.items():
        known = [request for request in requests if request.returned_at and id(request) not in world.in_doubt]
        assert len(known) <= 1, f"{key} was known to be delivered, and sent again"
    per_crash = world.plan.limits.max_in_flight
    assert len(world.in_doubt) <= per_crash * world.crashes


def check_same_bytes(world: World) -> None:
    """What is sent a second time, because the upstream may have it, is what was sent the first time."""
    for key, requests in world.upstream.taken.items():
        if len(requests) > 1:
            sent = {event for request in requests for event in request.events if (event.device, event.n) == key}
            assert len(sent) == 1, f"{key} was sent as {sent}"


def check_stamps(world: World, off_ms: int) -> None:
    """The times that the relay puts in are right to within `off_ms`, the apps' own as they came."""
    for (device, n), requests in world.upstream.taken.items():
        own_time, accepted = world.devices[device].own_time, world.offered_at[(device, n)]
        (said,) = {event.occurred_at for event in requests[0].events if (event.device, event.n) == (device, n)}
        if own_time:
            assert said == own_time
        else:
            late_ms = datetime.fromisoformat(said).timestamp() * 1000 - RIGHT_MS - accepted
            assert abs(late_ms) <= off_ms, f"device {device}: {n} came at {accepted} ms, and is said to be of {said}"


def check_order(world: World) -> None:
    """G4: the events of a device are first taken in the order in which they were accepted."""
    latest: dict[int, int] = defaultdict(lambda: -1)
    for request in world.upstream.arrivals:
        for device, n in request.keys:
            if world.upstream.taken.get((device, n), [None])[0] is request:
                assert n > latest[device], f"device {device}: {n} after {latest[device]}"
                latest[device] = n


def check_device_limits(world: World) -> None:
    """G5: in any window that slides over a device's arrivals there are no more than its limit."""
    limit = world.plan.limits.device_per_window
    for device, times in arrivals_by_device(world.upstream.arrivals).items():
        check_window(times, limit, world.plan.limits.window_ms, f"device {device}")


def check_window(times: Sequence[int], limit: int, window_ms: int, whose: str) -> None:
    for i in range(len(times) - limit):
        assert times[i + limit] - times[i] >= window_ms, f"{whose}: {limit + 1} requests from {times[i]} ms on"


def check_resent_first(world: World) -> None:
    """After a crash, what was in flight is sent again before anything else of its devices, just so."""
    ends = [start.at for start in world.starts[1:]] + [world.ended_at + 1]
    for start, end in zip(world.starts, ends, strict=True):
        sent = [request.keys for request in world.upstream.sent if start.at <= request.sent_at < end]
        for unsettled in start.unsettled:
            devices = {device for device, _ in unsettled}
            first = next((keys for keys in sent if any(device in devices for device, _ in keys)), None)
            assert first in (None, unsettled), "something else was sent before what had been in flight"


def arrivals_by_device(arrivals: Sequence[Request]) -> dict[int, list[int]]:
    times: dict[int, list[int]] = defaultdict(list)
    for request in arrivals:
        for device in {event.device for event in request.events}:
            times[device].append(request.at)
    return times


def _key(event_id: str) -> EventKey:
    number = int(event_id.replace("-", ""), 16)
    return number >> 64, number & (1 << 64) - 1
