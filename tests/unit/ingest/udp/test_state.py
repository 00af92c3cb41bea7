"""Every input in every state of the UDP listener."""

from __future__ import annotations

import pytest
from relay.ingest.udp.state import (
    FULL,
    PAUSE_MS,
    STOPPED,
    WATCHING,
    Coalescing,
    Paused,
    UdpInput,
    UdpState,
    next_state,
)

NOW_MS, LINGER_MS = 5_000, 10
STATES: list[UdpState] = [STOPPED, WATCHING, Coalescing(NOW_MS + 3), Paused(NOW_MS + 50), FULL]
AFTER_PAUSE = Paused(NOW_MS + PAUSE_MS)
LINGERING, AT_ONCE = Coalescing(NOW_MS + LINGER_MS), Coalescing(NOW_MS)
SAME = object()
IMPOSSIBLE = None

TABLE: dict[UdpInput, list[object]] = {
    # By state: Stopped, Watching, Coalescing, Paused, Full.
    UdpInput.STARTED: [WATCHING, IMPOSSIBLE, IMPOSSIBLE, IMPOSSIBLE, IMPOSSIBLE],
    UdpInput.READ_NOTHING: [IMPOSSIBLE, WATCHING, WATCHING, WATCHING, IMPOSSIBLE],
    UdpInput.READ_ALL: [IMPOSSIBLE, LINGERING, LINGERING, LINGERING, IMPOSSIBLE],
    UdpInput.READ_SOME: [IMPOSSIBLE, AT_ONCE, AT_ONCE, AT_ONCE, IMPOSSIBLE],
    UdpInput.LIMIT_REACHED: [IMPOSSIBLE, FULL, FULL, FULL, IMPOSSIBLE],
    UdpInput.HINDERED: [STOPPED, AFTER_PAUSE, AFTER_PAUSE, AFTER_PAUSE, AFTER_PAUSE],
    UdpInput.APPEND_ENDED: [STOPPED, SAME, SAME, SAME, AT_ONCE],
    UdpInput.STOPPED: [STOPPED, STOPPED, STOPPED, STOPPED, STOPPED],
}


def test_the_table_has_every_input_and_every_state() -> None:
    assert set(TABLE) == set(UdpInput)
    assert {type(state) for state in STATES} == set(UdpState.__args__)
    assert {len(row) for row in TABLE.values()} == {len(STATES)}


@pytest.mark.parametrize("happened", UdpInput)
@pytest.mark.parametrize("state", STATES, ids=lambda state: type(state).__name__)
def test_every_input_in_every_state(state: UdpState, happened: UdpInput) -> None:
    expected = TABLE[happened][STATES.index(state)]
    if expected is IMPOSSIBLE:
        with pytest.raises(AssertionError, match=type(state).__name__):
            next_state(state, happened, NOW_MS, LINGER_MS)
    else:
        assert next_state(state, happened, NOW_MS, LINGER_MS) == (state if expected is SAME else expected)
