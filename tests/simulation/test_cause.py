"""Bad events that look like a wrong key, a wrong URL or an outage, and outages that look like bad events."""

from __future__ import annotations

from typing import Literal

import pytest

from tests.fault.sizes import some
from tests.simulation.checks import dead
from tests.simulation.scenario import light_devices, longest_wait_ms, simulate
from tests.simulation.upstream import Fault, Flaw
from tests.simulation.world import HOUR_MS, MINUTE_MS, Device, Plan, World

FLAWS: tuple[Flaw, ...] = ("403", "404", "501", "302", "page", "reset", "crash", "unnamed")
OLDEST_MS = 15_000


def honest(count: int = 3) -> list[Device]:
    """Return devices that are served before the first bad events, so that they are known."""
    return [Device(1_000 + i, gap_ms=18_000, backlog=1) for i in range(count)]


def assert_nobody_else_is_delayed(world: World) -> None:
    assert longest_wait_ms(world, range(1_000, 1_100)) <= OLDEST_MS
    assert world.states == {1: "ok"}


@pytest.mark.parametrize(
    ("flaw", "devices"),
    some(
        [("403", 20), ("page", 1), ("reset", 5), ("crash", 20), ("unnamed", 20)],
        [(flaw, devices) for flaw in FLAWS for devices in (1, 5, 20)],
    ),
)
def test_bad_events_of_known_devices_delay_no_other_device(flaw: Flaw, devices: int) -> None:
    bad = [Device(i, gap_ms=20_000, flaw=lambda n: flaw if n % 10 == 4 else "") for i in range(devices)]
    world = simulate(Plan([*bad, *honest()], duration_ms=20 * MINUTE_MS, drain_ms=48 * HOUR_MS))

    assert_nobody_else_is_delayed(world)


@pytest.mark.parametrize("flaw", some(["404", "crash", "unnamed"], ["403", "501", "302", "page", "reset"]))
def test_bad_events_of_made_up_devices_delay_no_other_device(flaw: Flaw) -> None:
    """Two of them arrive each second."""
    bad = [Device(i, gap_ms=2 * MINUTE_MS, flaw=lambda n: flaw) for i in range(240)]
    world = simulate(Plan([*bad, *honest()], duration_ms=2 * MINUTE_MS, drain_ms=48 * HOUR_MS))

    assert_nobody_else_is_delayed(world)


@pytest.mark.parametrize("kind", ["brownout", "database"])
@pytest.mark.parametrize(
    ("devices", "gap_ms"), some([(2, 10 * MINUTE_MS), (30, MINUTE_MS)], [(1, 20_000), (5, 30_000)])
)
def test_an_hour_of_failures_moves_nothing_to_the_dead_letters(
    kind: Literal["brownout", "database"], devices: int, gap_ms: int
) -> None:
    """80 % of all requests fail, or all requests with events while a batch without events is rejected as always."""
    fault = Fault(kind, 10 * MINUTE_MS, 70 * MINUTE_MS)
    world = simulate(Plan(light_devices(devices, gap_ms=gap_ms), 80 * MINUTE_MS, faults=[fault]))

    assert dead(world) == set()
