"""Measure rate shaping in virtual time: `python -m tests.simulation.measure [NAME ...]` prints a table.

Real schedule and forwarder, simulated upstream with the framework's fixed windows. Same seed, same figures.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from math import inf
from statistics import median

import structlog

from tests.simulation import swarm
from tests.simulation.checks import check_all
from tests.simulation.scenario import SMALL_BATCHES, light_devices, simulate, waits_ms
from tests.simulation.test_isolation import send, silent
from tests.simulation.upstream import Fault, Limiter
from tests.simulation.virtual import run
from tests.simulation.world import HOUR_MS, LIMITS, MINUTE_MS, Crash, Device, Plan, World

Row = tuple[str, str]
SHARED_LIMIT = 20


def device_limit() -> Iterator[Row]:
    """One device with more events than its limit permits."""
    windows = 20
    device = Device(1, backlog=(windows + 2) * 120 * 5, gap_ms=10 * HOUR_MS)
    world = simulate(Plan([device], duration_ms=windows * MINUTE_MS, limits=SMALL_BATCHES, latency_ms=(5, 50)))
    sent = [request.status for request in world.upstream.arrivals if request.at < windows * MINUTE_MS]
    yield "requests, relative to 120 per minute", f"{len(sent) / (120 * windows):.1%} of {120 * windows}"
    yield "429s", str(sent.count(429))


def shared_limit() -> Iterator[Row]:
    """50 devices with backlogs and an unknown shared limit of 20 requests a minute, which is lifted after an hour."""

    def lift(world: World) -> None:
        world.upstream.ip_limiter = None

    devices = [Device(i, backlog=1_500, gap_ms=10 * HOUR_MS) for i in range(50)]
    limits = replace(SMALL_BATCHES, mix_devices="never")
    plan = Plan(devices, 3 * HOUR_MS, limits, ip_limit=SHARED_LIMIT, acts=[(HOUR_MS, lift)], drain_ms=48 * HOUR_MS)
    world = simulate(plan)
    used = [
        sum(request.status == 202 for request in world.upstream.arrivals if at <= request.at < at + MINUTE_MS)
        for at in range(0, 3 * HOUR_MS, MINUTE_MS)
    ]
    found = next(window + 1 for window, count in enumerate(used) if count >= 0.9 * SHARED_LIMIT)
    later = [request.status for request in world.upstream.arrivals if 3 * MINUTE_MS <= request.at < HOUR_MS]
    yield "windows until 90 % of a limit of 20 is used", str(found)
    yield "used share of the limit from the third window on", f"{sum(used[3:60]) / (57 * SHARED_LIMIT):.1%}"
    yield "429s from the third window on", f"{later.count(429) / len(later):.1%} of {len(later)} responses"
    for times in (2, 10, 50):
        left = next((minute for minute, count in enumerate(used[60:], 1) if count >= times * SHARED_LIMIT), inf)
        yield f"minutes from its end until {times} times its rate", str(left)


def two_tenants() -> Iterator[Row]:
    """Two tenants with 25 devices each, all with backlogs, and a shared limit of 20 requests a minute for both."""
    devices = [Device(i, tenant=1 + i % 2, backlog=1_000, gap_ms=10 * HOUR_MS) for i in range(50)]
    limits = replace(SMALL_BATCHES, mix_devices="never")
    world = simulate(Plan(devices, HOUR_MS, limits, ip_limit=SHARED_LIMIT, drain_ms=96 * HOUR_MS))
    later = [request for request in world.upstream.arrivals if 3 * MINUTE_MS <= request.at < HOUR_MS]
    accepted = [sum(request.status == 202 and request.tenant == tenant for request in later) for tenant in (1, 2)]
    limited = len(later) - sum(accepted)
    yield "used share of the limit from the third window on", f"{sum(accepted) / (57 * SHARED_LIMIT):.1%}"
    yield "429s from the third window on", f"{limited / len(later):.1%} of {len(later)} responses"
    yield "accepted requests, by tenant", f"{accepted[0]} and {accepted[1]}"


def made_up_tenants() -> Iterator[Row]:
    """100 tenants send for the first time, beside 20 known devices of another tenant, under a shared limit of 20."""
    flood = [Device(1_000 + n, tenant=1_000 + n, gap_ms=10_000 * HOUR_MS) for n in range(100)]

    def send(world: World) -> None:
        for device in flood:
            device.offering = 2
            world._offer(device)

    devices = [*light_devices(20, gap_ms=5_000), *flood]
    acts = [(5 * MINUTE_MS, send)]
    world = simulate(Plan(devices, 15 * MINUTE_MS, ip_limit=SHARED_LIMIT, acts=acts, drain_ms=40 * HOUR_MS))
    later = [request.status for request in world.upstream.arrivals if 5 * MINUTE_MS <= request.at < 15 * MINUTE_MS]
    yield "oldest pending event, known devices", f"{waits_ms(world, range(20), 5 * MINUTE_MS)[-1] / 1000:.1f} s"
    yield "429s", f"{later.count(429)} of {len(later)} responses"


def named_events_under_a_shared_limit() -> World:
    """Run 20 devices with a bad event in each batch, beside 20 others, all with a limit of 20 requests a minute."""
    bad = [Device(i, gap_ms=10_000, burst=2, flaw=lambda n: "named" if n % 2 else "") for i in range(20)]
    limits = replace(LIMITS, mix_devices="always")
    return simulate(Plan([*bad, *light_devices(20, first=100, gap_ms=10_000)], 10 * MINUTE_MS, limits, ip_limit=20))


def named_events() -> Iterator[Row]:
    """The cost of bad events that the upstream names, for other devices under a shared limit."""
    world = named_events_under_a_shared_limit()
    arrived = [request.status for request in world.upstream.arrivals if request.at < world.plan.duration_ms]
    waits = waits_ms(world, range(100, 120), since=3 * MINUTE_MS)
    yield "rejected requests", f"{arrived.count(422)} of {len(arrived)}"
    yield (
        "delay of others from the fourth minute on, median and maximum",
        f"{median(waits) / 1000:.1f} s, {waits[-1] / 1000:.1f} s",
    )


def fairness() -> Iterator[Row]:
    """30 devices with little traffic beside ten above their limit, one with poison events and one throttled device."""
    busy = [Device(i, backlog=30_000, gap_ms=10 * HOUR_MS) for i in range(10)]
    poisoned = Device(20, gap_ms=20_000, flaw=lambda n: "crash" if n % 10 == 7 else "")
    throttled = Device(21, gap_ms=5_000)
    fault = Fault("429 device", 0, HOUR_MS, devices=frozenset({21}))
    devices = [*busy, poisoned, throttled, *light_devices(30, first=100, gap_ms=20_000)]
    world = simulate(Plan(devices, 30 * MINUTE_MS, SMALL_BATCHES, faults=[fault], drain_ms=48 * HOUR_MS))
    for name, numbers in (("light", range(100, 130)), ("busy", range(10))):
        waits = waits_ms(world, numbers)
        yield (
            f"oldest pending event, {name} devices",
            f"{waits[-1] / 1000:.1f} s (median {waits[len(waits) // 2] / 1000:.1f} s)",
        )


def hanging() -> Iterator[Row]:
    """40 devices of one tenant beside silent tenants, and beside hanging devices of their own tenant."""
    since, until = 5 * MINUTE_MS, 14 * MINUTE_MS
    for tenants, devices in ((2, 0), (12, 0), (2, 9), (0, 9), (0, 40)):
        numbers = range(2, 2 + tenants)
        faults = [Fault("blackhole", since, until, tenant=n) for n in numbers]
        faults.append(Fault("silent device", since, until, devices=frozenset(range(devices))))
        fleet = [device for n in numbers for device in light_devices(50, first=1_000 * n, tenant=n, gap_ms=30_000)]
        fleet += [*light_devices(devices, gap_ms=10_000), *light_devices(40, first=100, gap_ms=30_000)]
        world = simulate(Plan(fleet, 15 * MINUTE_MS, faults=faults))
        first, later = waits_ms(world, range(100, 140))[-1], waits_ms(world, range(100, 140), since + MINUTE_MS)[-1]
        yield (
            f"oldest pending event beside {tenants} silent tenants and {devices} hanging devices",
            f"{first / 1000:.1f} s (after the first minute {later / 1000:.1f} s)",
        )


def isolation() -> Iterator[Row]:
    """20 quiet devices beside 100,000 events of 1,000 devices under a shared limit, and beside a flood of new ones."""
    busy, flood, quiet = silent(1_000), silent(10_000), light_devices(20)
    acts = [(MINUTE_MS, send(busy, 1)), (10 * MINUTE_MS, send(busy, 100))]
    world = simulate(Plan([*quiet, *busy], 20 * MINUTE_MS, ip_limit=SHARED_LIMIT, acts=acts))
    yield "oldest pending event of a quiet device, shared limit", f"{waits_ms(world, range(20))[-1] / 1000:.1f} s"
    flooded = Plan(light_devices(20) + flood, 8 * MINUTE_MS, acts=[(5 * MINUTE_MS, send(flood, 1))])
    world = simulate(flooded)
    yield "oldest pending event of a quiet device, flood", f"{waits_ms(world, range(20))[-1] / 1000:.1f} s"
    yield "requests from the flood on", str(sum(request.at >= 5 * MINUTE_MS for request in world.upstream.arrivals))


def restart_with_a_shared_limit() -> Iterator[Row]:
    """The cost of learning a shared limit again after restarts, because it is not stored."""
    devices = [Device(i, backlog=600, gap_ms=10 * HOUR_MS) for i in range(50)]
    crashes = [Crash(at * 10 * MINUTE_MS) for at in range(1, 6)]
    world = simulate(
        Plan(devices, HOUR_MS, SMALL_BATCHES, ip_limit=SHARED_LIMIT, crashes=crashes, drain_ms=48 * HOUR_MS)
    )
    responses = [request.status for request in world.upstream.arrivals if request.at < HOUR_MS]
    yield "429s in an hour with five restarts", f"{responses.count(429)} of {len(responses)} responses"
    yield "used share of the limit", f"{responses.count(202) / (60 * SHARED_LIMIT):.1%}"


def site() -> Iterator[Row]:
    """200 relays behind one address power up together, each with five pending events and then one event a minute."""
    for limit in (600, 120):
        yield from (
            (f"{what}, {limit} requests a minute for all of them", value)
            for what, value in _site(limit, 20 * MINUTE_MS)
        )


def _site(limit: int, duration_ms: int) -> Iterator[Row]:
    ip = Limiter(limit, MINUTE_MS)

    async def all_of_them() -> list[World]:
        device = {"gap_ms": MINUTE_MS, "backlog": 5}
        worlds = [
            World(Plan([Device(n, **device)], duration_ms, ip_limit=1, drain_ms=12 * HOUR_MS), n) for n in range(200)
        ]
        for world in worlds:
            world.upstream.ip_limiter = ip
        await asyncio.gather(*(world.simulate() for world in worlds))
        return worlds

    worlds = run(all_of_them())
    for world in worlds:
        check_all(world)
    responses = sorted((r.at, r.status) for world in worlds for r in world.upstream.arrivals if r.at < duration_ms)
    per_second = max(sum(at // 1000 == second for at, _ in responses if at < MINUTE_MS) for second in range(60))
    first = [min(r.at for r in world.upstream.arrivals if r.status == 202) for world in worlds]
    later = [status for at, status in responses if at >= 3 * MINUTE_MS]
    yield "most requests in one second of the first minute", str(per_second)
    yield "first delivery of the last relay", f"{max(first) / 1000:.1f} s"
    yield "429s from the third minute on", f"{later.count(429)} of {len(later)} responses"


def scale() -> Iterator[Row]:
    """10,000 devices for two days with random faults from the seed and all checks at each step."""
    began = time.process_time()
    world = World(swarm.plan(200, devices=10_000, hours=48, gap_min=(360, 720, 1_440)), 200)
    run(world.simulate())
    check_all(world)
    spent_s = time.process_time() - began
    days = world.ended_at / (24 * HOUR_MS)
    yield "simulated", f"{days:.2f} days, {len(world.offered_at):,} events, {len(world.upstream.sent):,} requests"
    yield "simulated days a minute of processor time", f"{days / spent_s * 60:.1f}"


MEASUREMENTS: list[Callable[[], Iterator[Row]]] = [
    device_limit,
    shared_limit,
    two_tenants,
    made_up_tenants,
    named_events,
    fairness,
    hanging,
    isolation,
    restart_with_a_shared_limit,
    site,
    scale,
]


def main() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    wanted = set(sys.argv[1:])
    for measure in MEASUREMENTS:
        if not wanted or measure.__name__ in wanted:
            print(f"\n{measure.__name__}: {measure.__doc__}")
            for what, value in measure():
                print(f"  {what}: {value}", flush=True)


if __name__ == "__main__":
    main()
