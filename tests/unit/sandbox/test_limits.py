"""The limiter works like the framework's: a fixed window from the first request, without rejected requests."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from relay.sandbox.limits import FixedWindow, SandboxLimits, headers
from relay.sandbox.settings import SandboxSettings


def test_a_window_opens_with_the_first_request_and_has_a_fixed_length() -> None:
    window = FixedWindow(2, 60_000)
    assert [window.admit("a", at).allowed for at in (10_000, 69_999, 69_999)] == [True, True, False]
    assert window.admit("a", 70_000) == (True, 2, 1, 0)


def test_twice_the_limit_passes_across_a_boundary() -> None:
    window = FixedWindow(3, 60_000)
    times = [0, 59_998, 59_999, 60_000, 60_001, 60_002]
    assert all(window.admit("a", at).allowed for at in times)


def test_keys_have_windows_of_their_own() -> None:
    window = FixedWindow(1, 60_000)
    assert [window.admit(key, 0).allowed for key in "aba"] == [True, True, False]


def test_retry_after_is_whole_seconds_between_truncated_clocks() -> None:
    window = FixedWindow(1, 60_000)
    window.admit("a", 900)
    assert window.admit("a", 1_000).retry_after_s == 59
    assert window.admit("a", 60_899).retry_after_s == 0  # The window is still open.
    assert window.admit("a", 60_900).allowed


@given(st.lists(st.integers(0, 5_000), max_size=60), st.integers(1, 5))
def test_no_window_admits_more_than_its_limit(gaps_ms: list[int], limit: int) -> None:
    window, at_ms = FixedWindow(limit, 10_000), 0
    admitted: list[int] = []
    for gap_ms in gaps_ms:
        at_ms += gap_ms
        if window.admit("a", at_ms).allowed:
            admitted.append(at_ms)
        else:
            # A rejection: the last `limit` requests are all in the open window.
            assert admitted[-limit] > at_ms - 10_000
    opened = 0
    while opened < len(admitted):
        inside = [at for at in admitted[opened:] if at < admitted[opened] + 10_000]
        assert len(inside) <= limit
        opened += len(inside)


def test_headers_of_an_admission_and_of_a_rejection() -> None:
    window = FixedWindow(1, 60_000)
    assert headers(window.admit("a", 0), 5_000) == [("X-RateLimit-Limit", "1"), ("X-RateLimit-Remaining", "0")]
    assert headers(window.admit("a", 2_000), 1_000_000_000)[2:] == [
        ("Retry-After", "58"),
        ("X-RateLimit-Reset", "1000058"),
    ]


def limits(**settings: object) -> SandboxLimits:
    return SandboxLimits(SandboxSettings(device_per_window=3, ip_per_window=2, **settings))  # type: ignore[arg-type]


def test_fallback_counts_only_requests_without_a_readable_device() -> None:
    both = limits()
    assert [both.admit("tv", "ip", 0).limit for _ in range(3)] == [3, 3, 3]  # type: ignore[union-attr]
    assert [both.admit(None, "ip", 0).allowed for _ in range(3)] == [True, True, False]  # type: ignore[union-attr]


def test_always_counts_every_request_of_an_address() -> None:
    both = limits(ip_limit="always")
    assert [both.admit(device, "ip", 0).allowed for device in "abc"] == [True, True, False]  # type: ignore[union-attr]


def test_off_leaves_unknown_devices_unlimited() -> None:
    assert limits(ip_limit="off").admit(None, "ip", 0) is None


def test_a_request_rejected_for_its_device_does_not_count_for_its_address() -> None:
    both = SandboxLimits(SandboxSettings(device_per_window=1, ip_per_window=2, ip_limit="always"))
    assert [both.admit("a", "ip", 0).allowed for _ in range(3)] == [True, False, False]  # type: ignore[union-attr]
    assert [both.admit(device, "ip", 0).allowed for device in "bc"] == [True, False]  # type: ignore[union-attr]
