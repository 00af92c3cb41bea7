"""The longest step is measured in CPU time and exported when it grows."""

from __future__ import annotations

import pytest
from relay.runtime.clock import thread_cpu_ns
from relay.runtime.longest_step import LongestStep


class Recorded:
    def __init__(self) -> None:
        self.values: list[float] = []

    def set(self, value: float) -> None:
        self.values.append(value)


def test_only_a_longer_step_is_exported() -> None:
    gauge, readings = Recorded(), iter([0, 3_000_000, 10, 2_000_010, 20, 5_000_020])
    step = LongestStep(gauge, lambda: next(readings)).measured(lambda: None)
    for _ in range(3):
        step()
    assert gauge.values == [0.003, 0.005]


def test_failing_step_is_measured() -> None:
    def broken() -> None:
        raise ZeroDivisionError

    gauge = Recorded()
    with pytest.raises(ZeroDivisionError):
        LongestStep(gauge, iter([0, 1_000]).__next__).measured(broken)()
    assert gauge.values == [1e-6]


def test_cpu_time_grows_with_work() -> None:
    before = thread_cpu_ns()
    sum(range(100_000))
    assert thread_cpu_ns() > before
