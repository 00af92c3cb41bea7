"""The states of a shared limit, and the steps of its rate."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from relay.policy.pause import Pause
from relay.policy.shared_limit import FREE, MAX_RATE, MIN_RATE, Free, Limited, RequestHistory, SharedLimit

WINDOW_MS = 60_000


class LimitUnderTest:
    """A shared limit whose rate is fully used or unused in each window."""

    def __init__(self, rate: float) -> None:
        self.now = 1_000_000
        self.shared_limit = Limited(self.now, rate)
        self.history = RequestHistory()

    def window(self, *, used: bool = True) -> bool:
        """Advance by one window. Return whether the rate is free at its end."""
        rate = self.shared_limit.rate
        windows = max(1, int(1 / rate))
        for _ in range(max(1, int(rate)) if used else 0):
            self.history.responded(self.now + 1)
        self.now += windows * WINDOW_MS
        return self.shared_limit.tick(self.now, WINDOW_MS, self.history) is FREE

    def respond_429(self) -> None:
        self.shared_limit.limited(self.now, self.now + 100, 20)
        self.now += 100


def test_requests_are_spread_evenly() -> None:
    limit = LimitUnderTest(20)
    assert limit.shared_limit.gap_ms(WINDOW_MS) == 3_000
    assert limit.shared_limit.limit == 20


def test_a_429_halves_a_rate_that_was_never_clean() -> None:
    limit = LimitUnderTest(20)
    limit.respond_429()
    assert limit.shared_limit.rate == 10


def test_one_reduction_per_round_trip() -> None:
    limit = LimitUnderTest(20)
    sent_at = limit.now
    limit.shared_limit.limited(sent_at, sent_at + 100, 20)
    limit.shared_limit.limited(sent_at + 50, sent_at + 150, 20)
    assert limit.shared_limit.rate == 10


def test_a_clean_used_window_raises_the_rate_by_one_step() -> None:
    limit = LimitUnderTest(20)
    limit.window()
    assert limit.shared_limit.rate == 22


def test_an_unused_window_does_not_raise_the_rate() -> None:
    limit = LimitUnderTest(20)
    limit.window(used=False)
    assert limit.shared_limit.rate == 20


def test_a_failed_step_is_undone_and_retried_after_growing_delays() -> None:
    limit = LimitUnderTest(20)
    waits = []
    for _ in range(5):
        windows = 0
        while limit.shared_limit.rate == 20:
            limit.window()
            windows += 1
        assert limit.shared_limit.rate == 22
        limit.respond_429()
        assert limit.shared_limit.rate == 20
        waits.append(windows)
    assert waits == [1, 5, 9, 17, 17]


def test_a_429_at_a_clean_rate_halves_the_rate() -> None:
    limit = LimitUnderTest(20)
    limit.window()
    limit.respond_429()
    limit.window()
    limit.respond_429()
    assert limit.shared_limit.rate == 10


def test_a_429_to_one_device_reduces_the_rate_by_one_step() -> None:
    limit = LimitUnderTest(20)
    limit.shared_limit.limited_one_device(limit.now, limit.now)
    assert limit.shared_limit.rate == 18


def test_a_429_to_one_device_undoes_a_new_step() -> None:
    limit = LimitUnderTest(20)
    limit.window()
    limit.shared_limit.limited_one_device(limit.now, limit.now)
    assert limit.shared_limit.rate == 20


def test_429s_to_single_devices_do_not_reduce_the_rate_below_one() -> None:
    limit = LimitUnderTest(3)
    for _ in range(10):
        limit.shared_limit.limited_one_device(limit.now, limit.now)
        limit.now += 1
    assert limit.shared_limit.rate == 1


def test_the_rate_has_a_minimum_and_recovers_from_it_within_an_hour() -> None:
    limit = LimitUnderTest(20)
    for _ in range(100):
        limit.respond_429()
    assert limit.shared_limit.rate == MIN_RATE
    since = limit.now
    while limit.shared_limit.rate < 20:
        limit.window()
    assert limit.now - since < 60 * WINDOW_MS


def test_a_lifted_shared_limit_is_removed() -> None:
    limit = LimitUnderTest(20)
    windows = 0
    while not limit.window():
        windows += 1
    assert limit.shared_limit.rate > MAX_RATE
    assert windows < 60


def test_a_shared_limit_that_lasted_for_a_day_is_left_within_the_hour() -> None:
    """Each step above the limit of 20 is rejected for a day. The wait for the next step must not outlast it by much."""
    limit = LimitUnderTest(20)
    a_day_later = limit.now + 24 * 60 * WINDOW_MS
    while limit.now < a_day_later or limit.shared_limit.rate == 20:
        limit.window()
        if limit.shared_limit.rate > 20:
            rejected_at = limit.now
            limit.respond_429()
            if rejected_at >= a_day_later:
                break
    lifted_at = limit.now
    while not limit.window():
        pass
    assert limit.now - lifted_at <= 60 * WINDOW_MS


def test_an_unused_shared_limit_is_removed() -> None:
    limit = LimitUnderTest(20)
    assert [limit.window(used=False) for _ in range(32)] == [False] * 31 + [True]


def test_the_history_is_bounded_and_sufficient_for_the_highest_rate() -> None:
    history = RequestHistory()
    for at in range(10 * MAX_RATE):
        history.responded(at)
    assert MAX_RATE <= history.since(-1) <= 2 * MAX_RATE
    assert history.since(10 * MAX_RATE - 3) == 2
    assert history.free_at(0, MAX_RATE, WINDOW_MS) == 9 * MAX_RATE + WINDOW_MS + 1


# -- states


SENT_AT, NOW = 1_000_000, 1_000_100


def free() -> SharedLimit:
    return SharedLimit(0)


def limited(rate: float = 20) -> SharedLimit:
    limit = SharedLimit(0)
    limit.limited(SENT_AT - 10, SENT_AT - 1, rate)
    return limit


def almost_unnecessary() -> SharedLimit:
    limit = limited()
    for window in range(1, 32):
        limit.tick(SENT_AT - 1 + window * WINDOW_MS, WINDOW_MS)
    return limit


def reject(limit: SharedLimit) -> None:
    limit.limited(SENT_AT, NOW, 20)


def reject_one_device(limit: SharedLimit) -> None:
    limit.limited_one_device(SENT_AT, NOW)


def end_window(limit: SharedLimit) -> None:
    limit.tick(SENT_AT + 40 * WINDOW_MS, WINDOW_MS)


def succeed(limit: SharedLimit) -> None:
    limit.succeeded()


@pytest.mark.parametrize(
    ("before", "step", "rate"),
    [
        (free, reject, 20),
        (free, reject_one_device, None),
        (free, end_window, None),
        (free, succeed, None),
        (limited, reject, 10),
        (limited, reject_one_device, 18),
        (limited, end_window, 20),
        (limited, succeed, 20),
        (almost_unnecessary, reject, 10),
        (almost_unnecessary, end_window, None),
    ],
)
def test_each_state_after_each_input(
    before: Callable[[], SharedLimit], step: Callable[[SharedLimit], None], rate: float | None
) -> None:
    limit = before()
    step(limit)
    assert (None if isinstance(limit.state, Free) else limit.state.rate) == rate
    assert limit.is_limited is (rate is not None)


def test_the_representation_shows_the_state() -> None:
    assert repr(free()).startswith("SharedLimit(Free(), ")
    assert repr(limited()).startswith("SharedLimit(Limited(rate=20, ")


@pytest.mark.parametrize("rate", [0, MIN_RATE / 2, -1])
def test_a_rate_below_the_minimum_is_impossible(rate: float) -> None:
    with pytest.raises(AssertionError):
        Limited(0, rate)


def test_without_a_limit_requests_wait_only_for_a_pause() -> None:
    limit = free()
    for _ in range(100):
        limit.sent(NOW)
        limit.responded(NOW)
    assert limit.free_at(NOW, 8, WINDOW_MS) == 0
    limit.start_pause(Pause(NOW + 500, "rate_limited", NOW + 200))
    assert limit.free_at(NOW, 8, WINDOW_MS) == NOW + 500
    limit.end_pause()
    assert limit.free_at(NOW, 8, WINDOW_MS) == NOW + 200


def test_under_a_limit_requests_are_spread_and_in_flight_requests_count() -> None:
    limit = limited(rate=2)
    assert limit.has_room(1)
    assert not limit.has_room(2)
    assert limit.free_at(NOW, 0, WINDOW_MS) <= NOW
    limit.sent(NOW)
    assert limit.free_at(NOW, 1, WINDOW_MS) == NOW + 30_000
    limit.responded(NOW + 10)
    assert limit.free_at(NOW + 10, 1, WINDOW_MS) == NOW + 10 + WINDOW_MS + 1


def test_the_backoff_counts_one_429_per_round_trip_and_restarts_after_a_success() -> None:
    limit = free()
    assert [limit.limited(0, 100, 20), limit.limited(50, 150, 20), limit.limited(100, 200, 20)] == [0, 1, 1]
    limit.succeeded()
    assert limit.limited(300, 400, 20) == 0
