"""Interleaved measurements of two programs, so that a slow period of a shared machine affects both."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple


class Compared(NamedTuple):
    """The rates of the relay and the floor by pair. A ratio is the relay's rate divided by the floor's."""

    ours: Sequence[float]
    floors: Sequence[float]

    @property
    def ratios(self) -> list[float]:
        return [ours / floor for ours, floor in zip(self.ours, self.floors, strict=True)]

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)

    @property
    def spread(self) -> tuple[float, float]:
        return min(self.ratios), max(self.ratios)

    @property
    def rate(self) -> float:
        return statistics.median(self.ours)

    @property
    def rate_spread(self) -> tuple[float, float]:
        return min(self.ours), max(self.ours)

    @property
    def floor(self) -> float:
        return statistics.median(self.floors)


def compare(pairs: int, ours: Callable[[], float], floor: Callable[[], float], over_at: float) -> Compared:
    """Measure both sides in each pair, and alternate the order.

    After `over_at` (monotonic time) no pair except the first is started.
    """
    measured: tuple[list[float], list[float]] = ([], [])
    for pair in range(pairs):
        if pair and time.monotonic() > over_at:
            break
        for which in (0, 1) if pair % 2 else (1, 0):
            measured[which].append((ours, floor)[which]())
    return Compared(*measured)
