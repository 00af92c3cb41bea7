"""Worlds drawn from seeds: every promise holds in all of them, and everything drains once the faults are over.

`SIM_SEED=123 pytest tests/simulation/test_swarm.py` replays one seed; a failure names its seed.
"""

from __future__ import annotations

import os

import pytest

from tests.simulation import swarm
from tests.simulation.checks import check_all
from tests.simulation.virtual import run
from tests.simulation.world import World

REGRESSIONS: list[int] = []
"""Seeds that failed once."""
QUICK = range(1, 7)
LARGE = range(100, 103)
_ASKED_FOR = os.environ.get("SIM_SEED")


def seeds(kept: range | list[int]) -> list[int]:
    return [int(_ASKED_FOR)] if _ASKED_FOR else list(kept)


def live(seed: int, *, devices: int, hours: float) -> World:
    world = World(swarm.plan(seed, devices=devices, hours=hours), seed)
    try:
        run(world.live())
        check_all(world)
    except BaseException:
        print(f"replay with: SIM_SEED={seed}")
        raise
    return world


@pytest.mark.parametrize("seed", seeds([*QUICK, *REGRESSIONS]))
def test_a_small_world(seed: int) -> None:
    live(seed, devices=20, hours=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", seeds(LARGE))
def test_a_thousand_devices_for_hours(seed: int) -> None:
    live(seed, devices=1_000, hours=2)


def test_the_same_seed_takes_the_same_steps_and_another_does_not() -> None:
    first, again, other = (live(seed, devices=20, hours=0.5) for seed in (7, 7, 8))
    assert first.fingerprint == again.fingerprint
    assert first.fingerprint != other.fingerprint
