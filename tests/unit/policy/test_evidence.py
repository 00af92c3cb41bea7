"""Whether other device queues of an endpoint succeed."""

from __future__ import annotations

import pytest
from relay.policy.evidence import Evidence

MINUTE_MS = 60_000
NOW = 1_000_000


def test_without_a_success_no_other_device_queue_succeeds() -> None:
    assert not Evidence().others_succeed([1], NOW, NOW)
    assert not Evidence().has_recent_success(NOW)


def test_the_success_of_another_device_queue_counts_for_ten_seconds() -> None:
    evidence = Evidence()
    evidence.succeeded([2], 0, NOW)
    assert evidence.others_succeed([1], NOW + 10_000, NOW + 10_000)
    assert not evidence.others_succeed([1], NOW + 10_001, NOW + 10_001)


def test_a_success_after_the_request_was_sent_counts_however_old_it_is() -> None:
    evidence = Evidence()
    evidence.succeeded([2], 0, NOW)
    assert evidence.others_succeed([1], NOW, NOW + MINUTE_MS)
    assert not evidence.others_succeed([1], NOW + 1, NOW + MINUTE_MS)


def test_the_success_of_the_same_device_queues_does_not_count_and_hides_no_other() -> None:
    evidence = Evidence()
    evidence.succeeded([1], 0, NOW)
    assert not evidence.others_succeed([1], NOW, NOW)
    evidence.succeeded([2], 0, NOW)
    evidence.succeeded([1], 0, NOW)
    assert evidence.others_succeed([1], NOW, NOW)
    evidence.succeeded([1], 0, NOW)
    assert evidence.others_succeed([1], NOW, NOW)


def test_a_failure_of_another_device_queue_outweighs_earlier_successes() -> None:
    evidence = Evidence()
    evidence.succeeded([2], 0, NOW)
    evidence.failed([1])
    assert evidence.others_succeed([1], NOW, NOW)
    evidence.failed([3])
    assert not evidence.others_succeed([1], NOW, NOW)
    evidence.succeeded([2], 0, NOW)
    assert evidence.others_succeed([1], NOW, NOW)


def test_a_success_is_recent_for_ten_minutes() -> None:
    evidence = Evidence()
    evidence.succeeded([1], 0, NOW)
    assert evidence.has_recent_success(NOW + 10 * MINUTE_MS)
    assert not evidence.has_recent_success(NOW + 10 * MINUTE_MS + 1)


def test_a_device_that_succeeded_is_a_witness_for_ten_minutes_unless_it_failed_since() -> None:
    evidence = Evidence()
    evidence.succeeded([2], 0, NOW)
    assert evidence.has_witness([1], NOW + 10 * MINUTE_MS)
    assert not evidence.has_witness([1], NOW + 10 * MINUTE_MS + 1)
    assert not evidence.has_witness([2], NOW), "of another device only"
    evidence.suspected(2)
    assert not evidence.has_witness([1], NOW)
    evidence.succeeded([2], 1, NOW)
    assert evidence.has_witness([1], NOW)


def test_the_number_of_witnesses_is_bounded() -> None:
    evidence = Evidence()
    for queue_id in range(1_000):
        evidence.succeeded([queue_id], 0, NOW)
    for queue_id in range(900, 1_000):
        evidence.suspected(queue_id)
    assert not evidence.has_witness([], NOW)


@pytest.mark.parametrize(
    ("successes", "failures", "mostly"), [(0, 0, False), (1, 0, True), (9, 1, True), (8, 1, False), (20, 3, False)]
)
def test_nine_of_ten_requests_must_be_delivered(successes: int, failures: int, mostly: bool) -> None:
    evidence = Evidence()
    for i in range(successes):
        evidence.succeeded([i], failures if i == 0 else 0, NOW + MINUTE_MS)
    assert evidence.mostly_succeeds(NOW) is mostly
    assert evidence.often_fails(NOW) is (failures > 0 and not mostly)
    assert not evidence.mostly_succeeds(NOW + MINUTE_MS), "not of an earlier minute"


def test_requests_older_than_15_minutes_are_no_evidence() -> None:
    evidence = Evidence()
    evidence.succeeded([1], 100, NOW + MINUTE_MS)
    for i in range(2, 17):
        assert not evidence.mostly_succeeds(NOW)
        evidence.succeeded([1], 0, NOW + i * MINUTE_MS)
    assert evidence.mostly_succeeds(NOW)
