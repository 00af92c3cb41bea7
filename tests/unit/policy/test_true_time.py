"""The true time from the Date headers of the upstreams, independent of the wall clock."""

from __future__ import annotations

import pytest
from relay.policy.true_time import EARLIEST_MS, WRONG_FROM_MS, TrueTime, TrueTimes

NOON = 1_795_420_800_000


def time_after(*responses: tuple[int, int, int], wall_ms: int = 0) -> TrueTime:
    """Return the time after responses of (date, sent, received), in milliseconds after noon or after the start."""
    true_time = TrueTime()
    for date_ms, sent_at, received_at in responses:
        true_time.learn(NOON + date_ms, sent_at, received_at, wall_ms)
    return true_time


@pytest.mark.parametrize("off_ms", [10_800_000, -10_800_000, 30 * 86_400_000])
def test_a_plausible_wall_clock_is_contradicted_by_two_responses_only(off_ms: int) -> None:
    assert time_after((off_ms, 0, 10), wall_ms=NOON).now_ms(10) is None
    confirmed = time_after((off_ms, 0, 10), (off_ms + 1_000, 1_000, 1_010), wall_ms=NOON).now_ms(1_010)
    assert confirmed is not None
    assert abs(confirmed - (NOON + off_ms + 1_500)) <= 1_000


