"""Sizes of the fault tests: small in CI, larger with RELAY_NIGHTLY=1. RELAY_SEED selects another random run."""

from __future__ import annotations

import os
import random
from typing import TypeVar

NIGHTLY = os.environ.get("RELAY_NIGHTLY") == "1"
SEED = int(os.environ.get("RELAY_SEED", "1"))
T = TypeVar("T")
LONG_S = 1800 if NIGHTLY else 120
"""Timeout in seconds of a test with many rounds."""


def size(ci: int, nightly: int) -> int:
    return nightly if NIGHTLY else ci


def some(ci: list[T], more: list[T]) -> list[T]:
    """Return the parameters for CI, or all of them in a nightly run. Unit tests cover the others in CI."""
    return [*ci, *more] if NIGHTLY else ci


def chance(name: str) -> random.Random:
    """Return the random generator of one test. Its sequence depends on RELAY_SEED and the name only."""
    return random.Random(f"{SEED} {name}")
