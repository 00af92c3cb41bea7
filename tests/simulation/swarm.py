"""Swarm testing: each seed selects the features of a world and then the world.

A run that omits whole features finds faults that a run with all features hides (Groce et al., "Swarm Testing", ISSTA
2012).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random

from tests.simulation.upstream import Fault, Flaw
from tests.simulation.world import HOUR_MS, LIMITS, MINUTE_MS, Crash, Device, Plan, World


def plan(seed: int, *, devices: int, hours: float, gap_min: tuple[int, ...] = (5, 10, 30)) -> Plan:
    """Return the plan of a seed. `gap_min`: minutes between two events of a quiet device."""
    rng = Random(f"plan {seed}")
    duration_ms = int(hours * HOUR_MS)
    latency_ms = rng.choice([(1, 5), (5, 200), (100, 4_000)])
    limits = replace(
        LIMITS,
        linger_ms=rng.choice([0, 1_000, 5_000, 10_000]),
        max_events=rng.choice([20, 500]),
        mix_devices=rng.choice(["never", "when_ip_limited", "always"]),
        max_in_flight=rng.choice([1, 2, 8]) if latency_ms[1] < 1_000 else 8,
    )
    return Plan(
        devices=[_device(number, rng, devices, gap_min) for number in range(devices)],
        duration_ms=duration_ms,
        limits=limits,
        crashes=_crashes(rng, duration_ms) if rng.random() < 0.6 else (),
        faults=_faults(rng, duration_ms, devices) if rng.random() < 0.8 else [],
        ip_limit=rng.choice([None, None, 60, 300]),
        sends_retry_after=rng.random() < 0.5,
        max_body_bytes=rng.choice([1 << 20, 1 << 20, 20_000]),
        latency_ms=latency_ms,
        acts=[
            *((rng.randrange(duration_ms), _wall_jump(rng)) for _ in range(rng.randrange(4))),
            *(_disk_faults(rng, duration_ms) if rng.random() < 0.4 else ()),
        ],
        drain_ms=24 * HOUR_MS,
    )


def _device(number: int, rng: Random, devices: int, gap_min: tuple[int, ...]) -> Device:
    """Return a device. Most are quiet, and a few are busy, start with a backlog or create bad events."""
    device = Device(number, tenant=1 + number % 2, gap_ms=rng.choice(gap_min) * MINUTE_MS)
    kind = rng.random() * devices
    if kind < 3:
        device.burst = rng.choice([1, 20])
        device.gap_ms = gap_min[0] * 400 * (10 if device.burst > 1 else 1)
    elif kind < 6:
        device.backlog = rng.choice([600, 5_000])
    elif kind < 9:
        device.flaw = _flaws(rng)
    if rng.random() < 0.02:
        device.pad = "x" * rng.randrange(2_000)
    return device


def _flaws(rng: Random) -> Callable[[int], Flaw]:
    """Return a function that makes events bad at a regular interval, all in the same way."""
    flaw: Flaw = rng.choice(["named", "unnamed", "crash"])
    every, offset = rng.choice([3, 10, 50]), rng.randrange(3)
    return lambda n: flaw if n % every == offset else ""


def _wall_jump(rng: Random) -> Callable[[World], None]:
    """Return an action that sets the wall clock, by up to decades."""
    by_ms = rng.randrange(-(10**12), 10**12)

    def jump(world: World) -> None:
        world.clock.wall_offset_ms += by_ms

    return jump


def _disk_faults(rng: Random, duration_ms: int) -> list[tuple[int, Callable[[World], None]]]:
    """Return actions that let some or all calls of the disk fail for a time."""
    acts: list[tuple[int, Callable[[World], None]]] = []
    for _ in range(rng.randrange(1, 4)):
        since = rng.randrange(duration_ms)
        chance = rng.choice([0.02, 0.5, 1.0])
        for_ms = rng.choice([2_000, MINUTE_MS, 5 * MINUTE_MS])
        acts += [(since, _failing(chance)), (since + for_ms, _failing(0.0))]
    return acts


def _failing(chance: float) -> Callable[[World], None]:
    return lambda world: world.fail_disk(chance)


def _crashes(rng: Random, duration_ms: int) -> list[Crash]:
    return [
        Crash(rng.randrange(duration_ms), rng.choice([300, 5_000, 10 * MINUTE_MS]), rng.random() < 0.3)
        for _ in range(rng.randrange(1, 8))
    ]


def _faults(rng: Random, duration_ms: int, devices: int) -> list[Fault]:
    faults = []
    for _ in range(rng.randrange(1, 6)):
        since = rng.randrange(duration_ms)
        until = since + rng.choice([2_000, MINUTE_MS, 20 * MINUTE_MS])
        faults.append(
            Fault(
                rng.choice(["refused", "blackhole", "503", "401", "404", "lossy", "429 device"]),
                since,
                until,
                tenant=rng.choice([None, 1, 2]),
                devices=frozenset(rng.sample(range(devices), min(devices, 3))),
            )
        )
    return faults
