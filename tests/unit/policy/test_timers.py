"""One timer for each item, set to the earliest requested time."""

from __future__ import annotations

from relay.policy.timers import Timers


class Timed:
    wake_at: int | None = None


def test_expired_timers_are_returned_once_in_order() -> None:
    timers: Timers[Timed] = Timers()
    late, early = Timed(), Timed()
    timers.wake(late, 20)
    timers.wake(early, 10)
    assert timers.pop_expired(9) is None
    assert timers.next_at() == 10
    assert [timers.pop_expired(20), timers.pop_expired(20), timers.pop_expired(20)] == [early, late, None]
    assert timers.next_at() is None


def test_a_timer_moves_earlier_but_not_later() -> None:
    timers: Timers[Timed] = Timers()
    item = Timed()
    for at in (20, 10, 30):
        timers.wake(item, at)
    assert timers.next_at() == 10
    assert timers.pop_expired(10) is item
    assert timers.next_at() is None
    assert timers.pop_expired(100) is None
