"""The system clock, also where the system has neither CLOCK_BOOTTIME nor a boot id (macOS)."""

from __future__ import annotations

import time
import uuid
from pathlib import Path

import pytest
from relay.runtime import clock


def test_the_steady_clock_is_the_monotonic_clock_without_boottime(monkeypatch: pytest.MonkeyPatch) -> None:
    """CLOCK_MONOTONIC of macOS also runs while the machine sleeps."""
    monkeypatch.setattr(clock, "_STEADY", time.CLOCK_MONOTONIC)
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1_000_000
    now = clock.SystemClock().monotonic_ms()
    assert before <= now <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1_000_000


def test_each_start_is_a_new_boot_where_the_kernel_names_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(path: Path) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", missing)
    first, second = clock.SystemClock().boot_id, clock.SystemClock().boot_id
    assert uuid.UUID(first) != uuid.UUID(second)
