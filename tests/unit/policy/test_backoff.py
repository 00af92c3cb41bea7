"""Delays after a failure."""

from __future__ import annotations

import pytest
from relay.policy.backoff import REQUESTED_DELAY_MAX_MS, full_jitter, probe_delay, requested_delay

ALMOST_ONE = 0.999999


@pytest.mark.parametrize(
    ("attempt", "ceiling_ms"), [(0, 1_000), (1, 2_000), (5, 32_000), (8, 256_000), (9, 300_000), (10_000, 300_000)]
)
def test_full_jitter_is_uniform_up_to_a_doubling_bound(attempt: int, ceiling_ms: int) -> None:
    assert full_jitter(attempt, 1_000, 300_000, 0.0) == 0
    assert full_jitter(attempt, 1_000, 300_000, 0.5) == ceiling_ms // 2
    assert ceiling_ms - 2 <= full_jitter(attempt, 1_000, 300_000, ALMOST_ONE) < ceiling_ms


@pytest.mark.parametrize(
    ("attempt", "ms"), [(0, 30_000), (1, 60_000), (2, 120_000), (3, 240_000), (4, 300_000), (10_000, 300_000)]
)
def test_the_delay_between_probes_doubles_from_30_s_to_5_min(attempt: int, ms: int) -> None:
    assert probe_delay(attempt, 0.0) == ms
    assert probe_delay(attempt, 0.5) == ms + ms // 20


@pytest.mark.parametrize(
    ("retry_after_ms", "ms"), [(None, 0), (0, 0), (699, 699), (60_000, 60_000), (10**15, REQUESTED_DELAY_MAX_MS)]
)
def test_a_requested_delay_counts_up_to_one_hour(retry_after_ms: int | None, ms: int) -> None:
    assert requested_delay(retry_after_ms, 0.0) == ms


@pytest.mark.parametrize(("delay_ms", "most_ms"), [(1, 2_000), (20_000, 2_000), (60_000, 6_000), (3_600_000, 360_000)])
def test_the_random_addition_is_uniform_up_to_a_tenth_of_the_delay_and_at_least_2_s(
    delay_ms: int, most_ms: int
) -> None:
    assert requested_delay(delay_ms, 0.0) == delay_ms
    assert requested_delay(delay_ms, 0.5) == delay_ms + most_ms // 2
    assert delay_ms + most_ms - 2 <= requested_delay(delay_ms, ALMOST_ONE) < delay_ms + most_ms
