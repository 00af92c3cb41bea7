"""Two things measured in turn, so that a slow spell of a shared machine meets both."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple


class Compared(NamedTuple):
    """Each ratio is of one pair: ours through the floor's."""

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
    """Interleaved; who goes first alternates. After `over_at` (monotonic time) no pair is begun but the first."""
    measured: tuple[list[float], list[float]] = ([], [])
    for pair in range(pairs):
        if pair and time.monotonic() > over_at:
            break
        for which in (0, 1) if pair % 2 else (1, 0):
            measured[which].append((ours, floor)[which]())
    return Compared(*measured)
