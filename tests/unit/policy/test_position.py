"""The positions of a device queue: each input in each position, also the impossible ones."""

from __future__ import annotations

from itertools import product

import pytest
from relay.policy.position import (
    IDLE,
    READY,
    RESERVED,
    Arrived,
    ChosenForRequest,
    Emptied,
    Freed,
    InFlight,
    Lingering,
    Position,
    PositionInput,
    Postponed,
    RequestSettled,
    Reserve,
    Unreserved,
    after,
)

POSITIONS = {
    "idle": lambda: IDLE,
    "lingering": lambda: Lingering(50),
    "ready": lambda: READY,
    "reserved": lambda: RESERVED,
    "in flight": lambda: InFlight(leftover=False, slot="free"),
    "to resend": lambda: InFlight(leftover=True, slot="free", resend=True),
}
INPUTS: list[PositionInput] = [
    Arrived(40),
    Arrived(60),
    Emptied(),
    Freed(),
    Postponed(70),
    Postponed(None),
    Reserve(),
    Unreserved(),
    ChosenForRequest(leftover=True, slot="occupied"),
    RequestSettled(80),
    RequestSettled(None),
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
    if index in TABLE[name]:
        assert after(position, INPUTS[index]) == TABLE[name][index]
    else:
        with pytest.raises(AssertionError, match="impossible"):
            after(position, INPUTS[index])


def test_the_first_arrival_during_a_request_counts() -> None:
    position = InFlight(leftover=False, slot="occupied")
    position.grew(7)
    position.grew(9)
    assert position.grew_at == 7
