"""Outbox time follows plausible clocks, and never decreases."""

from __future__ import annotations

import pytest
from relay.outbox.engine.outbox_clock import Anchor, OutboxTime

from tests.contract.boxes import DAY_MS, FakeClock


def test_outbox_time_follows_monotonic_time_and_ignores_the_wall_clock() -> None:
    clock = FakeClock()
    time = OutboxTime(clock, None)
    start = time.now_ms()
    clock.wall += 10**12
    clock.monotonic += 250
    assert time.now_ms() == start + 250


def test_restart_in_the_same_boot_adds_monotonic_time() -> None:
    clock = FakeClock()
    anchor = OutboxTime(clock, None).anchor()
    clock.monotonic += 5_000
    clock.wall -= 3 * DAY_MS
    assert OutboxTime(clock, anchor).now_ms() == anchor.outbox_ms + 5_000


@pytest.mark.parametrize(
    ("before", "after", "moves"),
    [
        (1_795_000_000_000, 1_795_000_000_000 + DAY_MS, DAY_MS),
        (1_795_000_000_000, 1_795_000_000_000 - 1, 0),
        (1_795_000_000_000, 1_795_000_000_000 + 31 * DAY_MS, 0),
        (86_400_000, 1_795_000_000_000, 0),
        (1_795_000_000_000, 86_400_000, 0),
    ],
    ids=["an hour of night", "back", "a month", "from 1970", "to 1970"],
)
def test_reboot_adds_wall_clock_time_if_both_readings_are_plausible(before: int, after: int, moves: int) -> None:
    clock = FakeClock(boot_id="new", wall=after)
    assert OutboxTime(clock, Anchor(1_000, 77, before, "old")).now_ms() == 1_000 + moves


def test_outbox_time_is_not_before_the_newest_event() -> None:
    clock = FakeClock(boot_id="new", wall=0)
    anchor = Anchor(1_000, 77, 1_795_000_000_000, "old")
    assert OutboxTime(clock, anchor, not_before_ms=9_000).now_ms() == 9_000


def test_wall_clock_is_assumed_to_run_until_the_newest_event() -> None:
    clock = FakeClock(boot_id="new", wall=1_795_000_000_000 + DAY_MS)
    anchor = Anchor(1_000, 77, 1_795_000_000_000, "old")
    assert OutboxTime(clock, anchor, not_before_ms=1_000 + DAY_MS // 2).now_ms() == 1_000 + DAY_MS


def test_decreased_monotonic_clock_means_another_boot() -> None:
    clock = FakeClock(boot_id="same", monotonic=10)
    anchor = Anchor(1_000, 77_000, clock.wall - 500, "same")
    assert OutboxTime(clock, anchor).now_ms() == 1_500
