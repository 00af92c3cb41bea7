"""Named faults of relays that share a database."""

from __future__ import annotations

import pytest

from tests.simulation.shared_world import SharedPlan, SharedWorld
from tests.simulation.test_shared_swarm import (
    Act,
    cut_off,
    database_down,
    kill,
    simulate,
    stop_before_next_request,
    terminate,
)
from tests.simulation.world import Device


def busy() -> list[Device]:
    return [Device(number, gap_ms=300, burst=3) for number in range(6)]


def stops() -> list[tuple[int, Act]]:
    """Stop each relay in turn between the last look at its lease and the first byte, for longer than the lease."""
    return [(at, stop_before_next_request(at // 20_000 % 2, 14.0)) for at in range(15_000, 95_000, 20_000)]


def at_the_limit() -> list[Device]:
    return [Device(number, gap_ms=200, burst=8) for number in range(2)]


def late_requests(seed: int) -> SharedWorld:
    return simulate(SharedPlan(2, at_the_limit(), stops(), duration_ms=100_000, latency_ms=(1, 5)), seed)


@pytest.mark.parametrize("seed", [5, 11])
def test_a_late_request_of_a_fenced_relay_keeps_the_device_limit(seed: int) -> None:
    world = late_requests(seed)
    assert world.watch.most_in_window == 12
    assert world.restarts >= 4


@pytest.mark.parametrize("seed", [1, 2])
def test_no_relay_is_fenced_when_the_database_returns(seed: int) -> None:
    world = simulate(SharedPlan(4, busy(), [(20_000, database_down(6.0))], duration_ms=40_000), seed)
    assert world.restarts == 0
    assert len(world.store.replicas) == 4


def test_a_stopped_relay_hands_over_at_once_and_a_killed_one_after_its_lease() -> None:
    world = simulate(
        SharedPlan(3, busy(), [(20_000, terminate(0, 1.0)), (30_000, kill(1, 1.0))], duration_ms=40_000), 3
    )
    assert not world.watch.sent_twice or world.restarts == 2


def test_a_relay_that_loses_its_lease_blames_no_upstream() -> None:
    """Its requests are reset at the end of the lease, or not sent. The world checks the states of the endpoints."""
    cuts = [(at, cut_off(at // 20_000 % 2, 8.0)) for at in range(15_000, 75_000, 20_000)]
    devices = [Device(number, gap_ms=300, burst=1) for number in range(30)]
    world = simulate(SharedPlan(2, devices, cuts, duration_ms=80_000, latency_ms=(2_000, 2_900)), 1)
    assert world.restarts >= 2
