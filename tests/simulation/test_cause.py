"""Bad events that look like a wrong key, a wrong URL or an outage, and outages that look like bad events."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from tests.fault.sizes import size, some
from tests.simulation.checks import dead
from tests.simulation.scenario import light_devices, longest_wait_ms, simulate
from tests.simulation.upstream import Fault, Flaw, Request
from tests.simulation.world import HOUR_MS, MINUTE_MS, Crash, Device, Plan, World

FLAWS: tuple[Flaw, ...] = ("403", "404", "501", "302", "page", "reset", "crash", "unnamed")
OLDEST_MS = 15_000


def honest(count: int = 3) -> list[Device]:
    """Return devices that are served before the first bad events, so that they are known."""
    return [Device(1_000 + i, gap_ms=18_000, backlog=1) for i in range(count)]


def assert_nobody_else_is_delayed(world: World) -> None:
    assert longest_wait_ms(world, range(1_000, 1_100)) <= OLDEST_MS
    assert world.states == {1: "ok"}


@pytest.mark.parametrize(
    ("flaw", "devices"),
    some(
        [("403", 20), ("page", 1), ("reset", 5), ("crash", 20), ("unnamed", 20)],
        [(flaw, devices) for flaw in FLAWS for devices in (1, 5, 20)],
    ),
)
def test_bad_events_of_known_devices_delay_no_other_device(flaw: Flaw, devices: int) -> None:
    bad = [Device(i, gap_ms=20_000, flaw=lambda n: flaw if n % 10 == 4 else "") for i in range(devices)]
    world = simulate(Plan([*bad, *honest()], duration_ms=20 * MINUTE_MS, drain_ms=48 * HOUR_MS))

    assert_nobody_else_is_delayed(world)


@pytest.mark.parametrize("flaw", some(["404", "crash", "unnamed"], ["403", "501", "302", "page", "reset"]))
def test_bad_events_of_made_up_devices_delay_no_other_device(flaw: Flaw) -> None:
    """Two of them arrive each second."""
    bad = [Device(i, gap_ms=2 * MINUTE_MS, flaw=lambda n: flaw) for i in range(240)]
    world = simulate(Plan([*bad, *honest()], duration_ms=2 * MINUTE_MS, drain_ms=48 * HOUR_MS))

    assert_nobody_else_is_delayed(world)


@pytest.mark.parametrize("kind", ["brownout", "database"])
@pytest.mark.parametrize(
    ("devices", "gap_ms"), some([(2, 10 * MINUTE_MS), (30, MINUTE_MS)], [(1, 20_000), (5, 30_000)])
)
def test_an_hour_of_failures_moves_nothing_to_the_dead_letters(
    kind: Literal["brownout", "database"], devices: int, gap_ms: int
) -> None:
    """80 % of all requests fail, or all requests with events while a batch without events is rejected as always."""
    fault = Fault(kind, 10 * MINUTE_MS, 70 * MINUTE_MS)
    world = simulate(Plan(light_devices(devices, gap_ms=gap_ms), 80 * MINUTE_MS, faults=[fault]))

    assert dead(world) == set()


@pytest.mark.parametrize("seed", range(size(3, 30)))
def test_failures_of_most_requests_with_events_only_move_nothing_to_the_dead_letters(seed: int) -> None:
    """The API responds to each batch without events, and delivers an event of some device each minute."""
    fault = Fault("event brownout", 10 * MINUTE_MS, 70 * MINUTE_MS)
    world = simulate(Plan(light_devices(5, gap_ms=30_000), 80 * MINUTE_MS, faults=[fault]), seed)

    assert dead(world) == set()


@pytest.mark.parametrize("flaw", some(["403", "crash"], ["404", "501", "302", "page", "reset"]))
@pytest.mark.parametrize("devices", some([10], [8, 30]))
def test_a_bad_first_event_of_each_device_is_found_although_none_was_served(flaw: Flaw, devices: int) -> None:
    bad = [Device(i, backlog=20, gap_ms=48 * HOUR_MS, flaw=lambda n: flaw if n == 0 else "") for i in range(devices)]
    world = simulate(Plan(bad, duration_ms=HOUR_MS, drain_ms=48 * HOUR_MS, has_witness=False))

    assert dead(world) == {(device.number, 0) for device in bad}
    assert max(requests[0].at for requests in world.upstream.accepted.values()) <= 12 * MINUTE_MS * devices


# -- the only device


def found_ms(world: World, *numbers: int) -> int:
    """Return the time from the first attempt of the earliest of these bad events to the delivery of all others."""
    offered_at = min(world.offered_at[(1, n)] for n in numbers)
    before = [
        requests[0].at for (_, n), requests in world.upstream.accepted.items() if n < world.plan.devices[0].backlog
    ]
    return max(before) - offered_at


def only_device(flaw: Flaw, *numbers: int, events: int = 20, seed: int = 1, **plan: Any) -> World:
    """Simulate a box with one device, some of whose events are bad, and no other device meanwhile."""
    device = Device(1, backlog=events, gap_ms=48 * HOUR_MS, flaw=lambda n: flaw if n in numbers else "")
    plan = {"duration_ms": HOUR_MS, "drain_ms": 48 * HOUR_MS, "has_witness": False} | plan
    return simulate(Plan([device], **plan), seed)


@pytest.mark.parametrize("seed", range(size(2, 30)))
@pytest.mark.parametrize("flaw", some(["403", "crash", "reset"], ["404", "501", "302", "page"]))
@pytest.mark.parametrize(
    "numbers", some([[0], [7, 8]], [[18], [3, 9, 15], [4, 5, 6], [0, 1, 2, 3, 4]]), ids=lambda numbers: f"bad {numbers}"
)
def test_one_device_delivers_everything_but_its_bad_events(flaw: Flaw, numbers: list[int], seed: int) -> None:
    world = only_device(flaw, *numbers, seed=seed)

    assert dead(world) == {(1, n) for n in numbers}
    assert found_ms(world, *numbers) <= 12 * MINUTE_MS * len(numbers)
    assert world.reordered == 0
    for n in numbers:
        alone = world.upstream.tries[(1, n)]
        assert len(alone) >= 11
        assert alone[-1] - alone[0] >= 10 * MINUTE_MS


@pytest.mark.parametrize("flaw", some(["403", "crash"], ["404", "501", "302", "page", "reset"]))
def test_a_bad_last_event_waits_for_the_next_one(flaw: Flaw) -> None:
    later_at = 3 * HOUR_MS

    def offer(world: World) -> None:
        world.devices[1].offering = 3
        world._offer(world.devices[1])

    world = only_device(flaw, 4, events=5, duration_ms=4 * HOUR_MS, acts=[(later_at, offer)])

    assert dead(world) == {(1, 4)}
    delivered_at = {n: requests[0].at for (_, n), requests in world.upstream.accepted.items()}
    assert max(delivered_at[n] for n in range(4)) <= 12 * MINUTE_MS
    assert max(delivered_at[n] for n in range(5, 8)) <= later_at + 12 * MINUTE_MS


def steps(world: World) -> list[Request]:
    """Return the attempt of event 0 before event 1 is tried, the attempt of event 1, and the next one of event 0."""
    sent = world.upstream.sent
    at = next(at for at, request in enumerate(sent) if request.keys == [(1, 1)])
    found = sent[at - 1 : at + 2]
    assert [request.keys for request in found] == [[(1, 0)], [(1, 1)], [(1, 0)]]
    return found


def blocked_until(until: int, *crashes: Crash, seed: int = 1) -> World:
    """Simulate a firewall that rejects the first event of the only device until then."""
    fault = Fault("firewall", 0, until, devices=frozenset({1}))
    return only_device("", seed=seed, faults=[fault], crashes=crashes)


@pytest.mark.parametrize("seed", range(size(3, 100)))
def test_an_event_that_is_delivered_after_a_later_one_is_counted_also_after_a_kill(seed: int) -> None:
    _, later, again = steps(only_device("403", 0, seed=seed))
    until = again.sent_at - 1_000
    crashes = [[], [Crash(later.sent_at + 10_000)], [Crash(again.sent_at + 300)], [Crash(again.sent_at + 1)]]
    for each in crashes:
        world = blocked_until(until, *each, seed=seed)
        assert dead(world) == set()
        assert world.watch.reordered == {(1, 0)}, each
        assert world.reordered == 1


@pytest.mark.parametrize("seed", range(size(1, 20)))
def test_a_kill_at_any_step_loses_no_event_and_reorders_none_without_counting_it(seed: int) -> None:
    last, later, again = steps(only_device("403", 0, seed=seed))
    for moment in (last, later, again):
        assert moment.returned_at is not None
        for at in (moment.sent_at, moment.at, moment.returned_at, moment.returned_at + 1):
            world = only_device("403", 0, seed=seed, crashes=[Crash(at)])
            assert dead(world) == {(1, 0)}
            assert found_ms(world, 0) <= 2 * 12 * MINUTE_MS


@pytest.mark.parametrize("seed", range(size(3, 100)))
@pytest.mark.parametrize("kind", ["brownout", "database"])
def test_an_hour_of_failures_of_the_only_device_moves_nothing_to_the_dead_letters(
    kind: Literal["brownout", "database"], seed: int
) -> None:
    fault = Fault(kind, MINUTE_MS, HOUR_MS)
    device = Device(1, gap_ms=20_000, backlog=20)
    world = simulate(Plan([device], HOUR_MS, faults=[fault], has_witness=False), seed)

    assert dead(world) == set()
    assert len(world.watch.reordered) <= 1
