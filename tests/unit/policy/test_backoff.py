"""Delays after a failure."""

from __future__ import annotations

import pytest
from relay.policy.backoff import REQUESTED_DELAY_MAX_MS, delay, full_jitter, probe_delay

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
    assert probe_delay(attempt) == ms


@pytest.mark.parametrize(
    ("retry_after_ms", "waited_ms"),
    [(None, 700), (0, 700), (699, 700), (60_000, 60_000), (10**15, REQUESTED_DELAY_MAX_MS)],
)
def test_the_delay_is_the_longer_of_jitter_and_requested_delay_up_to_one_hour(
    retry_after_ms: int | None, waited_ms: int
) -> None:
    assert delay(700, retry_after_ms) == waited_ms
