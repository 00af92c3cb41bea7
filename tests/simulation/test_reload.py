"""A reload of a running relay: what is known of the previous configuration does not count for the new one."""

from __future__ import annotations

from typing import Literal

import pytest

from tests.simulation.scenario import simulate
from tests.simulation.upstream import Fault
from tests.simulation.world import HOUR_MS, LIMITS, MINUTE_MS, Device, Plan, World

LATENCY_MS = 2_000
RELOADED_AT = 3_000


def reload(world: World) -> None:
    assert world.relay
    world.relay.forwarder.configure(LIMITS)


@pytest.mark.parametrize("kind", ["404", "401", "503"])
def test_a_failure_of_a_request_from_before_a_reload_delays_no_event(kind: Literal["404", "401", "503"]) -> None:
    """The first request is in flight at the reload, and then fails because of the previous URL or key."""
    devices = [Device(number, backlog=LIMITS.max_events, gap_ms=HOUR_MS) for number in range(3)]
    world = simulate(
        Plan(
            devices,
            MINUTE_MS,
            latency_ms=(LATENCY_MS, LATENCY_MS),
            faults=[Fault(kind, 0, RELOADED_AT)],
            acts=[(RELOADED_AT, reload)],
        )
    )
    assert all(world.upstream.accepted[number, 0][0].at < RELOADED_AT + 2 * LATENCY_MS for number in range(3))
