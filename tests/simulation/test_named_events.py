"""Rejections that name events, in virtual time: what becomes of the named events, and what they cost other devices.

`simulate` checks that exactly the events with a flaw become dead letters.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from statistics import median

from tests.simulation.checks import dead
from tests.simulation.measure import named_events_under_a_shared_limit
from tests.simulation.scenario import light_devices, simulate, waits_ms
from tests.simulation.world import HOUR_MS, LIMITS, MINUTE_MS, Crash, Device, Plan

MIXED = replace(LIMITS, mix_devices="always")


def test_bad_events_of_many_devices_cost_one_more_request_per_batch() -> None:
    world = named_events_under_a_shared_limit()

    arrived = [request for request in world.upstream.arrivals if request.at < world.plan.duration_ms]
    assert 2 * sum(request.status == 422 for request in arrived) <= len(arrived)
    waits = waits_ms(world, range(100, 120), since=3 * MINUTE_MS)
    assert median(waits) <= 10_000
    assert waits[-1] <= MINUTE_MS


def test_an_upstream_that_counts_from_1_costs_no_good_event() -> None:
    bad = {5, 6, 90, 199}
    device = Device(1, backlog=200, gap_ms=HOUR_MS, flaw=lambda n: "from 1" if n in bad else "")
    world = simulate(Plan([device, *light_devices(3, first=10)], 10 * MINUTE_MS))
    assert dead(world) == {(1, n) for n in bad}


def test_kills_between_a_name_and_the_outcome_of_the_remainder_lose_and_repeat_nothing() -> None:
    """`watch` checks after each kill that the same remainder is sent first."""
    bad = [Device(i, gap_ms=1_000, burst=4, flaw=lambda n: "named" if n % 4 == 2 else "") for i in range(3)]
    crashes = [Crash(at) for at in range(30_000, 20 * MINUTE_MS, 7_300)]
    world = simulate(Plan(bad, 21 * MINUTE_MS, MIXED, crashes=crashes, latency_ms=(100, 400)))

    requests = [request for start in world.starts for request in start.unsettled]
    remainders = [keys for keys in requests if any(b == (a[0], a[1] + 2) for a, b in pairwise(keys))]
    assert len(remainders) >= 10
