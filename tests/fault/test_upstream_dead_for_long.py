"""An upstream that is unavailable for hours, in simulated time: requests are few, then all events are delivered."""

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
"""Maximum number of requests. Full jitter halves retry.max of 5 min on average: 24 an hour, and more at first."""
UNSENT_PER_HOUR = 600
"""Maximum number of attempts that do not leave the machine. Full jitter halves 15 s on average: 480 an hour."""
SLOW_PER_HOUR = 20
"""Maximum number of requests to an endpoint that waits for an operator. Its pauses grow to 5 min: 12 an hour."""


@pytest.mark.parametrize("hours", some([1], [24]))
@pytest.mark.parametrize(
    ("kind", "per_hour"),
    [
        ("refused", UNSENT_PER_HOUR),
        ("blackhole", PER_HOUR),
        ("503", PER_HOUR),
        ("401", SLOW_PER_HOUR),
        ("404", SLOW_PER_HOUR),
    ],
)
def test_requests_to_a_dead_upstream_are_few(
    kind: Literal["refused", "blackhole", "503", "401", "404"], per_hour: int, hours: int
) -> None:
    """Ten apps continue to send through a cut cable or a wrong key over a weekend."""
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
