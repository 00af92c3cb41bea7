"""The body of one request."""

from __future__ import annotations

import msgspec
import pytest
from relay.policy.requests import count_fitting, request_body

FRAME_BYTES = len(b'{"events":[]}')


@pytest.mark.parametrize(
    ("sizes", "max_events", "max_body_bytes", "events"),
    [
        ([], 10, 1000, 0),
        ([10, 10, 10], 2, 1000, 2),
        ([10, 10, 10], 10, 1000, 3),
        ([10, 10, 10], 10, FRAME_BYTES + 22, 2),
        ([10, 10, 10], 10, FRAME_BYTES + 21, 1),
        ([5000, 10], 10, 100, 1),
        ([10, 5000, 10], 10, 100, 1),
        ([10], 0, 1000, 0),
        ([10], 10, 0, 1),
    ],
)
def test_cut_takes_the_first_events_that_fit_and_at_least_one(
    sizes: list[int], max_events: int, max_body_bytes: int, events: int
) -> None:
    assert count_fitting(sizes, max_events, max_body_bytes) == events


def test_cut_takes_nothing_that_does_not_fit_a_body_with_events() -> None:
    assert count_fitting([5000], 10, 1000, used_bytes=500) == 0
    assert count_fitting([400, 400], 10, 1000, used_bytes=500) == 1


def test_the_body_contains_the_events_byte_for_byte() -> None:
    events = [b'{"a": 1.0}', b'{"b":"\xc3\xa9"}']
    assert request_body(events) == b'{"events":[{"a": 1.0},{"b":"\xc3\xa9"}]}'
    assert msgspec.json.decode(request_body(events)) == {"events": [{"a": 1.0}, {"b": "é"}]}
