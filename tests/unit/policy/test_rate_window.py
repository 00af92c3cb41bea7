"""At most N requests in a window, counted from their responses, also across restarts."""

from __future__ import annotations

import pytest
from relay.policy.rate_window import Window, is_free

WINDOW_MS = 60_000
LIMIT = 3


def full_at(*times: int) -> Window:
    window = Window()
    for at in times:
        window.responded(at)
    return window


def test_below_the_limit_a_request_is_allowed_now() -> None:
    assert full_at(0, 10).free_at(20, LIMIT, WINDOW_MS) == 20


def test_at_the_limit_the_oldest_slot_is_free_one_window_after_its_response() -> None:
    window = full_at(0, 10, 20)
    free_at = window.free_at(30, LIMIT, WINDOW_MS)
    assert free_at == WINDOW_MS + 1
    assert window.free_at(free_at - 1, LIMIT, WINDOW_MS) > free_at - 1
    assert window.free_at(free_at, LIMIT, WINDOW_MS) == free_at


def test_a_lowered_limit_requires_enough_free_slots() -> None:
    assert full_at(0, 10, 20, 30).free_at(40, 2, WINDOW_MS) == 20 + WINDOW_MS + 1


def test_count_ignores_free_slots() -> None:
    window = full_at(0, 10, 20)
    assert window.count(WINDOW_MS, WINDOW_MS) == 3
    assert window.count(WINDOW_MS + 1, WINDOW_MS) == 2
    assert window.count(WINDOW_MS + 21, WINDOW_MS) == 0


def test_an_empty_window_packs_to_nothing() -> None:
    assert full_at(0).pack(WINDOW_MS + 1, WINDOW_MS) == b""
    assert Window.unpack(b"", 5, LIMIT, None).free_at(5, LIMIT, WINDOW_MS) == 5


def test_in_the_same_boot_a_restart_remembers_every_answer() -> None:
    packed = full_at(100, 200, 300).pack(400, WINDOW_MS)
    window = Window.unpack(packed, 500, LIMIT, 0)
    assert window.free_at(500, LIMIT, WINDOW_MS) == 100 + WINDOW_MS + 1


def test_in_another_boot_the_window_counts_as_full_from_now() -> None:
    packed = full_at(100).pack(400, WINDOW_MS)
    window = Window.unpack(packed, 50, LIMIT, None)
    assert window.free_at(50, LIMIT, WINDOW_MS) == 50 + WINDOW_MS + 1


def test_responses_after_a_window_that_counts_as_full_follow_it() -> None:
    window = Window.unpack(full_at(100).pack(400, WINDOW_MS), 50, LIMIT, None)
    window.responded(60)
    assert window.count(70, WINDOW_MS) == LIMIT + 1
    assert window.free_at(70, LIMIT, WINDOW_MS) == 50 + WINDOW_MS + 1
    assert window.free_at(70, 1, WINDOW_MS) == 60 + WINDOW_MS + 1
    again = Window.unpack(window.pack(80, WINDOW_MS), 90, LIMIT, 0)
    assert again.free_at(90, LIMIT, WINDOW_MS) == 50 + WINDOW_MS + 1
    assert window.count(51 + WINDOW_MS, WINDOW_MS) == 1


def test_the_times_of_another_clock_are_shifted() -> None:
    packed = full_at(100, 200, 300).pack(400, WINDOW_MS)
    window = Window.unpack(packed, 9_500, LIMIT, 9_000)
    assert window.free_at(9_500, LIMIT, WINDOW_MS) == 9_100 + WINDOW_MS + 1


def test_a_packed_window_is_free_one_window_after_it_was_packed() -> None:
    packed = full_at(100).pack(400, WINDOW_MS)
    assert not is_free(packed, 400 + WINDOW_MS, WINDOW_MS)
    assert is_free(packed, 401 + WINDOW_MS, WINDOW_MS)
    assert not is_free(packed, 0, WINDOW_MS), "monotonic time was set back"
    assert is_free(b"", 0, WINDOW_MS)


def test_the_packed_state_is_small() -> None:
    window = full_at(*range(120))
    assert len(window.pack(200, WINDOW_MS)) == 8 + 4 * 120


def test_responses_later_than_the_clock_count_as_now() -> None:
    """Some machines set monotonic time back during a suspend. A rate slot must still be free after one window."""
    packed = full_at(9_000_000).pack(9_000_000, WINDOW_MS)
    window = Window.unpack(packed, 1_000, 1, 0)
    assert window.free_at(1_000, 1, WINDOW_MS) == 1_000 + WINDOW_MS + 1


def test_an_owed_request_occupies_a_rate_slot_and_is_answered_when_it_is_over() -> None:
    window = full_at(100, 200)
    assert window.free_at(300, LIMIT, WINDOW_MS) <= 300
    window.owe(1, 300)
    assert window.free_at(300, LIMIT, WINDOW_MS) == 100 + WINDOW_MS + 1
    window.owe(0, 400)
    assert window.count(400, WINDOW_MS) == 3
    assert window.free_at(400, LIMIT, WINDOW_MS) == 100 + WINDOW_MS + 1
    window.owe(LIMIT, 500)
    assert window.free_at(90_000, LIMIT, WINDOW_MS) > 90_000


# -- even spacing


def used(window: Window, count: int, at: int = 1_000) -> Window:
    """Let a device use a number of rate slots in a burst."""
    for _ in range(count):
        window.sent(at)
        window.responded(at + 10)
    return window


@pytest.mark.parametrize(
    ("count", "limit", "free_at"),
    [
        (59, 120, 1_010),  # Less than half of the rate slots.
        (60, 120, 1_983),
        (119, 120, 31_005),
        (120, 120, 61_011),  # A full window.
        (6, 12, 9_573),
        (7, 9, 1_010),  # A limit below ten has no spacing.
        (1, 2, 1_010),
    ],
)
def test_from_half_of_the_rate_slots_on_requests_are_spaced(count: int, limit: int, free_at: int) -> None:
    assert used(Window(), count).free_at(1_010, limit, 60_000) == free_at


def test_rate_slots_that_became_free_end_the_spacing() -> None:
    window = used(Window(), 100)
    window.sent(61_012)
    window.responded(61_013)
    assert window.free_at(61_100, 120, 60_000) == 61_100


def test_the_spacing_counts_from_the_request_so_that_a_slow_response_does_not_lower_the_rate() -> None:
    window = Window()
    for at in range(1_000, 61_000, 500):
        window.sent(at)
        window.responded(at + 450)
    assert window.free_at(61_451, 120, 60_000) == 61_451
    window.sent(61_451)
    window.responded(61_900)
    assert window.free_at(61_900, 120, 60_000) == 61_951
