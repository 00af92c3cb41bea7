"""Known devices with few pending events beside backlogs and floods of new devices (G6)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from tests.simulation.checks import dead
from tests.simulation.scenario import light_devices, longest_wait_ms, simulate
from tests.simulation.upstream import Fault
from tests.simulation.world import HOUR_MS, LIMITS, MINUTE_MS, Crash, Device, Plan, World

QUIET = range(20)
WINDOW_MS = LIMITS.window_ms


def silent(count: int, *, first: int = 1_000, tenant: int = 1) -> list[Device]:
    """Return devices that send nothing until `send`."""
    return [Device(first + i, tenant=tenant, gap_ms=10_000 * HOUR_MS) for i in range(count)]


def send(devices: Sequence[Device], events: int) -> Callable[[World], None]:
    """Return an action in which each device sends a batch of `events` events."""

    def act(world: World) -> None:
        for device in devices:
            device.offering = events
            world._offer(device)

    return act


def test_a_quiet_device_waits_for_two_windows_at_most_behind_the_backlog_of_a_thousand_known_devices() -> None:
    """100,000 events under a shared limit of 20 need ten windows."""
    busy = silent(1_000)
    world = simulate(
        Plan(
            [*light_devices(len(QUIET), gap_ms=MINUTE_MS), *busy],
            20 * MINUTE_MS,
            ip_limit=20,
            acts=[(MINUTE_MS, send(busy, 1)), (10 * MINUTE_MS, send(busy, 100))],
        )
    )

    assert longest_wait_ms(world, range(1_000, 2_000), since=10 * MINUTE_MS) >= 9 * WINDOW_MS
    assert longest_wait_ms(world, QUIET) <= 2 * WINDOW_MS


@pytest.mark.parametrize("down_ms", [0, WINDOW_MS + 10_000])
def test_a_flood_of_new_devices_and_tenants_delays_known_devices_by_seconds(down_ms: int) -> None:
    """Known devices stay known when the relay was down for more than a window before the flood."""
    since = MINUTE_MS + down_ms
    flood = [device for tenant in range(1, 26) for device in silent(120, first=1_000 * tenant, tenant=tenant)]
    world = simulate(
        Plan(
            light_devices(len(QUIET), gap_ms=MINUTE_MS) + flood,
            since + 2 * MINUTE_MS,
            replace(LIMITS, mix_devices="never"),
            crashes=[Crash(MINUTE_MS, down_ms)] if down_ms else (),
            acts=[(since + 1, send(flood, 1))],
        )
    )

    assert longest_wait_ms(world, range(1_000, 60_000)) >= 30_000
    assert longest_wait_ms(world, QUIET, since) <= 15_000


def test_under_a_shared_limit_a_flood_of_new_devices_and_tenants_delays_known_devices_by_two_windows_at_most() -> None:
    flood = [device for tenant in range(1, 11) for device in silent(200, first=1_000 * tenant, tenant=tenant)]
    world = simulate(
        Plan(
            light_devices(len(QUIET), gap_ms=MINUTE_MS) + flood,
            20 * MINUTE_MS,
            ip_limit=20,
            acts=[(5 * MINUTE_MS, send(flood, 1))],
        )
    )

    assert longest_wait_ms(world, QUIET) <= 2 * WINDOW_MS


def test_each_class_of_devices_gets_an_eighth_of_the_requests_while_all_have_pending_events() -> None:
    backlog, new = silent(5), silent(200, first=10_000)
    since, until = 8 * MINUTE_MS, 38 * MINUTE_MS
    plan = Plan(
        [*light_devices(30, gap_ms=10_000), *backlog, *new],
        until,
        replace(LIMITS, mix_devices="never", max_events=50),
        ip_limit=20,
        acts=[(4 * MINUTE_MS, send(backlog, 10_000)), (6 * MINUTE_MS, send(new, 1))],
        drain_ms=40 * HOUR_MS,
    )
    world = simulate(plan)

    known, served = set[int](), Counter[str]()
    for request in sorted(world.upstream.arrivals, key=lambda request: request.at):
        if request.status != 202:
            continue
        device = request.events[0].device
        if since <= request.at < until:
            served["new" if device not in known else "quiet" if device < 1_000 else "backlog"] += 1
        known.add(device)
    assert set(served) == {"new", "quiet", "backlog"}
    assert min(served.values()) >= served.total() / 8, served


@pytest.mark.parametrize("unknown", [False, True], ids=["accepted", "unauthorized"])
def test_made_up_tenants_delay_known_devices_by_two_windows_at_most_under_a_shared_limit(unknown: bool) -> None:
    """36 of them share an endpoint. The upstream accepts their events, or rejects the key for them."""
    since, until = 5 * MINUTE_MS, 15 * MINUTE_MS
    flood = [device for tenant in range(100, 200) for device in silent(1, first=1_000 + tenant, tenant=tenant)]
    faults = [Fault("401", since, until, tenant=device.tenant) for device in flood if unknown]
    plan = Plan(
        [*light_devices(len(QUIET), gap_ms=MINUTE_MS), *flood],
        until,
        faults=faults,
        ip_limit=20,
        acts=[(since, send(flood, 2))],
        drain_ms=40 * HOUR_MS,
    )
    world = simulate(plan)

    assert longest_wait_ms(world, QUIET) <= 2 * WINDOW_MS
    later = [request for request in world.upstream.arrivals if since + MINUTE_MS <= request.at < until]
    assert sum(request.status == 429 for request in later) <= len(later) / 20
    assert dead(world) == set()
