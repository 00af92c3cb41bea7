"""The order of dead letters in the stores of tests."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")


def page(numbered: Iterable[tuple[int, T]], after: int, *, newest_first: bool) -> list[tuple[int, T]]:
    """Return the dead letters after a number, in the order of `Outbox.dead_letters`."""
    if newest_first:
        return [each for each in reversed([*numbered]) if not after or each[0] < after]
    return [each for each in numbered if each[0] > after]
