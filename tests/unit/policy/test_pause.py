"""The end of a pause, and the part of it that a server requested."""

from __future__ import annotations

import pytest
from relay.policy.pause import NO_PAUSE, Pause


@pytest.mark.parametrize(
    ("pause", "ended"),
    [
        (NO_PAUSE, NO_PAUSE),
        (Pause(500, "backing_off"), Pause(0, "backing_off")),
        (Pause(500, "backing_off", 200), Pause(200, "backing_off", 200)),
        (Pause(500, "backing_off", 500), Pause(500, "backing_off", 500)),
    ],
)
def test_only_the_requested_part_remains_of_a_pause_that_is_ended(pause: Pause, ended: Pause) -> None:
    assert pause.ended() == ended
    assert ended.ended() == ended


def test_an_extended_pause_ends_with_the_later_of_both_and_of_both_requests() -> None:
    assert Pause(500, "a", 100).extended(Pause(300, "b", 300)) == Pause(500, "b", 300)
    assert Pause(300, "b", 300).extended(Pause(500, "a", 100)) == Pause(500, "a", 300)


@pytest.mark.parametrize(("until", "requested_until"), [(5, 6), (5, -1), (-1, -1)])
def test_the_requested_part_of_a_pause_is_never_longer_than_the_pause(until: int, requested_until: int) -> None:
    with pytest.raises(AssertionError):
        Pause(until, "", requested_until)
