"""How much of a fault is tried: a little in CI, more with RELAY_NIGHTLY=1; RELAY_SEED replays another run."""

from __future__ import annotations

import os
import random

NIGHTLY = os.environ.get("RELAY_NIGHTLY") == "1"
SEED = int(os.environ.get("RELAY_SEED", "1"))
LONG_S = 1800
"""The bound of a nightly test."""


def size(ci: int, nightly: int) -> int:
    return nightly if NIGHTLY else ci


def chance(name: str) -> random.Random:
    """A test's own chance: the same in each run of one RELAY_SEED."""
    return random.Random(f"{SEED} {name}")
