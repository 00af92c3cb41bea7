"""Visits of device queues and endpoints in bounded steps."""

from __future__ import annotations

from relay.policy.visits import MAX_STEP, Visits


def test_each_item_is_visited_once_in_order_and_at_most_a_step_at_a_time() -> None:
    visits = Visits(range(2 * MAX_STEP + 1))
    steps = []
    while visits:
        steps.append(list(visits.step()))
    assert [len(step) for step in steps] == [MAX_STEP, MAX_STEP, 1]
    assert [item for step in steps for item in step] == list(range(2 * MAX_STEP + 1))
