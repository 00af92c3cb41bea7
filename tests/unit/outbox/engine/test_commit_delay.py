"""The commit delay: calls share a commit, and no call waits long."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence

import pytest
from relay.outbox import OutboxUnavailable
from relay.outbox.engine.commit_delay import CommitDelay
from relay.outbox.engine.commit_plan import Append
from relay.outbox.engine.operations import Forget, Settle
from relay.outbox.engine.pending_calls import PendingCalls
from relay.runtime.metrics import Metrics
from relay.runtime.tasks import Tasks

from tests.contract.boxes import event
from tests.support.event_loop import turns

COMMIT_US = 800


def append(body_bytes: int = 0, callers: int = 1) -> Append:
    return Append([event(1, body_bytes=body_bytes)], asyncio.get_running_loop().create_future(), callers, sum)


def pending_calls(appends: Sequence[Append] = ()) -> PendingCalls:
    made = PendingCalls(Metrics())
    for each in appends:
        made.add(each)
    return made


async def gather(commit_delay: CommitDelay, waiting: PendingCalls, now_us: Callable[[], int] = lambda: 1) -> int:
    """Return the number of appends of the commit. `now_us` is the clock, by default a stopped one."""
    async with asyncio.timeout(30):
        await commit_delay.gather(waiting, now_us)
    return len(waiting.appends)


@pytest.fixture
async def commit_delay() -> CommitDelay:
    """Return the commit delay after a commit of three callers."""
    commit_delay = CommitDelay()
    assert await gather(commit_delay, pending_calls([append() for _ in range(3)])) == 3
    commit_delay.committed(0, COMMIT_US)
    return commit_delay


def ticking(tick_us: int) -> Callable[[], int]:
    """Return a clock that advances with each call, once per iteration of the loop."""
    ticks = itertools.count()
    return lambda: next(ticks) * tick_us


async def come(waiting: PendingCalls, *after_turns: int) -> None:
    """Add callers, each some iterations after the previous one."""
    for count in after_turns:
        await turns(count)
        waiting.add(append())


async def test_commit_waits_for_callers_of_the_last_commit(commit_delay: CommitDelay) -> None:
    waiting = pending_calls([append()])
    Tasks().start("callers", come(waiting, 20, 20))
    assert await gather(commit_delay, waiting) == 3


async def test_commit_waits_at_most_a_quarter_of_a_commit(commit_delay: CommitDelay) -> None:
    waiting = pending_calls([append()])
    asked: list[int] = []
    clock = ticking(COMMIT_US // 40)

    def now_us() -> int:
        asked.append(clock())
        return asked[-1]

    Tasks().start("callers", come(waiting, 8, 30))
    assert await gather(commit_delay, waiting, now_us) == 2
    assert COMMIT_US // 4 <= asked[-1] <= COMMIT_US // 4 + 2 * COMMIT_US // 40


async def test_busy_loop_iterations_do_not_count_as_waiting(commit_delay: CommitDelay) -> None:
    waiting = pending_calls([append()])
    Tasks().start("callers", come(waiting, 3, 0))
    assert await gather(commit_delay, waiting, ticking(2 * COMMIT_US)) == 3


async def test_commit_begins_although_the_loop_stays_busy(commit_delay: CommitDelay) -> None:
    await gather(commit_delay, pending_calls([append(callers=500)]))
    waiting = pending_calls([append()])
    Tasks().start("callers", come(waiting, *[1] * 400))
    assert await gather(commit_delay, waiting, ticking(1_000)) <= 12


async def test_commit_does_not_wait_after_commits_without_callers() -> None:
    commit_delay, waiting = CommitDelay(), pending_calls()
    commit_delay.committed(0, COMMIT_US)
    waiting.ops.append(Settle([], Metrics()))
    assert await gather(commit_delay, waiting) == 0


async def test_expected_callers_decrease_to_a_single_caller(commit_delay: CommitDelay) -> None:
    for _ in range(4):
        await gather(commit_delay, pending_calls([append()]), ticking(COMMIT_US))
        commit_delay.committed(0, COMMIT_US)
    assert await gather(commit_delay, pending_calls([append()])) == 1


async def test_full_commit_does_not_wait(commit_delay: CommitDelay) -> None:
    assert await gather(commit_delay, pending_calls([append(200_000)])) == 1


async def test_calls_without_callers_are_delayed_while_datagrams_arrive(commit_delay: CommitDelay) -> None:
    commit_delay.committed(0, COMMIT_US, flowing=True)
    waiting = pending_calls()
    waiting.ops.append(Settle([], Metrics()))
    assert commit_delay.delay_us(waiting, 1_000) == 9_000
    assert commit_delay.delay_us(waiting, 10_000) <= 0
    commit_delay.committed(11_000, 12_000)
    assert commit_delay.delay_us(waiting, 12_000) == 9_000
    commit_delay.committed(29_000, 30_000)
    assert commit_delay.delay_us(waiting, 31_000) == 0


async def test_calls_are_not_delayed_without_datagrams(commit_delay: CommitDelay) -> None:
    waiting = pending_calls([append(callers=0)])
    waiting.ops.append(Settle([], Metrics()))
    assert commit_delay.delay_us(waiting, 1_000) == 0


@pytest.mark.parametrize("pressing", ["append", "op", "bytes"])
async def test_waiting_caller_ends_the_delay(commit_delay: CommitDelay, pressing: str) -> None:
    commit_delay.committed(0, COMMIT_US, flowing=True)
    waiting = pending_calls([append(200_000 if pressing == "bytes" else 0, callers=0)])
    if pressing == "append":
        waiting.add(append())
    if pressing == "op":
        waiting.ops.append(Forget([]))
    assert commit_delay.delay_us(waiting, 1_000) == 0


async def test_failed_calls_are_not_pressing() -> None:
    waiting = pending_calls([append(), append(callers=0)])
    answers = [each.result for each in waiting.appends]
    assert waiting.is_pressing
    waiting.fail(OutboxUnavailable("the disk fails"))
    assert not waiting.is_pressing
    assert all(isinstance(answer.exception(), OutboxUnavailable) for answer in answers)
