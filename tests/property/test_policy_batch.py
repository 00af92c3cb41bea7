"""`cut` takes as many events as fit, and no more."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from relay.policy.requests import count_fitting, request_body

sizes_st = st.lists(st.integers(2, 200), max_size=30)
limits_st = st.tuples(st.integers(0, 40), st.integers(0, 1_000))


def body_bytes(sizes: list[int]) -> int:
    return len(request_body([b"x" * size for size in sizes]))


@given(sizes_st, limits_st)
def test_a_body_fits_unless_its_only_event_is_too_large(sizes: list[int], limits: tuple[int, int]) -> None:
    max_events, max_body_bytes = limits
    events = count_fitting(sizes, max_events, max_body_bytes)
    assert events <= min(len(sizes), max_events)
    assert events <= 1 or body_bytes(sizes[:events]) <= max_body_bytes


@given(sizes_st, limits_st)
def test_one_more_event_would_not_fit(sizes: list[int], limits: tuple[int, int]) -> None:
    max_events, max_body_bytes = limits
    events = count_fitting(sizes, max_events, max_body_bytes)
    if events < min(len(sizes), max_events):
        assert events
        # `cut` reserves one byte for a separator that the last event does not need.
        assert body_bytes(sizes[: events + 1]) > max_body_bytes - 1


@given(st.lists(sizes_st, min_size=1, max_size=4), limits_st)
def test_a_mixed_batch_fits(queue_ids: list[list[int]], limits: tuple[int, int]) -> None:
    max_events, max_body_bytes = limits
    together: list[int] = []
    for sizes in queue_ids:
        used_bytes = sum(together) + len(together)
        events = count_fitting(sizes, max_events, max_body_bytes, used_bytes)
        together += sizes[:events]
    assert len(together) <= 1 or body_bytes(together) <= max_body_bytes
