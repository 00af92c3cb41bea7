"""The positions of a device queue: each input in each position, also the impossible ones."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
from relay.policy.position import IDLE, READY, RESERVED, InFlight, Lingering, Position

POSITIONS = {
    "idle": lambda: IDLE,
    "lingering": lambda: Lingering(50),
    "ready": lambda: READY,
    "reserved": lambda: RESERVED,
    "in flight": lambda: InFlight(leftover=False, slot="free"),
    "to resend": lambda: InFlight(leftover=True, slot="free", resend=True),
}
INPUTS: list[tuple[str, Callable[[Position], Position]]] = [
    ("arrived", lambda position: position.arrived(40)),
    ("arrived", lambda position: position.arrived(60)),
    ("emptied", lambda position: position.emptied()),
    ("freed", lambda position: position.freed()),
    ("postponed", lambda position: position.postponed(70)),
    ("postponed", lambda position: position.postponed(None)),
    ("reserved", lambda position: position.reserved()),
    ("unreserved", lambda position: position.unreserved()),
    ("chosen", lambda position: position.chosen("occupied", leftover=True)),
    ("settled", lambda position: position.settled(80)),
    ("settled", lambda position: position.settled(None)),
]
SENT = InFlight(leftover=True, slot="occupied")
TABLE: dict[str, dict[int, Position]] = {
    # By position: the position after the input with this index. All other inputs are impossible.
    "idle": {0: Lingering(40), 1: Lingering(60), 2: IDLE, 6: RESERVED},
    "lingering": {0: Lingering(40), 1: Lingering(50), 2: IDLE, 3: READY, 6: RESERVED},
    "ready": {2: READY, 4: Lingering(70), 5: IDLE, 6: RESERVED, 8: SENT},
    "reserved": {2: RESERVED, 7: IDLE, 8: SENT},
    "in flight": {6: InFlight(leftover=False, slot="free", resend=True), 9: Lingering(80), 10: IDLE},
    "to resend": {6: InFlight(leftover=True, slot="free", resend=True), 9: RESERVED, 10: RESERVED},
}


@pytest.mark.parametrize(("name", "index"), list(product(POSITIONS, range(len(INPUTS)))))
def test_each_position_after_each_input(name: str, index: int) -> None:
    position = POSITIONS[name]()
    what, apply = INPUTS[index]
    if index in TABLE[name]:
        assert TABLE[name][index] == apply(position)
    else:
        with pytest.raises(AssertionError, match=f"{what} is impossible"):
            apply(position)


def test_the_first_arrival_during_a_request_counts() -> None:
    position = InFlight(leftover=False, slot="occupied")
    position.grew(7)
    position.grew(9)
    assert position.grew_at == 7
