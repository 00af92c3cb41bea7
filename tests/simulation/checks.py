"""Check the promises at the end of a run, from the view of the upstream and the apps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime

from relay.policy.request_slots import CONNECTIONS_PER_SLOT

from tests.simulation.upstream import EventKey, Request
from tests.simulation.virtual import START_MS
from tests.simulation.world import World


def check_all(world: World) -> None:
    """Check the promises after everything has drained. `watch` checks the promises of each step."""
    check_complete(world)
    check_same_bytes(world)
    assert world.reordered == len(world.watch.reordered), "a reordering that was not counted"
    assert len(world.watch.in_doubt) <= CONNECTIONS_PER_SLOT * world.plan.limits.max_in_flight * world.crashes


def dead(world: World) -> set[EventKey]:
    """Return (device, number) of every dead letter."""
    return {_key(letter.event_id) for letter in world.dead_letters}


def check_complete(world: World) -> None:
    """Check G1 and G2: every event with a 202 is delivered or a dead letter, and the ledger agrees."""
    offered = {(device.number, n) for device in world.devices.values() for n in range(device.offered)}
    delivered, dead_letters = set(world.upstream.accepted), dead(world)
    assert offered - delivered - dead_letters == set(), "lost"
    assert (delivered | dead_letters) - offered == set(), "invented"
    flawed = {key for key in offered if world.devices[key[0]].flaw(key[1])}
    assert dead_letters == flawed, "a dead letter without a flaw, or a delivered event with one"
    ledger = world.outbox.ledger()
    assert ledger.balanced
    assert (ledger.accepted, ledger.dead_lettered, ledger.dropped, ledger.pending) == (
        len(offered),
        len(dead_letters),
        0,
        0,
    )


def check_same_bytes(world: World) -> None:
    """Check that the content of a repeated event is unchanged."""
    for key, requests in world.upstream.accepted.items():
        if len(requests) > 1:
            sent = {event for request in requests for event in request.events if (event.device, event.n) == key}
            assert len(sent) == 1, f"{key} was sent as {sent}"


def check_timestamps(world: World, off_ms: int, tenant: int | None = None) -> None:
    """Check that inserted timestamps are wrong by at most `off_ms` and that the timestamps of apps are unchanged."""
    for (device, n), requests in world.upstream.accepted.items():
        if tenant not in (None, world.devices[device].tenant):
            continue
        own_time, accepted = world.devices[device].own_time, world.offered_at[(device, n)]
        (sent,) = {event.occurred_at for event in requests[0].events if (event.device, event.n) == (device, n)}
        if own_time:
            assert sent == own_time
        else:
            late_ms = datetime.fromisoformat(sent).timestamp() * 1000 - START_MS - accepted
            assert abs(late_ms) <= off_ms, (
                f"device {device}: {n} was accepted at {accepted} ms, its timestamp is {sent}"
            )


def arrivals_by_device(arrivals: Sequence[Request]) -> dict[int, list[int]]:
    times: dict[int, list[int]] = defaultdict(list)
    for request in arrivals:
        for device in {event.device for event in request.events}:
            times[device].append(request.at)
    return times


def _key(event_id: str) -> EventKey:
    number = int(event_id.replace("-", ""), 16)
    return number >> 64, number & (1 << 64) - 1
