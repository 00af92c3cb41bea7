"""Named fault scenarios with the real schedule and forwarder in virtual time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from math import ceil, log2
from random import Random
from typing import Literal

import pytest

from tests.fault.sizes import size
from tests.simulation.checks import arrivals_by_device, dead
from tests.simulation.scenario import (
    MAX_WAIT_MS,
    SEED,
    SMALL_BATCHES,
    light_devices,
    longest_wait_ms,
    simulate,
    waits_ms,
)
from tests.simulation.upstream import Fault, Flaw, Limiter
from tests.simulation.virtual import run
from tests.simulation.world import HOUR_MS, LIMITS, MINUTE_MS, Crash, Device, Plan, World


def flawed_at(flaw: Flaw, *numbers: int) -> Callable[[int], Flaw]:
    return lambda n: flaw if n in numbers else ""


# -- failing endpoints


@pytest.mark.parametrize("kind", ["401", "404"], ids=["wrong key", "wrong URL"])
def test_a_failure_that_needs_a_person_is_probed_slowly_and_recovers_without_loss(kind: str) -> None:
    since, until = 10 * MINUTE_MS, 190 * MINUTE_MS
    world = simulate(Plan(light_devices(20), duration_ms=4 * HOUR_MS, faults=[Fault(kind, since, until)]))

    tried = [request for request in world.upstream.sent if since <= request.sent_at < until]
    assert len(tried) <= LIMITS.max_in_flight + 5 + (until - since) // (5 * MINUTE_MS)
    assert dead(world) == set()
    after = [request.at for request in world.upstream.arrivals if request.at > until]
    assert after[0] - until <= 5.5 * MINUTE_MS
    assert longest_wait_ms(world, range(20), since=until + 6 * MINUTE_MS) <= MAX_WAIT_MS


@pytest.mark.parametrize("kind", ["refused", "503", "blackhole"])
def test_an_unavailable_upstream_is_probed_slowly_and_everything_is_delivered_afterwards(kind: str) -> None:
    since, until = 10 * MINUTE_MS, 70 * MINUTE_MS
    world = simulate(Plan(light_devices(50), duration_ms=2 * HOUR_MS, faults=[Fault(kind, since, until)]))

    tried = [request for request in world.upstream.sent if since <= request.sent_at < until]
    assert 12 <= len(tried) <= (600 if kind == "refused" else 80)
    assert dead(world) == set()
    assert longest_wait_ms(world, range(50), since=until + 6 * MINUTE_MS) <= MAX_WAIT_MS


@pytest.mark.parametrize("kind", ["refused", "unstable"])
def test_each_short_window_with_a_network_is_used(kind: str) -> None:
    """A kiosk on a bus or ship: the network is there for 25 s in every 150 s."""
    windows = [(at, at + 25_000) for at in range(0, 2 * HOUR_MS, 150_000)]
    faults = [Fault(kind, end, end + 125_000) for _, end in windows]
    devices = [device for tenant in (1, 2, 3) for device in light_devices(10, first=100 * tenant, tenant=tenant)]
    world = simulate(Plan(devices, duration_ms=2 * HOUR_MS, faults=faults))

    used = {request.at // 150_000 for request in world.upstream.arrivals if request.at < 2 * HOUR_MS}
    assert len(used) == len(windows)
    assert dead(world) == set()


def test_a_change_of_the_network_ends_the_backoff() -> None:
    """The 503 of a portal grew the backoff to minutes. The new network is used at once."""
    since, until = 10 * MINUTE_MS, 3 * HOUR_MS

    def change(world: World) -> None:
        assert world.relay
        world.relay.forwarder.network_changed()

    acts = [(until, change)]
    world = simulate(
        Plan(light_devices(20), duration_ms=4 * HOUR_MS, faults=[Fault("503", since, until)], acts=acts),
    )

    after = [request.sent_at for request in world.upstream.sent if request.sent_at >= until]
    assert after[0] == until


LONG_BACKOFF = replace(LIMITS, retry_initial_ms=HOUR_MS, retry_max_ms=HOUR_MS)
"""Each further attempt is due to a flush, at any phases of the devices."""


@pytest.mark.parametrize(
    "plan",
    [
        Plan(light_devices(20)),
        *(Plan(light_devices(20), 20 * MINUTE_MS, LONG_BACKOFF, site=f"{site}-") for site in range(size(3, 30))),
    ],
    ids=lambda plan: plan.site or "backoff",
)
def test_flushes_in_a_loop_probe_a_failing_endpoint_once_a_second_and_the_last_one_counts(plan: Plan) -> None:
    """Before the third device fails, the endpoint is not at fault, and each failing device is tried once a second."""
    since, until = 10 * MINUTE_MS, 11 * MINUTE_MS

    def flush(world: World) -> None:
        assert world.relay
        world.relay.forwarder.flush()

    acts = [(at, flush) for at in range(since + 1_000, until + 50, 50)]
    world = simulate(replace(plan, faults=[Fault("503", since, until)], acts=acts))

    tried = [request for request in world.upstream.sent if since <= request.sent_at < until]
    at_by_device = {device: [one.sent_at for one in tried if one.events[0].device == device] for device in range(20)}
    assert all(later - earlier >= 1_000 for at in at_by_device.values() for earlier, later in pairwise(at[1:]))
    assert sum(request.sent_at >= since + 1_000 for request in tried) >= 50
    at_fault_since = sorted(at[0] for at in at_by_device.values() if at)[2]
    probed = [request.sent_at for request in tried if request.sent_at > at_fault_since + 200]
    assert len(probed) <= (until - at_fault_since) / 1_000 + 1
    after = [request.at for request in world.upstream.arrivals if request.at >= until]
    assert after[0] <= until + 1_000 + 200
    assert dead(world) == set()


def test_without_a_network_there_is_one_attempt_for_all_tenants_and_devices() -> None:
    since, until = 10 * MINUTE_MS, 2 * HOUR_MS
    devices = [device for tenant in range(1, 11) for device in light_devices(20, first=100 * tenant, tenant=tenant)]
    world = simulate(Plan(devices, duration_ms=3 * HOUR_MS, faults=[Fault("refused", since, until)]))

    tried = [request for request in world.upstream.sent if since + MINUTE_MS <= request.sent_at < until]
    assert (until - since) / 20_000 <= len(tried) <= (until - since) / 6_000, "7.5 s apart on average"
    assert longest_wait_ms(world, range(100, 1_100), since=until + 16_000) <= MAX_WAIT_MS
    assert dead(world) == set()


def test_outages_of_hours_create_no_dead_letter() -> None:
    """The outages are long, short and successive, and some devices have a single event."""
    rng = Random(SEED)
    faults = [Fault("503", at * MINUTE_MS, at * MINUTE_MS + rng.randrange(3_000, 40_000)) for at in range(5, 60, 2)]
    faults += [Fault("503", HOUR_MS, 7 * HOUR_MS), Fault("blackhole", 8 * HOUR_MS, 14 * HOUR_MS)]
    devices = [
        *light_devices(10),
        *light_devices(5, first=10, gap_ms=8 * HOUR_MS),
        Device(20, backlog=2_000, gap_ms=HOUR_MS),
    ]
    world = simulate(Plan(devices, duration_ms=15 * HOUR_MS, faults=faults))

    assert dead(world) == set()


def test_a_tenant_with_a_wrong_key_does_not_delay_another_tenant() -> None:
    fault = Fault("401", 10 * MINUTE_MS, 90 * MINUTE_MS, tenant=2)
    devices = [*light_devices(20, tenant=1), *light_devices(20, first=100, tenant=2)]
    world = simulate(Plan(devices, duration_ms=2 * HOUR_MS, faults=[fault]))

    assert longest_wait_ms(world, range(20)) <= MAX_WAIT_MS
    assert longest_wait_ms(world, range(100, 120), since=fault.until + 6 * MINUTE_MS) <= MAX_WAIT_MS


def test_an_upstream_without_responses_does_not_delay_another_tenant() -> None:
    fault = Fault("blackhole", 10 * MINUTE_MS, HOUR_MS, tenant=2)
    devices = [*light_devices(20, tenant=1), *light_devices(50, first=100, tenant=2, gap_ms=30_000)]
    world = simulate(Plan(devices, duration_ms=HOUR_MS, faults=[fault]))

    assert longest_wait_ms(world, range(20)) <= MAX_WAIT_MS


# -- poison


@pytest.mark.parametrize(("flaw", "requests"), [("named", 2), ("unnamed", 2 * ceil(log2(500)) + 2)])
def test_one_bad_event_among_500_is_found_within_the_same_number_of_requests(flaw: Flaw, requests: int) -> None:
    device = Device(1, backlog=500, gap_ms=10 * HOUR_MS, flaw=flawed_at(flaw, 321))
    world = simulate(Plan([device], duration_ms=5 * MINUTE_MS))

    assert dead(world) == {(1, 321)}
    assert len([request for request in world.upstream.sent if request.events[0].device == 1]) <= requests


def test_a_poison_event_is_dead_lettered_late_and_delays_no_other_device() -> None:
    device = Device(1, backlog=500, gap_ms=MINUTE_MS, flaw=flawed_at("crash", 321))
    world = simulate(Plan([device, *light_devices(20, first=100)], duration_ms=4 * HOUR_MS))

    assert dead(world) == {(1, 321)}
    (letter,) = world.dead_letters
    assert (letter.reason, letter.status) == ("poison", 500)
    alone = world.upstream.tries[(1, 321)]
    assert len(alone) >= 10
    assert alone[-1] - alone[0] >= 10 * MINUTE_MS
    assert longest_wait_ms(world, range(100, 120)) <= MAX_WAIT_MS


def test_ten_devices_with_poison_events_delay_others_by_seconds_at_most() -> None:
    devices = [Device(i, gap_ms=20_000, flaw=lambda n: "crash" if n % 20 == 7 else "") for i in range(10)]
    world = simulate(Plan([*devices, *light_devices(40, first=100)], duration_ms=HOUR_MS, drain_ms=48 * HOUR_MS))

    assert longest_wait_ms(world, range(100, 140)) <= MAX_WAIT_MS


def test_failures_in_an_outage_do_not_dead_letter_a_poison_event() -> None:
    """Nine of the ten attempts are part of an outage and do not count."""
    device = Device(1, gap_ms=30 * HOUR_MS, backlog=1, flaw=flawed_at("crash", 0))
    fault = Fault("503", MINUTE_MS, 5 * HOUR_MS)
    world = simulate(Plan([device, *light_devices(5, first=100)], duration_ms=8 * HOUR_MS, faults=[fault]))

    assert dead(world) == {(1, 0)}
    before_and_after = [at for at in world.upstream.tries[(1, 0)] if not fault.since <= at < fault.until]
    assert len(before_and_after) >= 9


# -- limits


def test_draining_uses_what_the_device_limit_allows_without_one_429() -> None:
    windows = 20
    device = Device(1, backlog=(windows + 2) * 120 * SMALL_BATCHES.max_events, gap_ms=10 * HOUR_MS)
    world = simulate(Plan([device], duration_ms=windows * MINUTE_MS, limits=SMALL_BATCHES, latency_ms=(5, 50)))

    arrivals = [request for request in world.upstream.arrivals if request.at < windows * MINUTE_MS]
    assert all(request.status == 202 for request in arrivals)
    assert len(arrivals) >= 0.99 * 120 * windows


def test_the_device_limit_holds_across_restarts_in_the_same_and_in_another_boot() -> None:
    device = Device(1, backlog=20_000, gap_ms=10 * HOUR_MS)
    crashes = [Crash(5_000 + 17_000 * i, down_ms=500, reboot=i % 3 == 2) for i in range(30)]
    world = simulate(Plan([device], duration_ms=10 * MINUTE_MS, limits=SMALL_BATCHES, crashes=crashes))

    assert world.crashes == 30
    assert all(request.status == 202 for request in world.upstream.arrivals)


@pytest.mark.parametrize("sends_retry_after", [True, False])
def test_an_unknown_shared_limit_is_found_and_used(sends_retry_after: bool) -> None:
    """Fifty devices share 20 requests a minute: from the third window on they use 90 %, with at most 5 % of 429s."""
    windows = 60
    devices = [Device(i, backlog=200, gap_ms=10 * HOUR_MS) for i in range(50)]
    plan = Plan(
        devices,
        duration_ms=windows * MINUTE_MS,
        limits=SMALL_BATCHES,
        ip_limit=20,
        sends_retry_after=sends_retry_after,
        drain_ms=24 * HOUR_MS,
    )
    world = simulate(plan)

    later = [r for r in world.upstream.arrivals if 3 * MINUTE_MS <= r.at < windows * MINUTE_MS]
    limited = sum(request.status == 429 for request in later)
    assert len(later) - limited >= 0.9 * 20 * (windows - 3)
    assert limited <= len(later) / 20


@pytest.mark.parametrize("mix", ["when_ip_limited", "always"])
def test_under_a_shared_limit_devices_share_requests_and_wait_for_seconds(
    mix: Literal["when_ip_limited", "always"],
) -> None:
    """Requests of single devices would need a rate of 300 a minute, and 20 are permitted."""
    plan = Plan(
        light_devices(50, gap_ms=10_000),
        duration_ms=20 * MINUTE_MS,
        limits=replace(LIMITS, mix_devices=mix),
        ip_limit=20,
    )
    world = simulate(plan)

    later = [r for r in world.upstream.arrivals if 3 * MINUTE_MS <= r.at < 20 * MINUTE_MS]
    assert sum(request.status == 429 for request in later) <= len(later) / 20
    waits = waits_ms(world, range(50), since=3 * MINUTE_MS)
    assert waits[len(waits) * 99 // 100] <= 20_000


def test_two_tenants_behind_one_address_share_its_limit() -> None:
    """Each endpoint has its own rate, and both make progress."""
    windows = 30
    devices = [Device(i, tenant=1 + i % 2, backlog=400, gap_ms=10 * HOUR_MS) for i in range(20)]
    limits = replace(SMALL_BATCHES, mix_devices="never")
    world = simulate(Plan(devices, windows * MINUTE_MS, limits, ip_limit=20, drain_ms=24 * HOUR_MS))

    later = [r for r in world.upstream.arrivals if 3 * MINUTE_MS <= r.at < windows * MINUTE_MS]
    served = [sum(r.status == 202 and r.tenant == tenant for r in later) for tenant in (1, 2)]
    assert sum(served) >= 0.9 * 20 * (windows - 3)
    assert len(later) - sum(served) <= len(later) / 20
    assert min(served) >= sum(served) / 3


def test_a_second_relay_behind_the_same_address_gets_its_share() -> None:
    """Another client uses half of the limit from the end of the first hour on."""
    devices = [Device(i, backlog=400, gap_ms=10 * HOUR_MS) for i in range(50)]

    def share(world: World) -> None:
        assert world.upstream.ip_limiter
        world.upstream.ip_limiter.limit = 10

    plan = Plan(
        devices,
        duration_ms=2 * HOUR_MS,
        limits=SMALL_BATCHES,
        ip_limit=20,
        acts=[(HOUR_MS, share)],
        drain_ms=24 * HOUR_MS,
    )
    world = simulate(plan)

    later = [r for r in world.upstream.arrivals if HOUR_MS + 10 * MINUTE_MS <= r.at < 2 * HOUR_MS]
    limited = sum(request.status == 429 for request in later)
    assert len(later) - limited >= 0.9 * 10 * 50
    assert limited <= len(later) / 20


def test_the_rate_recovers_after_a_shared_limit_is_lifted() -> None:
    devices = light_devices(50, gap_ms=30_000)

    def lift(world: World) -> None:
        world.upstream.ip_limiter = None

    plan = Plan(devices, duration_ms=130 * MINUTE_MS, ip_limit=20, acts=[(30 * MINUTE_MS, lift)])
    world = simulate(plan)

    assert longest_wait_ms(world, range(50), since=2 * HOUR_MS) <= MAX_WAIT_MS
    assert world.states == {1: "ok"}


def test_the_rate_recovers_within_an_hour_after_an_hour_of_429() -> None:
    devices = light_devices(50, gap_ms=5 * MINUTE_MS)

    def close(world: World) -> None:
        assert world.upstream.ip_limiter
        world.upstream.ip_limiter.limit = 0

    def open_again(world: World) -> None:
        assert world.upstream.ip_limiter
        world.upstream.ip_limiter.limit = 1_000

    acts = [(10 * MINUTE_MS, close), (70 * MINUTE_MS, open_again)]
    world = simulate(Plan(devices, duration_ms=3 * HOUR_MS, ip_limit=1_000, sends_retry_after=False, acts=acts))

    tried = [r for r in world.upstream.arrivals if 10 * MINUTE_MS <= r.at < 70 * MINUTE_MS]
    assert len(tried) <= 40
    assert longest_wait_ms(world, range(50), since=130 * MINUTE_MS) <= MINUTE_MS


def test_a_device_at_its_own_limit_does_not_back_off_longer_after_each_delivery() -> None:
    """Another client sends for the same device, so every second request is rejected for an hour."""
    fault = Fault("429 device limit", 0, HOUR_MS, devices=frozenset({1}))
    world = simulate(Plan([Device(1, gap_ms=10_000)], duration_ms=HOUR_MS, faults=[fault]))

    assert sum(request.status == 429 for request in world.upstream.arrivals) > 100
    assert longest_wait_ms(world, range(1, 2)) <= MAX_WAIT_MS + LIMITS.retry_initial_ms


@pytest.mark.slow
def test_a_shared_limit_that_lasted_for_hours_is_left_within_the_hour() -> None:
    """The limit ends soon after a rejected step, so that the wait for the next step is longest."""
    lifted_at = 135 * MINUTE_MS

    def lift(world: World) -> None:
        world.upstream.ip_limiter = None

    devices = [Device(i, backlog=2_500, gap_ms=10 * HOUR_MS) for i in range(40)]
    limits = replace(SMALL_BATCHES, mix_devices="never")
    plan = Plan(devices, 4 * HOUR_MS, limits, ip_limit=20, acts=[(lifted_at, lift)], drain_ms=48 * HOUR_MS)
    world = simulate(plan)

    times = [request.at for request in world.upstream.arrivals]
    per_minute = Counter((at - lifted_at) // MINUTE_MS for at in times if at >= lifted_at)
    assert max(per_minute[minute] for minute in range(60)) >= 800, "40 times the rate"


def test_relays_told_the_same_date_return_at_different_moments() -> None:
    """14 relays behind one address used up a limit of 14 requests in ten minutes, and each 429 names its end."""
    limiter = Limiter(14, 10 * MINUTE_MS)

    async def all_relays() -> list[World]:
        device = {"gap_ms": 30_000, "backlog": 5}
        worlds = [
            World(Plan([Device(1, **device)], 15 * MINUTE_MS, ip_limit=1, drain_ms=12 * HOUR_MS), n) for n in range(14)
        ]
        for world in worlds:
            world.upstream.ip_limiter = limiter
        await asyncio.gather(*(world.simulate() for world in worlds))
        return worlds

    worlds = run(all_relays())
    opened = min(request.at for world in worlds for request in world.upstream.arrivals)
    returned = sorted(
        next(request.at for request in world.upstream.arrivals if request.at >= opened + 10 * MINUTE_MS)
        for world in worlds
    )
    assert returned[-1] - returned[0] >= 20_000
    assert max(sum(at <= other < at + 2_000 for other in returned) for at in returned) <= 5


def test_many_tenants_of_one_origin_share_its_limit() -> None:
    """The upstream counts requests by address. Apps can invent tenants."""
    tenants, limit = 40, 20
    devices = [Device(i, tenant=1 + i, backlog=200, gap_ms=10 * HOUR_MS) for i in range(tenants)]
    world = simulate(Plan(devices, HOUR_MS, SMALL_BATCHES, ip_limit=limit, drain_ms=48 * HOUR_MS))

    later = [request for request in world.upstream.arrivals if 3 * MINUTE_MS <= request.at < HOUR_MS]
    assert sum(request.status == 429 for request in later) <= len(later) * 0.02
    assert len(later) >= 0.9 * limit * 57
    # Known devices come before new ones, which get at least one eighth of the requests.
    first_at = {request.tenant: request.at for request in reversed(world.upstream.arrivals) if request.status == 202}
    all_known_at = max(first_at[1 + i] for i in range(tenants))
    assert all_known_at <= (tenants / (limit / 8) + 1) * MINUTE_MS
    served = Counter(request.tenant for request in later if request.at > all_known_at)
    assert max(served.values()) - min(served[1 + i] for i in range(tenants)) <= 2, "tenants take turns"


# -- effects on other devices


def test_the_device_limit_holds_for_a_device_that_is_often_idle_in_a_restart_loop() -> None:
    """A start forgets idle devices, but none with a request within the last window of running time."""
    limits = replace(LIMITS, linger_ms=0, device_per_window=4)
    crashes = [Crash(5_000 + 9_000 * i, down_ms=500, reboot=i % 20 == 19) for i in range(100)]
    plan = Plan([Device(i, gap_ms=10_000) for i in range(4)], 15 * MINUTE_MS, limits, crashes, device_limit=4)
    world = simulate(plan)

    assert world.crashes == 100
    assert all(request.status == 202 for request in world.upstream.arrivals)


def test_at_max_devices_known_devices_are_served_and_further_ones_when_others_are_forgotten() -> None:
    known, made_up = light_devices(20, first=100, gap_ms=5_000), light_devices(60, gap_ms=1_000 * HOUR_MS)
    flood_at = 2 * MINUTE_MS

    def flood(world: World) -> None:
        for device in made_up:
            device.offering = 1
            world._offer(device)

    world = simulate(Plan([*known, *made_up], 20 * MINUTE_MS, max_devices=40, acts=[(flood_at, flood)]))

    assert longest_wait_ms(world, range(100, 120)) <= MAX_WAIT_MS
    stored_at = sorted(world.offered_at[(number, 0)] - flood_at for number in range(60))
    assert stored_at[19] < LIMITS.window_ms < stored_at[20]
    assert stored_at[39] < 2 * LIMITS.window_ms < stored_at[40] < 3 * LIMITS.window_ms


def test_a_throttled_device_does_not_delay_other_devices() -> None:
    fault = Fault("429 device", 5 * MINUTE_MS, HOUR_MS, devices=frozenset({1}))
    devices = [Device(1, gap_ms=5_000), *light_devices(30, first=100)]
    world = simulate(Plan(devices, duration_ms=75 * MINUTE_MS, faults=[fault]))

    assert longest_wait_ms(world, range(100, 130)) <= MAX_WAIT_MS


def test_a_flooding_device_does_not_delay_other_devices() -> None:
    busy = Device(1, backlog=20_000, gap_ms=1_000, burst=10)
    world = simulate(Plan([busy, *light_devices(30, first=100)], duration_ms=20 * MINUTE_MS))

    assert longest_wait_ms(world, range(100, 130)) <= MAX_WAIT_MS


def test_devices_at_their_limit_do_not_delay_other_devices() -> None:
    busy = [Device(i, backlog=3_000, gap_ms=10 * HOUR_MS) for i in range(10)]
    plan = Plan([*busy, *light_devices(30, first=100)], duration_ms=5 * MINUTE_MS, limits=SMALL_BATCHES)
    world = simulate(plan)

    assert longest_wait_ms(world, range(100, 130)) <= MAX_WAIT_MS
    assert max(map(len, arrivals_by_device(world.upstream.arrivals).values())) > 120


def test_requests_at_the_limit_of_a_device_are_spaced_evenly() -> None:
    """The events need more requests than the limit permits. Without spacing, each window begins with a burst."""
    minutes = 10
    device = Device(1, backlog=(minutes + 2) * 120 * SMALL_BATCHES.max_events, gap_ms=10 * HOUR_MS)
    world = simulate(Plan([device], minutes * MINUTE_MS, SMALL_BATCHES, latency_ms=(5, 50)))

    times = [request.at for request in world.upstream.arrivals if request.at < minutes * MINUTE_MS]
    assert len(times) >= 0.99 * minutes * 120
    pauses = sorted(later - earlier for earlier, later in pairwise(times[60:]))
    assert pauses[-1] <= 2_000
    assert 400 <= pauses[len(pauses) // 2] <= 600


# -- failing disk


def failing(chance: float) -> Callable[[World], None]:
    return lambda world: world.fail_disk(chance)


def test_one_failed_read_causes_a_short_delay() -> None:
    """One failed read of a bad block must not pause its device for seconds."""

    def fail_once(world: World) -> None:
        world.outbox.fail_next_claim = True

    acts = [(at, fail_once) for at in range(MINUTE_MS, 20 * MINUTE_MS, 20_000)]
    world = simulate(Plan(light_devices(10), duration_ms=20 * MINUTE_MS, acts=acts))

    assert world.outbox.failed_claims > 40
    assert longest_wait_ms(world, range(10)) <= LIMITS.linger_ms + 1_000


def test_a_failing_disk_is_retried_slowly_and_everything_is_delivered_afterwards() -> None:
    since, until = 10 * MINUTE_MS, 40 * MINUTE_MS
    acts = [(since, failing(1.0)), (until, failing(0.0))]
    world = simulate(Plan(light_devices(200), duration_ms=HOUR_MS, acts=acts))

    rounds = (until - since) // 2_000
    assert 100 < world.outbox.failed_claims <= rounds * LIMITS.max_in_flight
    assert longest_wait_ms(world, range(200), since=until + 6_000) <= MAX_WAIT_MS


def test_requests_in_flight_at_a_crash_are_resent_first_and_unchanged_from_a_failing_disk() -> None:
    devices = [Device(i, backlog=300, gap_ms=30_000) for i in range(20)]
    crashes = [Crash(at) for at in (3_000, 60_000, 200_000)]
    acts = [(1, failing(0.5)), (5 * MINUTE_MS, failing(0.0))]
    world = simulate(
        Plan(devices, duration_ms=10 * MINUTE_MS, crashes=crashes, acts=acts, latency_ms=(1_000, 4_000)),
    )

    assert all(start.unsettled for start in world.starts[1:])


# -- crashes


def test_requests_in_flight_at_a_crash_are_resent_first_and_unchanged() -> None:
    devices = [Device(i, backlog=300, gap_ms=30_000) for i in range(20)]
    crashes = [Crash(at) for at in (3_000, 60_000, 200_000)]
    world = simulate(Plan(devices, duration_ms=10 * MINUTE_MS, crashes=crashes, latency_ms=(1_000, 4_000)))

    assert all(start.unsettled for start in world.starts[1:])
    repeated = [key for key, requests in world.upstream.accepted.items() if len(requests) > 1]
    assert repeated, "the scenario must have requests in flight"
    journalled = {key for start in world.starts for request in start.unsettled for key in request}
    assert set(repeated) <= journalled


def test_lost_responses_are_the_only_duplicates_without_a_crash() -> None:
    fault = Fault("lossy", MINUTE_MS, 20 * MINUTE_MS)
    world = simulate(Plan(light_devices(20, gap_ms=10_000), duration_ms=30 * MINUTE_MS, faults=[fault]))

    repeated = {key for key, requests in world.upstream.accepted.items() if len(requests) > 1}
    assert repeated
    lost = {key for request in world.upstream.arrivals if request.returned_at is None for key in request.keys}
    assert repeated <= lost
