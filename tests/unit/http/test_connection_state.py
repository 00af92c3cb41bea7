"""Every pair of a state and an input leads to the state below, or is impossible."""

from __future__ import annotations

from typing import get_args

import pytest
from relay.http.connection_state import NEXT, PARTS, READS, Input, State

STATES: tuple[State, ...] = get_args(State)
INPUTS: tuple[Input, ...] = get_args(Input)
POSSIBLE: dict[tuple[State, Input], State] = {
    ("new", "began"): "receiving",
    ("new", "completed"): "handling",
    ("new", "closed"): "closing",
    ("new", "lost"): "closed",
    ("idle", "began"): "receiving",
    ("idle", "completed"): "handling",
    ("idle", "closed"): "closing",
    ("idle", "lost"): "closed",
    ("receiving", "completed"): "handling",
    ("receiving", "responded"): "discarding",
    ("receiving", "closed"): "closing",
    ("receiving", "lost"): "closed",
    ("handling", "ended"): "idle",
    ("handling", "stalled"): "writing",
    ("handling", "closed"): "closing",
    ("handling", "lost"): "closed",
    ("discarding", "ended"): "idle",
    ("discarding", "stalled"): "writing",
    ("discarding", "closed"): "closing",
    ("discarding", "lost"): "closed",
    ("writing", "drained"): "idle",
    ("writing", "closed"): "closing",
    ("writing", "lost"): "closed",
    ("closing", "lost"): "closed",
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("input_", INPUTS)
def test_each_pair_has_one_next_state_or_is_impossible(state: State, input_: Input) -> None:
    assert NEXT[state].get(input_) == POSSIBLE.get((state, input_))


def test_a_request_is_read_or_handled_in_its_states_only() -> None:
    assert {state for state in STATES if PARTS[state][0]} == {"receiving", "discarding"}
    assert {state for state in STATES if PARTS[state][1]} == {"handling", "discarding"}
    assert {state for state in STATES if not PARTS[state][2]} == {"closed"}
    assert {"new", "idle", "receiving", "discarding"} == READS
