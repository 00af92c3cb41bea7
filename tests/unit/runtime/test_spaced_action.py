"""An action runs at once, and then at most once in an interval, whatever the number of requests."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from relay.runtime.spaced_action import SpacedAction, SpacedState

from tests.simulation.virtual import run


async def requested_at(times_s: Sequence[float], until_s: float) -> tuple[list[float], SpacedAction]:
    """Request an action with an interval of 1 s at these times. Return the times of its runs, and the action."""
    loop, runs = asyncio.get_running_loop(), list[float]()
    action = SpacedAction(lambda: runs.append(loop.time()), 1.0)
    for time_s in times_s:
        loop.call_at(time_s, action.request)
    await asyncio.sleep(until_s)
    return runs, action


@pytest.mark.parametrize(
    ("times_s", "until_s", "runs", "state"),
    [
        ([], 1, [], "idle"),
        ([0], 0.5, [0], "resting"),
        ([0], 1.5, [0], "idle"),
        ([0, 0.5], 0.75, [0], "requested"),
        ([0, 0.25, 0.5, 0.5], 1.5, [0, 1], "resting"),
        ([0, 0.5], 2.5, [0, 1], "idle"),
        ([0, 1.5], 1.75, [0, 1.5], "resting"),
        ([0, 0.5, 1.25], 2.5, [0, 1, 2], "resting"),
    ],
)
def test_each_request_is_followed_by_a_run_within_the_interval(
    times_s: Sequence[float], until_s: float, runs: Sequence[float], state: SpacedState
) -> None:
    ran, action = run(requested_at(times_s, until_s))

    assert runs == ran
    assert state == action.state
    assert repr(action) == f"<SpacedAction {state}>"


def test_requests_without_a_pause_run_the_action_once_per_interval() -> None:
    ran, _ = run(requested_at([at / 100 for at in range(1_000)], 20))

    assert ran == list(range(11))
