"""The phase of a device queue."""

from __future__ import annotations

import pytest
from relay.policy.device_queue import linger_end, phase


@pytest.mark.parametrize("arrived", [0, 1, 4_999, 5_000, 123_456_789])
def test_the_linger_time_ends_at_the_next_phase_of_the_device(arrived: int) -> None:
    due_at = linger_end(3, arrived, 5_000)
    assert arrived < due_at <= arrived + 5_000
    assert due_at % 5_000 == 3


def test_without_linger_events_are_due_on_arrival() -> None:
    assert linger_end(3, 17, 0) == 17


def test_phases_differ_between_devices_and_do_not_change() -> None:
    beats = {phase((1, "tv", f"device-{i}")) % 5_000 for i in range(1_000)}
    assert len(beats) > 850
    assert phase((1, "tv", "device-7")) == 1845752627
