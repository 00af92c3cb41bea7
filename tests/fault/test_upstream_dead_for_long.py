"""An upstream that is away for hours, in simulated time: a bounded number of requests, then it all drains."""

from __future__ import annotations

from typing import Literal

import pytest

from tests.fault.sizes import some
from tests.simulation.checks import check_all
from tests.simulation.upstream import Fault
from tests.simulation.virtual import run
from tests.simulation.world import HOUR_MS, MINUTE_MS, Device, Plan, World

SINCE_MS = 10 * MINUTE_MS
PER_HOUR = 60
"""retry.max is 5 min, half of it by full jitter: 24 an hour, more while the pauses still grow, and luck."""
HELD_PER_HOUR = 20
"""Where a person is needed the pauses end at 5 min, all of them: 12 an hour."""


@pytest.mark.parametrize("hours", some([1], [24]))
@pytest.mark.parametrize(
    ("kind", "per_hour"),
    [("refused", PER_HOUR), ("blackhole", PER_HOUR), ("503", PER_HOUR), ("401", HELD_PER_HOUR), ("404", HELD_PER_HOUR)],
)
def test_requests_to_a_dead_upstream_are_few(
    kind: Literal["refused", "blackhole", "503", "401", "404"], per_hour: int, hours: int
) -> None:
    """A cut cable, a key forgotten over a weekend: ten boxes' apps go on, and the upstream is not hammered."""
    until_ms = SINCE_MS + hours * HOUR_MS
    plan = Plan(
        [Device(number) for number in range(10)],
        duration_ms=until_ms + 10 * MINUTE_MS,
        faults=[Fault(kind, SINCE_MS, until_ms)],
    )
    world = World(plan, seed=1)
    run(world.simulate())
    check_all(world)
    tries = [request for request in world.upstream.sent if SINCE_MS <= request.sent_at < until_ms]
    assert 3 * hours < len(tries) <= per_hour * hours
