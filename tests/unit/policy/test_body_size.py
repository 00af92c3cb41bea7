"""The learned body size of one endpoint, within the configured limit."""

from __future__ import annotations

from relay.policy.body_size import BodySize

MOST = 512 << 10
MINUTE_MS = 60_000


def test_a_configured_limit_applies_immediately_in_both_directions() -> None:
    size = BodySize()
    size.delivered(1_000, 0, MOST)

    assert size.max_bytes(64 << 10) == 64 << 10
    assert size.max_bytes(1 << 20) == 1 << 20


def test_a_learned_size_stays_when_the_configured_limit_changes() -> None:
    size = BodySize()
    size.too_large(400_000, 0, MOST)

    assert size.max_bytes(MOST) == 200_000
    assert size.max_bytes(1 << 20) == 200_000
    assert size.max_bytes(100_000) == 100_000


def test_a_learned_size_grows_up_to_the_configured_limit() -> None:
    size = BodySize()
    size.too_large(400_000, 0, MOST)
    size.delivered(190_000, 10 * MINUTE_MS, 300_000)

    assert size.max_bytes(MOST) == 300_000
