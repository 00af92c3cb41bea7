"""The time without progress after which a request is overdue."""

from __future__ import annotations

import pytest
from relay.policy.patience import Patience


@pytest.mark.parametrize(
    ("responses_ms", "expected_ms"),
    [
        ([], 2_000),
        ([1], 500),
        ([250], 500),
        ([400], 800),
        ([2_400], 4_800),
        ([30_000], 5_000),
        ([100, 1_000, 100], 1_750),
        ([1_000, *[100] * 20], 500),
    ],
    ids=str,
)
def test_twice_the_longest_of_the_latest_response_times(responses_ms: list[int], expected_ms: int) -> None:
    patience = Patience()
    for response_ms in responses_ms:
        patience.succeeded(response_ms)
    assert patience.ms == expected_ms
    assert repr(patience) == f"Patience({expected_ms} ms)"