def test_a_plausible_wall_clock_is_confirmed_by_one_response() -> None:
    assert time_after((0, 0, 10), wall_ms=NOON + WRONG_FROM_MS // 2).now_ms(10) is not None


def test_the_time_is_unknown_before_a_response_with_a_date() -> None:
    assert TrueTime().now_ms(5) is None


def test_one_response_gives_the_time_with_an_error_of_its_duration_and_a_second() -> None:
    now_ms = time_after((10_000, 500, 700)).now_ms(700)
    assert now_ms is not None
    assert NOON + 10_000 <= now_ms <= NOON + 11_200


def test_true_time_advances_with_monotonic_time() -> None:
    true_time = time_after((10_000, 500, 700))
    before, after = true_time.now_ms(700), true_time.now_ms(86_400_700)
    assert before is not None
    assert after == before + 86_400_000


def test_several_responses_give_a_more_accurate_time() -> None:
    """A slow response allows an error of 21 s, a fast response shortly before the next second only 20 ms."""
    true_time = time_after((10_000, 0, 20_000), (29_000, 19_000, 19_010), (30_000, 19_020, 19_030))
    now_ms = true_time.now_ms(19_030)
    assert now_ms is not None
    assert abs(now_ms - (NOON + 30_010)) <= 20


def test_one_contradicting_response_is_ignored() -> None:
    true_time = time_after((10_000, 0, 10), (9_000_000, 20, 30), (10_000, 40, 50))
    assert abs((true_time.now_ms(50) or 0) - NOON - 10_500) <= 1_000


def test_a_second_contradicting_response_is_accepted() -> None:
    true_time = time_after((10_000, 0, 10), (9_000_000, 20, 30), (9_000_000, 40, 50))
    assert abs((true_time.now_ms(50) or 0) - NOON - 9_000_500) <= 1_000


def test_a_date_of_a_clock_that_was_never_set_is_ignored() -> None:
    true_time = TrueTime()
    true_time.learn(EARLIEST_MS - 1, 0, 10, 0)
    assert true_time.now_ms(10) is None


A, B = "https://a.example:443", "https://b.example:443"
HOUR_MS = 3_600_000


def learned(*dates: tuple[str, int], wall_ms: int = 0, origins: tuple[str, ...] = (A, B)) -> TrueTimes:
    """Return the times after responses of (origin, its clock in milliseconds after noon) at monotonic time 0."""
    times = TrueTimes(origins)
    for origin, date_ms in dates:
        times.learn(origin, NOON + date_ms, 0, 0, wall_ms)
    return times


@pytest.mark.parametrize("wrong_ms", [-56 * 365 * 86_400_000, 10 * 86_400_000, WRONG_FROM_MS + 2_000])
def test_a_wrong_wall_clock_is_not_used_for_timestamps(wrong_ms: int) -> None:
    times = learned((A, 0), origins=(A,))
    assert times.timestamp_ms(0, NOON + wrong_ms) == times.now_ms(A, 0)


@pytest.mark.parametrize("off_ms", [0, -20_000, 20_000])
def test_an_almost_correct_wall_clock_is_used_for_timestamps(off_ms: int) -> None:
    assert learned((A, 0), origins=(A,)).timestamp_ms(0, NOON + off_ms) == NOON + off_ms


def test_an_unverified_wall_clock_is_used_for_timestamps() -> None:
    assert TrueTimes([A]).timestamp_ms(7, 1_000) == 1_000


def test_each_origin_has_its_own_time() -> None:
    times = learned((A, 0), (B, 3 * HOUR_MS))
    assert times.now_ms(A, 0) == NOON + 500
    assert times.now_ms(B, 0) == NOON + 3 * HOUR_MS + 500


def test_one_origin_does_not_confirm_the_contradiction_of_another() -> None:
    times = learned((A, HOUR_MS), (B, HOUR_MS), wall_ms=NOON)
    assert (times.now_ms(A, 0), times.now_ms(B, 0)) == (None, None)


@pytest.mark.parametrize(
    ("dates", "wall_ms", "expected_ms"),
    [
        ([(A, 0), (B, 0)], NOON + HOUR_MS, NOON + 500),
        ([(A, 0), (B, 20_000)], NOON + HOUR_MS, NOON + 500),
        ([(A, 0), (B, HOUR_MS)], NOON, NOON),
        ([(A, 0), (B, HOUR_MS)], NOON + 2 * HOUR_MS, NOON + 2 * HOUR_MS),
        ([(B, HOUR_MS)], NOON, NOON),
        ([(B, HOUR_MS)], 5_000, NOON + HOUR_MS + 500),
        ([(A, 0), (B, HOUR_MS)], 5_000, NOON + 500),
        ([], 5_000, 5_000),
    ],
    ids=[
        "both agree that it is wrong",
        "both agree within what counts as right",
        "one origin is wrong",
        "they disagree",
        "one is unknown",
        "one is unknown and the wall clock was never set",
        "they disagree and the wall clock was never set: the first origin counts",
        "nothing is known",
    ],
)
def test_the_timestamp_of_an_event_before_its_origin_is_known(
    dates: list[tuple[str, int]], wall_ms: int, expected_ms: int
) -> None:
    assert learned(*dates).timestamp_ms(0, wall_ms) == expected_ms


@pytest.mark.parametrize(
    ("dates", "skew_ms"),
    [([], None), ([(A, 0)], 59_500), ([(A, 0), (B, 60_000)], -500), ([(B, 60_000), (A, 0)], -500)],
)
def test_the_skew_is_the_skew_to_the_closest_origin(dates: list[tuple[str, int]], skew_ms: int | None) -> None:
    assert learned(*dates).skew_ms(0, NOON + 60_000) == skew_ms


def test_an_origin_removed_from_the_configuration_is_removed() -> None:
    times = learned((A, 0), (B, HOUR_MS))
    times.configure([A])
    times.learn(B, NOON, 0, 0, 0)
    assert times.known().keys() == {A}
    times.configure([A, B])
    assert times.now_ms(A, 0) == NOON + 500
    assert times.now_ms(B, 0) is None


def test_learned_times_are_restored_for_configured_origins() -> None:
    known = learned((A, 0), (B, HOUR_MS)).known()
    times = TrueTimes([A])
    times.restore(known)
    assert times.known() == {A: known[A]}
    assert times.timestamp_ms(10, NOON + HOUR_MS) == NOON + 510
