"""A wrong clock of the box affects neither timestamps nor decisions."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest

from tests.simulation.checks import check_timestamps
from tests.simulation.scenario import light_devices, simulate
from tests.simulation.upstream import Fault, Origin
from tests.simulation.virtual import DAY_MS, START_MS
from tests.simulation.world import HOUR_MS, MINUTE_MS, Crash, Device, Plan, World

TOLERANCE_MS = 31_000
"""The accepted error of the wall clock (30 s) and the resolution of a Date header."""
YEARS_56_MS = START_MS
JUMPS = {"1970": -YEARS_56_MS, "ten days ahead": 10 * DAY_MS, "an hour back": -HOUR_MS}


def clock_off_by(ms: int) -> Callable[[World], None]:
    def act(world: World) -> None:
        world.clock.wall_offset_ms = START_MS + ms

    return act


def test_a_box_that_starts_in_1970_sends_one_request_for_the_time_and_no_wrong_time() -> None:
    """The network is unavailable for ten minutes, so the time is unknown until then."""
    plan = Plan(
        [*light_devices(20), Device(100, own_time="1970-01-01T00:00:05.123Z")],
        acts=[(0, clock_off_by(-YEARS_56_MS))],
        faults=[Fault("refused", 0, 10 * MINUTE_MS)],
    )
    world = simulate(plan)

    check_timestamps(world, TOLERANCE_MS)
    assert len(world.upstream.asked_at) == 1


def test_timestamps_of_1970_are_corrected_even_if_the_clock_was_set_before_sending() -> None:
    plan = Plan(
        light_devices(20),
        acts=[(0, clock_off_by(-YEARS_56_MS)), (9 * MINUTE_MS, clock_off_by(0))],
        faults=[Fault("refused", 0, 10 * MINUTE_MS)],
    )
    world = simulate(plan)

    check_timestamps(world, TOLERANCE_MS)
    assert len(world.upstream.asked_at) == 1


@cache
def steps(*jumps: tuple[int, int]) -> World:
    """Simulate an hour with pauses of all kinds and clock jumps of (minute, new error in milliseconds)."""
    return simulate(
        Plan(
            [*light_devices(20, gap_ms=30_000), Device(100, own_time="2001-09-09T01:46:40+00:00")],
            acts=[(minute * MINUTE_MS, clock_off_by(ms)) for minute, ms in jumps],
            ip_limit=30,
            faults=[Fault("503", 30 * MINUTE_MS, 33 * MINUTE_MS), Fault("401", 50 * MINUTE_MS, 53 * MINUTE_MS)],
        )
    )


@pytest.mark.parametrize("by_ms", JUMPS.values(), ids=JUMPS)
def test_a_jumping_clock_changes_neither_rate_nor_timestamps_once_the_time_is_known(by_ms: int) -> None:
    still, jumped = steps(), steps((20, by_ms), (40, 0), (45, by_ms))

    check_timestamps(jumped, TOLERANCE_MS)
    assert [(r.at, r.keys) for r in jumped.upstream.arrivals] == [(r.at, r.keys) for r in still.upstream.arrivals]


def test_a_resent_event_is_unchanged_even_if_the_time_was_learned_meanwhile() -> None:
    """The relay is killed repeatedly with requests in flight, while a wrong clock jumps."""
    acts = [(at * MINUTE_MS, clock_off_by(off)) for at, off in ((0, -YEARS_56_MS), (3, 10 * DAY_MS), (7, -HOUR_MS))]
    crashes = [Crash(at * MINUTE_MS + 777, reboot=at % 4 == 2) for at in range(1, 10)]
    devices = light_devices(20, gap_ms=5_000)
    world = simulate(Plan(devices, duration_ms=10 * MINUTE_MS, acts=acts, crashes=crashes, latency_ms=(500, 3_000)))

    assert any(len(requests) > 1 for requests in world.upstream.accepted.values()), "nothing was sent twice"


@pytest.mark.parametrize("own_clock_ms", [0, -YEARS_56_MS], ids=["right", "never set"])
def test_a_wrong_date_of_one_origin_changes_no_event_of_another(own_clock_ms: int) -> None:
    """The upstream of tenant 2 is three hours ahead and responds long before the upstream of tenant 1."""
    plan = Plan(
        [*light_devices(10), *light_devices(10, first=10, tenant=2)],
        acts=[(0, clock_off_by(own_clock_ms))],
        faults=[Fault("refused", 0, 10 * MINUTE_MS, tenant=1)],
        origins={2: Origin("https://ahead.example:443", 3 * HOUR_MS)},
    )
    check_timestamps(simulate(plan), TOLERANCE_MS, tenant=1)
