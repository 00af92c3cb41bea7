"""When a commit begins: nobody waits alone, and nobody waits for long."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence

import pytest
from relay.metrics import Metrics
from relay.outbox import OutboxUnavailable
from relay.outbox.sqlite.draft import Append
from relay.outbox.sqlite.gathered import Gathered
from relay.outbox.sqlite.ops import Forget, Settle
from relay.outbox.sqlite.pace import Pace
from relay.tasks import Tasks

from tests.contract.boxes import FakeClock, event

COMMIT_S = 0.0008


def append(body_bytes: int = 0, *, patient: bool = False) -> Append:
    return Append([event(1, body_bytes=body_bytes)], asyncio.get_running_loop().create_future(), patient=patient)


def gathered(appends: Sequence[Append] = ()) -> Gathered:
    made = Gathered(FakeClock(), Metrics())
    for each in appends:
        made.add(each)
    return made


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def gather(pace: Pace, waiting: Gathered, now_s: Callable[[], float] = lambda: 1.0) -> int:
    """How many appends the commit would have; in a world where time stands still, unless the test moves it."""
    async with asyncio.timeout(30):
        await pace.gather(waiting, now_s)
    return len(waiting.appends)


@pytest.fixture
async def pace() -> Pace:
    """After a commit of three callers."""
    pace = Pace()
    assert await gather(pace, gathered([append() for _ in range(3)])) == 3
    pace.committed(0.0, COMMIT_S)
    return pace


async def test_those_whom_the_last_commit_answered_are_waited_for(pace: Pace) -> None:
    waiting = gathered([append()])
    tasks = Tasks()

    async def come() -> None:
        for _ in range(2):
            await turns(20)
            waiting.add(append())

    tasks.start("callers", come())
    assert await gather(pace, waiting) == 3


def ticking(tick_s: float) -> Callable[[], float]:
    """A clock that moves on each time it is asked, once a turn of the loop."""
    ticks = itertools.count()
    return lambda: next(ticks) * tick_s


async def test_they_are_not_waited_for_longer_than_a_quarter_of_a_commit(pace: Pace) -> None:
    waiting = gathered([append()])
    asked: list[float] = []
    clock = ticking(COMMIT_S / 40)

    def now_s() -> float:
        asked.append(clock())
        return asked[-1]

    assert await gather(pace, waiting, now_s) == 1
    assert asked[-1] == pytest.approx(COMMIT_S / 4)


async def test_turns_in_which_the_loop_was_busy_are_not_waiting(pace: Pace) -> None:
    waiting = gathered([append()])
    tasks = Tasks()

    async def come() -> None:
        await turns(3)
        waiting.add(append())
        waiting.add(append())

    tasks.start("callers", come())
    assert await gather(pace, waiting, ticking(10 * COMMIT_S)) == 3


async def test_a_lonely_caller_is_soon_alone_again(pace: Pace) -> None:
    for _ in range(4):
        await gather(pace, gathered([append()]), ticking(COMMIT_S))
        pace.committed(0.0, COMMIT_S)
    assert await gather(pace, gathered([append()])) == 1


async def test_a_worthy_commit_waits_for_nobody(pace: Pace) -> None:
    assert await gather(pace, gathered([append(200_000)])) == 1


async def test_while_datagrams_flow_what_nobody_waits_for_is_put_off(pace: Pace) -> None:
    pace.committed(0.0, COMMIT_S, flowing=True)
    waiting = gathered()
    waiting.ops.append(Settle([], set(), Metrics()))
    assert pace.put_off_s(waiting, 0.001) == pytest.approx(0.009)
    assert pace.put_off_s(waiting, 0.010) <= 0
    pace.committed(0.011, 0.012)
    assert pace.put_off_s(waiting, 0.012) == pytest.approx(0.009)
    pace.committed(0.029, 0.030)
    assert pace.put_off_s(waiting, 0.031) == 0


async def test_where_none_flow_it_is_not_put_off(pace: Pace) -> None:
    waiting = gathered([append(patient=True)])
    waiting.ops.append(Settle([], set(), Metrics()))
    assert pace.put_off_s(waiting, 0.001) == 0


@pytest.mark.parametrize("pressing", ["append", "op", "bytes"])
async def test_it_goes_along_with_what_somebody_waits_for(pace: Pace, pressing: str) -> None:
    pace.committed(0.0, COMMIT_S, flowing=True)
    waiting = gathered([append(200_000 if pressing == "bytes" else 0, patient=True)])
    if pressing == "append":
        waiting.add(append())
    if pressing == "op":
        waiting.ops.append(Forget([]))
    assert pace.put_off_s(waiting, 0.001) == 0


async def test_what_has_been_told_presses_no_more() -> None:
    waiting = gathered([append(), append(patient=True)])
    answers = [each.answer for each in waiting.appends]
    assert waiting.is_pressing
    waiting.fail(OutboxUnavailable("the disk fails"))
    assert not waiting.is_pressing
    assert all(isinstance(answer.exception(), OutboxUnavailable) for answer in answers)
