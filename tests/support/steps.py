"""Measure how long a reading works without interruption, in thread CPU time."""

from __future__ import annotations

import gc
import time
from collections.abc import Generator
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")

LONGEST_STEP_S = 0.05
"""The bound of the contract (G9) for one callback of the event loop."""


class Measured(NamedTuple, Generic[T]):
    value: T
    steps: int
    longest_s: float


def measured(reading: Generator[None, None, T]) -> Measured[T]:
    """Run `reading` to its end. A collection of garbage belongs to no step, because other objects cause it."""
    steps, longest_s = 0, 0.0
    gc.collect()
    gc.disable()
    try:
        while True:
            steps += 1
            began_s = time.thread_time()
            try:
                next(reading)
            except StopIteration as done:
                longest_s = max(longest_s, time.thread_time() - began_s)
                return Measured(done.value, steps, longest_s)
            longest_s = max(longest_s, time.thread_time() - began_s)
    finally:
        gc.enable()
