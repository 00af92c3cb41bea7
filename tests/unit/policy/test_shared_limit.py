"""The rate of a shared limit: its reduction, its steps and its removal."""

from __future__ import annotations

from relay.policy.shared_limit import MAX_RATE, MIN_RATE, RequestHistory, SharedLimit

WINDOW_MS = 60_000


class LimitUnderTest:
    """A shared limit whose rate is fully used or unused in each window."""

    def __init__(self, rate: float) -> None:
        self.now = 1_000_000
        self.shared_limit = SharedLimit(self.now, rate)
        self.history = RequestHistory()

    def window(self, *, used: bool = True) -> bool:
        """Advance by one window. Return whether the limit is removed at its end."""
        rate = self.shared_limit.rate
        windows = max(1, int(1 / rate))
        for _ in range(max(1, int(rate)) if used else 0):
            self.history.responded(self.now + 1)
        self.now += windows * WINDOW_MS
        return self.shared_limit.tick(self.now, WINDOW_MS, self.history)

    def respond_429(self) -> None:
        self.shared_limit.reduce(self.now, self.now + 100)
        self.now += 100


def test_requests_are_spread_evenly() -> None:
    limit = LimitUnderTest(20)
    assert limit.shared_limit.gap_ms(WINDOW_MS) == 3_000
    assert limit.shared_limit.limit() == 20


def test_a_429_halves_a_rate_that_was_never_clean() -> None:
    limit = LimitUnderTest(20)
    limit.respond_429()
    assert limit.shared_limit.rate == 10


def test_one_reduction_per_round_trip() -> None:
    limit = LimitUnderTest(20)
    sent_at = limit.now
    limit.shared_limit.reduce(sent_at, sent_at + 100)
    limit.shared_limit.reduce(sent_at + 50, sent_at + 150)
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
    for _ in range(7):
        windows = 0
        while limit.shared_limit.rate == 20:
            limit.window()
            windows += 1
        assert limit.shared_limit.rate == 22
        limit.respond_429()
        assert limit.shared_limit.rate == 20
        waits.append(windows)
    assert waits == [1, 5, 9, 17, 33, 65, 65]


def test_a_429_at_a_clean_rate_halves_the_rate() -> None:
    limit = LimitUnderTest(20)
    limit.window()
    limit.respond_429()
    limit.window()
    limit.respond_429()
    assert limit.shared_limit.rate == 10


def test_a_429_to_one_device_reduces_the_rate_by_one_step() -> None:
    limit = LimitUnderTest(20)
    limit.shared_limit.reduce_one_step(limit.now, limit.now)
    assert limit.shared_limit.rate == 18


def test_a_429_to_one_device_undoes_a_new_step() -> None:
    limit = LimitUnderTest(20)
    limit.window()
    limit.shared_limit.reduce_one_step(limit.now, limit.now)
    assert limit.shared_limit.rate == 20


def test_429s_to_single_devices_do_not_reduce_the_rate_below_one() -> None:
    limit = LimitUnderTest(3)
    for _ in range(10):
        limit.shared_limit.reduce_one_step(limit.now, limit.now)
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
