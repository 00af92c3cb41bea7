"""How much of a fault is tried: a little in CI, more with RELAY_NIGHTLY=1; RELAY_SEED replays another run."""

from __future__ import annotations

import os
import random
from typing import TypeVar

NIGHTLY = os.environ.get("RELAY_NIGHTLY") == "1"
SEED = int(os.environ.get("RELAY_SEED", "1"))
T = TypeVar("T")
LONG_S = 1800 if NIGHTLY else 120
"""The bound of a test with many rounds."""


def size(ci: int, nightly: int) -> int:
    return nightly if NIGHTLY else ci


def some(ci: list[T], more: list[T]) -> list[T]:
    """Rows of a table: those tried in CI, and the others, which the unit tests of its parts cover there."""
    return [*ci, *more] if NIGHTLY else ci


def chance(name: str) -> random.Random:
    """A test's own chance: the same in each run of one RELAY_SEED."""
    return random.Random(f"{SEED} {name}")
