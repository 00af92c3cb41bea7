"""Tenants and devices that hang delay no others that were served meanwhile, and the first event of each not for long.

`watch` checks the request slots and connections.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.fault.sizes import size
from tests.simulation.scenario import light_devices, longest_wait_ms, simulate
from tests.simulation.upstream import Fault
from tests.simulation.world import LIMITS, MINUTE_MS, Crash, Device, Plan, World

BEGINNING, LATER, END = 0, 1 * MINUTE_MS, 4 * MINUTE_MS
CRASH = Crash(2 * MINUTE_MS)
TARGET_MS = LIMITS.linger_ms + 1_000
STALLED_MS = 5_000
NOTICED_MS = 1_000
"""Time until the first request that hangs is overdue. Others are sent meanwhile."""
GOOD = range(100, 120)
Hanging = tuple[list[Device], list[Fault]]


def good_devices() -> list[Device]:
    return light_devices(len(GOOD), first=GOOD.start, gap_ms=20_000)


def silent_tenants(since: int, tenants: int = 2) -> Hanging:
    numbers = range(2, 2 + tenants)
    devices = [device for n in numbers for device in light_devices(30, first=1_000 * n, tenant=n, gap_ms=20_000)]
    return devices, [Fault("blackhole", since, END, tenant=n) for n in numbers]


def hanging_devices(since: int, count: int = 9) -> Hanging:
    fault = Fault("silent device", since, END, devices=frozenset(range(count)))
    return light_devices(count, gap_ms=10_000), [fault]


def both(since: int) -> Hanging:
    (tenants, silent), (devices, hanging) = silent_tenants(since), hanging_devices(since)
    return [*tenants, *devices], [*silent, *hanging]


def tried(world: World) -> tuple[int, int]:
    """Return when the first request that hangs was sent, and until when each of the others had hung."""
    hung: dict[tuple[int, int], int] = {}
    for request in world.upstream.sent:
        if request.at >= LATER and request.response is None:
            tenant, device = request.tenant, request.events[0].device
            hung.setdefault((tenant, device if tenant == 1 else 0), request.sent_at)
    return min(hung.values()), max(hung.values()) + STALLED_MS


def waits_of_served_ms(world: World, since: int, offered_from: int = 0) -> list[int]:
    """Return the delays of the events that good devices offered after the first delivery since then."""
    served_at: dict[int, int] = {}
    for (device, _), (request, *_) in sorted(world.upstream.accepted.items(), key=lambda each: each[1][0].at):
        if request.at >= since:
            served_at.setdefault(device, request.at)
    return [
        world.upstream.accepted[key][0].at - at
        for key, at in world.offered_at.items()
        if key[0] in GOOD and max(offered_from, served_at[key[0]]) <= at < world.plan.duration_ms
    ]


@pytest.mark.parametrize("since", [BEGINNING, LATER], ids=["from the start", "later"])
@pytest.mark.parametrize(
    ("hanging", "target_ms"),
    [(silent_tenants, TARGET_MS), (hanging_devices, TARGET_MS), (both, LIMITS.linger_ms + 3_000)],
    ids=["tenants", "devices", "both"],
)
@pytest.mark.parametrize("crashes", [(), (CRASH,)], ids=["", "with a crash"])
def test_what_hangs_does_not_delay_others(
    hanging: Callable[[int], Hanging], target_ms: int, since: int, crashes: tuple[Crash, ...]
) -> None:
    """A crash restarts the linger time of pending events, so that they count from then on."""
    devices, faults = hanging(since)
    world = simulate(Plan([*good_devices(), *devices], 5 * MINUTE_MS, faults=faults, crashes=crashes))

    late = [
        (key, world.upstream.accepted[key][0].at - max(at, restarted))
        for key, at in world.offered_at.items()
        if key[0] in GOOD and at < world.plan.duration_ms
        for restarted in [world.starts[-1].at if at < CRASH.at <= world.upstream.accepted[key][0].at else 0]
    ]
    assert max(waited for _, waited in late) <= target_ms


@pytest.mark.parametrize(
    ("hanging", "rounds"),
    [
        (silent_tenants(LATER, 4), 0),
        (silent_tenants(LATER, 5), 0),
        (silent_tenants(LATER, 12), 2),
        (hanging_devices(LATER, 20), 2),
        (hanging_devices(LATER, 40), 3),
    ],
    ids=["4 tenants", "5 tenants", "12 tenants", "20 devices", "40 devices"],
)
def test_many_that_hang_delay_only_the_first_event_of_each_other_one(hanging: Hanging, rounds: int) -> None:
    """Nobody can know which ones hang before they were tried, and each request that hangs occupies its slot for 5 s."""
    devices, faults = hanging
    world = simulate(Plan([*good_devices(), *devices], 5 * MINUTE_MS, faults=faults))

    assert longest_wait_ms(world, GOOD) <= TARGET_MS + rounds * STALLED_MS
    assert max(waits_of_served_ms(world, LATER)) <= TARGET_MS


@pytest.mark.parametrize("site", range(size(2, 30)))
@pytest.mark.parametrize(
    ("hanging", "count"),
    [(silent_tenants, 4), (silent_tenants, 5), (silent_tenants, 12), (hanging_devices, 20), (hanging_devices, 40)],
    ids=["4 tenants", "5 tenants", "12 tenants", "20 devices", "40 devices"],
)
def test_many_that_hang_delay_others_by_few_rounds_at_any_phases(
    hanging: Callable[[int, int], Hanging], count: int, site: int
) -> None:
    """At unlucky phases, those that hang are tried one after the other, and others wait longer."""
    devices, faults = hanging(LATER, count)
    world = simulate(Plan([*good_devices(), *devices], 5 * MINUTE_MS, faults=faults, site=f"{site}-"))

    rounds = -(-count // LIMITS.max_in_flight)
    assert longest_wait_ms(world, GOOD) <= TARGET_MS + rounds * (NOTICED_MS + STALLED_MS)
    assert max(waits_of_served_ms(world, *tried(world))) <= TARGET_MS


def test_after_a_silence_of_all_the_next_events_are_soon_sent() -> None:
    """Requests that hang are lost. Trials while they hang notice the recovery."""
    fault = Fault("blackhole", LATER, LATER + 20_000)
    world = simulate(Plan(light_devices(40, gap_ms=10_000), 3 * MINUTE_MS, faults=[fault]))

    arrived = [request.at for request in world.upstream.arrivals if request.at >= fault.until and request.response]
    assert arrived[0] <= fault.until + 5_000
    assert longest_wait_ms(world, range(40), since=fault.until + 5_000) <= 31_000, "in order, after a lost request"


@pytest.mark.parametrize("latency_ms", [(1_400, 1_500), (2_400, 2_500)])
def test_an_upstream_that_is_slow_for_all_gets_no_more_requests_at_a_time(latency_ms: tuple[int, int]) -> None:
    devices = [Device(i, backlog=30, gap_ms=60 * MINUTE_MS) for i in range(60)]
    limits = replace(LIMITS, max_events=5)
    world = simulate(Plan(devices, MINUTE_MS, limits, latency_ms=latency_ms))

    sent = world.upstream.sent
    for request in sent:
        at = request.sent_at
        others = [other for other in sent if other.sent_at <= at < (other.returned_at or at + 1)]
        assert len(others) <= limits.max_in_flight
