"""One alarm for each thing, the earliest that was asked for."""

from __future__ import annotations

from relay.policy.timers import Timers


class Sleeper:
    wake_at: int | None = None


def test_what_rings_comes_once_in_order_of_time() -> None:
    timers: Timers[Sleeper] = Timers()
    late, early = Sleeper(), Sleeper()
    timers.wake(late, 20)
    timers.wake(early, 10)
    assert timers.ringing(9) is None
    assert timers.first() == 10
    assert [timers.ringing(20), timers.ringing(20), timers.ringing(20)] == [early, late, None]
    assert timers.first() is None


def test_an_alarm_moves_forward_but_not_back() -> None:
    timers: Timers[Sleeper] = Timers()
    sleeper = Sleeper()
    for at in (20, 10, 30):
        timers.wake(sleeper, at)
    assert timers.first() == 10
    assert timers.ringing(10) is sleeper
    assert timers.first() is None
    assert timers.ringing(100) is None
