"""Rejected single events, and when the endpoint is at fault for them."""

from __future__ import annotations

import pytest
from relay.policy.rejections import Rejections


@pytest.mark.parametrize(
    ("queue_ids", "recent_success", "everything"),
    [
        ([1] * 19, False, False),
        ([1] * 20, False, True),
        ([1] * 20, True, False),
        ([1] * 19 + [2], True, True),
        ([1] * 18 + [2], True, False),
    ],
)
def test_twenty_unnamed_rejections_of_several_devices_or_without_a_success_are_the_fault_of_the_endpoint(
    queue_ids: list[int], recent_success: bool, everything: bool
) -> None:
    rejections = Rejections()
    for queue_id in queue_ids:
        rejections.count_unnamed(queue_id)
    assert rejections.include_everything(recent_success=recent_success) is everything
    assert 1 in rejections
    rejections.forget()
    assert not rejections.include_everything(recent_success=recent_success)
    assert 1 not in rejections


def test_names_are_ignored_for_a_day() -> None:
    rejections = Rejections()
    assert not rejections.ignore_names_at(1_000)
    rejections.ignore_names(1_000)
    rejections.forget()
    assert [rejections.ignore_names_at(1_000 + ms) for ms in (0, 86_399_999, 86_400_000)] == [True, True, False]


def test_the_third_unexplained_rejection_is_the_fault_of_the_endpoint() -> None:
    rejections, found = Rejections(), []
    for _ in range(3):
        rejections.count_unexplained()
        found.append(rejections.are_unexplained)
    assert found == [False, False, True]
    rejections.forget()
    assert not rejections.are_unexplained
