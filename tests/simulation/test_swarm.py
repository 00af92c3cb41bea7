"""Random worlds: every promise holds in each of them, and everything drains after the faults.

`SIM_SEED=123 pytest tests/simulation/test_swarm.py -k small` replays one seed. A failure prints its seed, and the first
step that breaks a promise ends the run. RELAY_NIGHTLY=1 runs more and larger worlds.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import pytest
from relay.policy import endpoints

from tests.simulation import swarm
from tests.simulation.checks import check_all
from tests.simulation.virtual import run
from tests.simulation.world import Plan, World

NIGHTLY = os.environ.get("RELAY_NIGHTLY") == "1"
REGRESSIONS = [27]
"""Seeds of small worlds that revealed a fault of the relay or of a check."""
SMALL = range(1, 201) if NIGHTLY else range(1, 5)
SHARED = range(300, 400) if NIGHTLY else range(300, 303)
LARGE = range(100, 110) if NIGHTLY else range(100, 101)
DAYS = range(200, 205) if NIGHTLY else range(200, 201)
_REQUESTED_SEED = os.environ.get("SIM_SEED")


def seeds(kept: Sequence[int]) -> list[int]:
    return [int(_REQUESTED_SEED)] if _REQUESTED_SEED else list(kept)


def simulate(plan: Plan, seed: int) -> World:
    world = World(plan, seed)
    try:
        run(world.simulate())
        check_all(world)
    except BaseException:
        print(f"replay with: SIM_SEED={seed}")
        raise
    return world


def small(seed: int, hours: float = 0.5) -> World:
    return simulate(swarm.plan(seed, devices=20, hours=hours), seed)


@pytest.mark.parametrize("seed", seeds([*SMALL, *REGRESSIONS]))
def test_a_small_world(seed: int) -> None:
    small(seed, hours=1 if NIGHTLY else 0.5)


@pytest.mark.parametrize("seed", seeds(SHARED))
def test_a_small_world_of_tenants_that_share_an_endpoint(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tenants move to their own endpoints and back all the time."""
    monkeypatch.setattr(endpoints, "MAX_UNPROVEN", seed % 3)
    plan = swarm.plan(seed, devices=20, hours=1 if NIGHTLY else 0.5)
    for device in plan.devices:
        device.tenant = 1 + device.number % 7
    simulate(plan, seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", seeds(LARGE))
def test_a_busy_site(seed: int) -> None:
    size = {"devices": 1_000, "hours": 2} if NIGHTLY else {"devices": 200, "hours": 1}
    simulate(swarm.plan(seed, **size), seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", seeds(DAYS))
def test_thousands_of_quiet_devices_for_days(seed: int) -> None:
    size = {"devices": 10_000, "hours": 48} if NIGHTLY else {"devices": 2_000, "hours": 12}
    simulate(swarm.plan(seed, **size, gap_min=(360, 720, 1_440)), seed)


def test_the_same_seed_takes_the_same_steps_and_another_does_not() -> None:
    first, again, other = (small(seed, hours=0.1) for seed in (7, 7, 8))
    assert first.fingerprint == again.fingerprint
    assert first.fingerprint != other.fingerprint
