"""Upstreams to which nothing was sent since the start: the relay learns whether they respond."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Literal, TypeAlias

import pytest
from relay.policy.upstream_origin import EndpointState

from tests.fault.sizes import some
from tests.simulation.scenario import light_devices, simulate
from tests.simulation.upstream import Fault, Origin
from tests.simulation.world import MINUTE_MS, Plan, World

QUIET_FOR_MS = 10 * MINUTE_MS
OTHER = {2: Origin("other")}


States: TypeAlias = dict[int, dict[int | None, EndpointState]]
"""The states of the upstreams by time and tenant."""


def observed(states: States, at: int) -> tuple[int, Callable[[World], None]]:
    def observe(world: World) -> None:
        assert world.relay
        now, schedule = world.clock.monotonic_ms(), world.relay.schedule
        views = {**schedule.freed_endpoints(now), **{view.tenant_id: view for view in schedule.endpoints(now)}}
        states[at] = {tenant_id: view.state for tenant_id, view in views.items()}

    return at, observe


def asked(world: World, tenant: int) -> list[int]:
    return [at for at, asked_tenant in world.upstream.asked_at if asked_tenant == tenant]


@pytest.mark.parametrize(
    ("kind", "state", "most"),
    [("401", "unauthorized", 5), ("404", "misconfigured", 5), ("503", "backing_off", 5), ("refused", "backing_off", 0)],
)
@pytest.mark.parametrize("seed", some([1], range(2, 30)))
def test_a_quiet_relay_shows_a_failing_upstream_and_its_recovery(
    kind: Literal["401", "404", "503", "refused"], state: EndpointState, most: int, seed: int
) -> None:
    states: States = {}
    healed_at = QUIET_FOR_MS + 6 * MINUTE_MS
    world = simulate(
        Plan(
            light_devices(1, gap_ms=1 << 50),
            duration_ms=healed_at + 1_000,
            faults=[Fault(kind, 0, QUIET_FOR_MS, tenant=0)],
            origins=OTHER,
            acts=[observed(states, at) for at in (9_000, 90_000, QUIET_FOR_MS - 1_000, healed_at)],
        ),
        seed,
    )
    assert states[9_000] == {}
    assert states[90_000] == {None: state, 2: "ok"}
    assert states[QUIET_FOR_MS - 1_000][None] == state
    assert states[healed_at] == {None: "ok", 2: "ok"}
    assert len(asked(world, 2)) == 1
    while_failing = [at for at in asked(world, 0) if at < QUIET_FOR_MS]
    assert len(while_failing) <= most
    assert all(later - earlier >= 30_000 for earlier, later in pairwise(while_failing))
