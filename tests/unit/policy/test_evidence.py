"""Whether other device queues of an endpoint succeed."""

from __future__ import annotations

from relay.policy.evidence import Evidence

MINUTE_MS = 60_000
NOW = 1_000_000


def test_without_a_success_no_other_device_queue_succeeds() -> None:
    assert not Evidence().others_succeed([1], NOW, NOW)
    assert not Evidence().has_recent_success(NOW)


def test_the_success_of_another_device_queue_counts_for_ten_seconds() -> None:
    evidence = Evidence()
    evidence.succeeded([2], NOW)
    assert evidence.others_succeed([1], NOW + 10_000, NOW + 10_000)
    assert not evidence.others_succeed([1], NOW + 10_001, NOW + 10_001)


def test_a_success_after_the_request_was_sent_counts_however_old_it_is() -> None:
    evidence = Evidence()
    evidence.succeeded([2], NOW)
    assert evidence.others_succeed([1], NOW, NOW + MINUTE_MS)
    assert not evidence.others_succeed([1], NOW + 1, NOW + MINUTE_MS)


def test_the_success_of_the_same_device_queues_does_not_count_and_hides_no_other() -> None:
    evidence = Evidence()
    evidence.succeeded([1], NOW)
    assert not evidence.others_succeed([1], NOW, NOW)
    evidence.succeeded([2], NOW)
    evidence.succeeded([1], NOW)
    assert evidence.others_succeed([1], NOW, NOW)
    evidence.succeeded([1], NOW)
    assert evidence.others_succeed([1], NOW, NOW)


def test_a_failure_of_another_device_queue_outweighs_earlier_successes() -> None:
    evidence = Evidence()
    evidence.succeeded([2], NOW)
    evidence.failed([1])
    assert evidence.others_succeed([1], NOW, NOW)
    evidence.failed([3])
    assert not evidence.others_succeed([1], NOW, NOW)
    evidence.succeeded([2], NOW)
    assert evidence.others_succeed([1], NOW, NOW)


def test_a_success_is_recent_for_ten_minutes() -> None:
    evidence = Evidence()
    evidence.succeeded([1], NOW)
    assert evidence.has_recent_success(NOW + 10 * MINUTE_MS)
    assert not evidence.has_recent_success(NOW + 10 * MINUTE_MS + 1)
