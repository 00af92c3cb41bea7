"""Helpers of the named scenarios and measurements."""

from __future__ import annotations

from dataclasses import replace

from tests.simulation.checks import check_all
from tests.simulation.virtual import run
from tests.simulation.world import LIMITS, MINUTE_MS, Device, Plan, World

SEED = 1
SMALL_BATCHES = replace(LIMITS, max_events=5)
MAX_WAIT_MS = LIMITS.linger_ms + 3_000
"""Maximum age of a pending event of a device without faults: the linger time and one earlier request."""


def simulate(plan: Plan, seed: int = SEED) -> World:
    world = World(plan, seed)
    run(world.simulate())
    check_all(world)
    return world


def light_devices(count: int, *, first: int = 0, gap_ms: int = MINUTE_MS, tenant: int = 1) -> list[Device]:
    return [Device(first + i, tenant=tenant, gap_ms=gap_ms) for i in range(count)]


def waits_ms(world: World, numbers: range, since: int = 0) -> list[int]:
    """Return the sorted delays from the 202 of an event to its delivery, for events stored before the final drain."""
    return sorted(
        world.upstream.accepted[key][0].at - at
        for key, at in world.offered_at.items()
        if key[0] in numbers and since <= at < world.plan.duration_ms
    )


def longest_wait_ms(world: World, numbers: range, since: int = 0) -> int:
    return waits_ms(world, numbers, since)[-1]
