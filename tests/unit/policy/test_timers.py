"""One timer for each item, set to the earliest requested time."""

from __future__ import annotations

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st
from relay.policy.timers import Timers

ALL = 1_000_000


class Timed:
    wake_at: int | None = None


def test_expired_timers_are_returned_once_in_order() -> None:
    timers: Timers[Timed] = Timers()
    late, early = Timed(), Timed()
    timers.wake(late, 20)
    timers.wake(early, 10)
    assert timers.pop_expired(9, ALL) == []
    assert timers.next_at() == 10
    assert timers.pop_expired(20, ALL) == [early, late]
    assert timers.pop_expired(20, ALL) == []
    assert timers.next_at() is None


def test_a_timer_moves_earlier_but_not_later() -> None:
    timers: Timers[Timed] = Timers()
    item = Timed()
    for at in (20, 10, 30):
        timers.wake(item, at)
    assert timers.next_at() == 10
    assert timers.pop_expired(10, ALL) == [item]
    assert timers.next_at() is None
    assert timers.pop_expired(100, ALL) == []


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5_000)), max_size=60))
def test_timers_expire_in_order_as_in_a_list(steps: list[tuple[int, int]]) -> None:
    """Items 0 to 3 get timers; 4 lets the time pass."""
    timers: Timers[Timed] = Timers()
    items, model, now = [Timed() for _ in range(4)], dict[Timed, int](), 0
    for which, delay_ms in steps:
        if which < len(items):
            item = items[which]
            first = min(model.values(), default=None)
            model[item] = min(model.get(item, now + delay_ms), now + delay_ms)
            assert timers.wake(item, now + delay_ms) or (first is not None and first <= now + delay_ms)
        else:
            now += delay_ms
            for item in timers.pop_expired(now, ALL):
                assert model.pop(item) <= min([now, *model.values()])
        assert timers.next_at() == min(model.values(), default=None)
        assert {item: item.wake_at for item in items} == {item: model.get(item) for item in items}


def test_a_later_timer_is_an_entry_of_a_list() -> None:
    timers: Timers[Timed] = Timers()
    items = [Timed() for _ in range(1_000)]
    timers.wake(items[0], 10)
    tracemalloc.start()
    for item in items[1:]:
        timers.wake(item, 600_000)
    used_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert used_bytes < 24 * len(items)


def test_many_timers_that_expire_together_are_returned_in_bounded_portions() -> None:
    """A call neither sorts nor returns all of them. Meanwhile `next_at` is not later than the earliest timer."""
    timers: Timers[Timed] = Timers()
    items = [Timed() for _ in range(5_000)]
    for number, item in enumerate(items):
        timers.wake(item, 10_000 + number % 3)
    portions = []
    while (at := timers.next_at()) is not None:
        assert at <= 10_002
        portions.append(timers.pop_expired(10_002, 300))
    assert max(map(len, portions)) == 300
    assert [item for portion in portions for item in portion] == [item for n in range(3) for item in items[n::3]]
