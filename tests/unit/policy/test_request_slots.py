"""The use of request slots, counted for one endpoint and for all."""

from __future__ import annotations

from itertools import pairwise

import pytest
from relay.policy.position import SlotUse
from relay.policy.request_slots import RequestSlots


@pytest.mark.parametrize(
    ("uses", "in_flight", "occupied"),
    [
        (["free"], 0, 0),
        (["free", "occupied"], 1, 1),
        (["free", "occupied", "stalled"], 1, 0),
        (["free", "occupied", "stalled", "occupied"], 1, 1),
        (["free", "occupied", "stalled", "free"], 0, 0),
        (["free", "occupied", "free"], 0, 0),
        (["free", "occupied", "occupied"], 1, 1),
    ],
)
def test_each_change_is_counted_for_the_endpoint_and_for_all(
    uses: list[SlotUse], in_flight: int, occupied: int
) -> None:
    everything = RequestSlots()
    RequestSlots(everything).change("free", "occupied")
    slots = RequestSlots(everything)
    for before, after in pairwise(uses):
        slots.change(before, after)
    assert (slots.in_flight, slots.occupied) == (in_flight, occupied)
    assert (everything.in_flight, everything.occupied) == (in_flight + 1, occupied + 1)


@pytest.mark.parametrize(("before", "after"), [("free", "stalled"), ("occupied", "free"), ("stalled", "occupied")])
def test_a_change_of_a_request_that_is_not_counted_is_impossible(before: SlotUse, after: SlotUse) -> None:
    with pytest.raises(AssertionError):
        RequestSlots().change(before, after)
