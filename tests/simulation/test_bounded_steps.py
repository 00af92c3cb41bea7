"""No decision takes longer because there are more devices: a flush and new limits reach them in bounded steps."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from relay.policy.schedule import Schedule

from tests.simulation.scenario import light_devices, simulate
from tests.simulation.world import HOUR_MS, LIMITS, MINUTE_MS, Plan, World
from tests.support.calls import count_calls

DEVICES = 20_000 if os.environ.get("RELAY_NIGHTLY") == "1" else 3_000
MAX_CALLS = 20_000
"""Maximum number of function calls of one decision: of a step, and of one request of many devices."""


def flush(world: World) -> None:
    assert world.relay
    world.relay.forwarder.flush()


def reload(world: World) -> None:
    assert world.relay
    world.relay.forwarder.configure(replace(LIMITS, linger_ms=MINUTE_MS, mix_devices="always"))


@pytest.mark.parametrize("act", [flush, reload, None])
def test_the_work_of_a_decision_does_not_grow_with_the_number_of_devices(
    act: Callable[[World], None] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All devices have pending events, whose linger times end together after an hour without an act."""

    def bounded(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            counts: list[int] = []
            with count_calls(counts):
                result = method(*arguments)
            assert counts[0] <= MAX_CALLS, f"{method.__name__} called {counts[0]} functions"
            return result

        return call

    for name in ("flush", "configure", "next"):
        monkeypatch.setattr(Schedule, name, bounded(getattr(Schedule, name)))
    devices = light_devices(DEVICES, gap_ms=20 * MINUTE_MS)
    limits = replace(LIMITS, linger_ms=HOUR_MS, mix_devices="always")
    acts = [(30 * MINUTE_MS, act)] if act else []
    world = simulate(Plan(devices, 40 * MINUTE_MS, limits, acts=acts, max_devices=2 * DEVICES))
    assert len({key[0] for key in world.upstream.accepted}) >= DEVICES
