"""No kind of window at the upstream counts a device above its limit, also across restarts."""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st
from relay.policy.rate_window import Window

WINDOW_MS = 1_000
LIMIT = 3


class Request(NamedTuple):
    idle_ms: int
    """Delay between the permission to send and the request."""
    latency_ms: int
    arrival: float
    """Moment at which the upstream receives it: 0 with the request, 1 with the response."""
    after: str
    """The next event: the response, or a crash before it with a restart of the relay or the machine."""
    downtime_ms: int


requests = st.builds(
    Request,
    idle_ms=st.one_of(st.just(0), st.integers(0, 3 * WINDOW_MS)),
    latency_ms=st.one_of(st.just(0), st.integers(0, 3 * WINDOW_MS)),
    arrival=st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0, 1)),
    after=st.sampled_from(["answer", "answer", "answer", "restart", "reboot"]),
    downtime_ms=st.one_of(st.just(0), st.integers(0, 3 * WINDOW_MS)),
)


def arrivals(script: list[Request], limit: int) -> list[int]:
    """Return when the upstream receives each request of a relay that sends as often as its window permits."""
    window, seen = Window(), []
    now = 0  # Time of the upstream.
    clock = 0  # Difference to the monotonic clock of the relay.
    for request in script:
        now = max(now, window.free_at(now - clock, limit, WINDOW_MS) + clock) + request.idle_ms
        journal = window.pack(now - clock, WINDOW_MS)
        seen.append(now + int(request.latency_ms * request.arrival))
        now += request.latency_ms
        if request.after == "answer":
            window.responded(now - clock)
            continue
        now += request.downtime_ms
        same_boot = request.after == "restart"
        if not same_boot:
            clock = now - 5  # The new boot is five milliseconds old.
        window = Window.unpack(journal, now - clock, limit, 0 if same_boot else None)
        window.responded(now - clock)  # A request in flight at the crash counts as sent.
    return seen


@given(st.lists(requests, max_size=30), st.integers(1, LIMIT), st.integers(0, WINDOW_MS))
def test_no_kind_of_window_counts_more_than_the_limit(script: list[Request], limit: int, offset: int) -> None:
    seen = arrivals(script, limit)
    for i, first in enumerate(seen[:-limit] if limit < len(seen) else []):
        assert seen[i + limit] - first > WINDOW_MS, "sliding window"
    calendar = [(at + offset) // WINDOW_MS for at in seen]
    assert all(calendar.count(minute) <= limit for minute in calendar), "calendar window"
    opened, count = -WINDOW_MS, 0
    for at in seen:
        if at - opened >= WINDOW_MS:
            opened, count = at, 0
        count += 1
        assert count <= limit, "fixed window from the first request"


@given(st.lists(requests, min_size=1, max_size=30), st.integers(1, LIMIT))
def test_a_rate_slot_is_free_after_at_most_one_window(script: list[Request], limit: int) -> None:
    window, now = Window(), 0
    for request in script:
        free_at = window.free_at(now, limit, WINDOW_MS)
        assert now <= free_at <= now + WINDOW_MS + 1
        assert window.free_at(free_at, limit, WINDOW_MS) == free_at
        now = free_at + request.latency_ms
        window.responded(now)


@given(st.lists(st.integers(0, 2 * WINDOW_MS), max_size=10), st.integers(0, WINDOW_MS))
def test_packing_loses_nothing_in_the_same_boot(gaps: list[int], later: int) -> None:
    window, now = Window(), 0
    for gap in gaps:
        now += gap
        window.responded(now)
    again = Window.unpack(window.pack(now, WINDOW_MS), now + later, LIMIT, 0)
    for limit in range(1, 12):
        assert again.free_at(now + later, limit, WINDOW_MS) == window.free_at(now + later, limit, WINDOW_MS)
