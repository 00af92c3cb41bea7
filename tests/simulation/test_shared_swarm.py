"""Several relays on one database: every promise holds, whatever happens to relays, connections and database.

`SIM_SEED=123 pytest tests/simulation/test_shared_swarm.py` replays one seed. RELAY_NIGHTLY=1 runs more worlds.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from random import Random

import pytest

from tests.contract.boxes import ledger_of
from tests.simulation.shared_world import SHARED_LIMITS, SharedPlan, SharedWorld
from tests.simulation.virtual import run
from tests.simulation.world import Device

NIGHTLY = os.environ.get("RELAY_NIGHTLY") == "1"
REGRESSIONS = [4, 40, 62]
"""Seeds that revealed a fault of the outbox or of a check."""
_REQUESTED_SEED = os.environ.get("SIM_SEED")
SEEDS = [int(_REQUESTED_SEED)] if _REQUESTED_SEED else [*range(1, 301 if NIGHTLY else 4), *REGRESSIONS]

Act = Callable[[SharedWorld], None]


def kill(number: int, down_s: float) -> Act:
    return lambda world: _background(world, world.kill(number, down_s))


def terminate(number: int, down_s: float) -> Act:
    return lambda world: _background(world, world.terminate(number, down_s))


def _background(world: SharedWorld, work: object) -> None:
    world.tasks.start("fault", work)  # type: ignore[arg-type]


def stop(number: int, duration_s: float) -> Act:
    def act(world: SharedWorld) -> None:
        if number in world.relays:
            world.relays[number].process.stop(duration_s)

    return act


def stop_before_next_request(number: int, duration_s: float) -> Act:
    def act(world: SharedWorld) -> None:
        if number in world.relays:
            world.relays[number].process.stops_before_next_request_s = duration_s

    return act


def cut_off(number: int, duration_s: float) -> Act:
    def act(world: SharedWorld) -> None:
        if number in world.relays:
            process = world.relays[number].process
            process.is_cut_off = True
            _background(world, _later(duration_s, lambda: setattr(process, "is_cut_off", False)))

    return act


def database_down(duration_s: float) -> Act:
    def act(world: SharedWorld) -> None:
        world.is_database_down = True
        _background(world, _later(duration_s, lambda: setattr(world, "is_database_down", False)))

    return act


async def _later(delay_s: float, what: Callable[[], None]) -> None:
    await asyncio.sleep(delay_s)
    what()


def plan(seed: int) -> SharedPlan:
    rng = Random(f"shared plan {seed}")
    relays = rng.randint(1, 4)
    faults: list[tuple[int, Act]] = []
    for _ in range(rng.randrange(6)):
        number, long = rng.randrange(relays), rng.choice([1.0, 5.0, 14.0])
        kind = rng.choice([kill, terminate, stop, stop_before_next_request, cut_off])
        faults.append((rng.randrange(5_000, 50_000), kind(number, long)))
    if rng.random() < 0.4:
        faults.append((rng.randrange(5_000, 50_000), database_down(rng.choice([1.0, 6.0]))))
    devices = [Device(number, gap_ms=rng.choice([300, 2_000]), burst=rng.choice([1, 3])) for number in range(12)]
    return SharedPlan(relays, devices, faults, latency_ms=rng.choice([(1, 5), (5, 200), (100, 2_000)]))


def simulate(shared: SharedPlan, seed: int) -> SharedWorld:
    async def made() -> SharedWorld:
        world = SharedWorld(shared, seed)
        await world.simulate()
        return world

    try:
        world = run(made())
        check_all(world)
    except BaseException:
        print(f"replay with: SIM_SEED={seed}")
        raise
    return world


def check_all(world: SharedWorld) -> None:
    offered = {(device.number, n) for device in world.plan.devices for n in range(device.offered)}
    delivered = set(world.upstream.accepted)
    assert offered - delivered == set(), "lost"
    assert delivered - offered == set(), "invented"
    ledger = ledger_of(world.store)
    assert (ledger.accepted, ledger.delivered, ledger.pending) == (len(offered), len(offered), 0)
    faults = len(world.plan.faults)
    assert len(world.watch.sent_twice) <= faults * SHARED_LIMITS.max_in_flight * SHARED_LIMITS.max_events


@pytest.mark.parametrize("seed", SEEDS)
def test_shared_worlds(seed: int) -> None:
    simulate(plan(seed), seed)
