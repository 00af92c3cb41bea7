"""The order of the classes of devices, and the share of each."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from random import Random

import pytest
from relay.policy.class_turns import CLASSES, ClassTurns, DeviceClass

S, Q, B, N, D = CLASSES
SHARE = 8


def served(turns: ClassTurns, ready: Sequence[DeviceClass], requests: int) -> list[DeviceClass]:
    chosen = []
    for _ in range(requests):
        chosen.append(turns.choose(ready))
        turns.served(chosen[-1])
    return chosen


@pytest.mark.parametrize(
    ("ready", "order"),
    [
        ([N], [N] * 7),
        ([S, N], [S, S, S, S, S, S, N]),
        ([B, N], [B, B, B, B, B, B, N]),
        ([S, B, N], [S, S, S, S, S, B, N]),
        ([S, Q, B, N], [S, S, S, S, Q, B, N]),
        ([S, Q, B, N, D], [S, S, S, Q, B, N, D]),
    ],
)
def test_classes_are_served_in_order_and_the_last_ones_once_in_seven_requests(
    ready: list[DeviceClass], order: list[DeviceClass]
) -> None:
    assert served(ClassTurns(), ready, 14) == order * 2


@pytest.mark.parametrize("ready", [each for size in (2, 3, 4, 5) for each in combinations(CLASSES, size)])
def test_each_class_with_requests_gets_one_of_eight_successive_ones(ready: Sequence[DeviceClass]) -> None:
    """The state before is arbitrary: the classes came and went."""
    rng = Random(str(ready))
    turns = ClassTurns()
    for _ in range(200):
        served(turns, sorted(rng.sample(CLASSES, rng.randint(1, 5))), rng.randint(1, 9))
        order = served(turns, ready, 100)
        for start in range(100 - SHARE):
            assert set(order[start : start + SHARE]) == set(ready)


def test_a_class_that_had_no_requests_is_served_soon_and_then_has_its_share() -> None:
    turns = ClassTurns()
    served(turns, [S], 1_000)
    assert served(turns, [S, N], 8) == [N, S, S, S, S, S, S, N]
