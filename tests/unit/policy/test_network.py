"""The network of an upstream origin after each input, and the attempts without a network."""

from __future__ import annotations

from itertools import product

import pytest
from relay.policy.network import (
    REACHABLE,
    RETRY_MAX_MS,
    AttemptStarted,
    Network,
    NetworkInput,
    NotSent,
    Responded,
    TryNow,
    Unreachable,
    after,
    explains_loss,
    free_at,
    has_room,
)

RETRY_MS = (1_000, 300_000)
WAITING = Unreachable(since=100, failed_at=300, until=900, failures=3)
TRYING = Unreachable(since=100, failed_at=300, until=900, failures=3, tried_at=950)
STATES: dict[str, Network] = {"reachable": REACHABLE, "waiting": WAITING, "trying": TRYING}
INPUTS: dict[str, NetworkInput] = {
    "the attempt failed": NotSent(950, 1_000, *RETRY_MS, 0.5),
    "an older request failed": NotSent(940, 1_000, *RETRY_MS, 0.5),
    "the attempt was lost": NotSent(950, 1_000, *RETRY_MS, 0.5, was_lost=True),
    "responded": Responded(),
    "attempt": AttemptStarted(970),
    "try now": TryNow(),
}
TABLE: dict[str, list[Network]] = {
    # By input: the network after it, in the order of STATES.
    "the attempt failed": [
        Unreachable(1_000, 1_000, 1_500),
        Unreachable(100, 1_000, 900, 3),
        Unreachable(100, 1_000, 5_000, 4),
    ],
    "an older request failed": [
        Unreachable(1_000, 1_000, 1_500),
        Unreachable(100, 1_000, 900, 3),
        Unreachable(100, 1_000, 900, 3, 950),
    ],
    "the attempt was lost": [REACHABLE, WAITING, Unreachable(100, 300, 5_000, 4)],
    "responded": [REACHABLE, REACHABLE, REACHABLE],
    "attempt": [REACHABLE, Unreachable(100, 300, 900, 3, 970), Unreachable(100, 300, 900, 3, 970)],
    "try now": [REACHABLE, Unreachable(100, 300, 0, 3), Unreachable(100, 300, 0, 3)],
}


@pytest.mark.parametrize(("what", "before"), list(product(INPUTS, STATES)))
def test_every_input_in_every_state(what: str, before: str) -> None:
    assert after(STATES[before], INPUTS[what]) == TABLE[what][list(STATES).index(before)]


def test_the_delay_grows_to_15_s_and_not_to_retry_max() -> None:
    network, now, delays = REACHABLE, 0, []
    for _ in range(8):
        network = after(after(network, AttemptStarted(now)), NotSent(now, now, *RETRY_MS, 1.0))
        delays.append(free_at(network) - now)
        now = free_at(network)
    assert delays == [1_000, 2_000, 4_000, 8_000, *[RETRY_MAX_MS] * 4]
    assert RETRY_MAX_MS == 15_000


def test_a_lower_retry_max_is_followed() -> None:
    network = after(WAITING, AttemptStarted(0))
    assert free_at(after(network, NotSent(0, 1_000, 1_000, 2_000, 1.0))) == 3_000


@pytest.mark.parametrize(
    ("network", "in_flight", "permitted"),
    [
        (REACHABLE, 7, True),
        (WAITING, 7, True),
        (TRYING, 1, False),
        (TRYING, 0, True),
    ],
)
def test_without_a_network_there_is_one_attempt_at_a_time(network: Network, in_flight: int, permitted: bool) -> None:
    assert has_room(network, in_flight) is permitted


@pytest.mark.parametrize(
    ("network", "now", "explained"),
    [(REACHABLE, 300, False), (WAITING, 300, True), (WAITING, 600_300, True), (WAITING, 600_301, False)],
)
def test_only_a_loss_soon_after_a_request_that_did_not_leave_is_explained(
    network: Network, now: int, explained: bool
) -> None:
    assert explains_loss(network, now) is explained


def test_impossible_values_are_detected() -> None:
    with pytest.raises(AssertionError):
        Unreachable(100, 100, 900, 0)
    with pytest.raises(AssertionError):
        Unreachable(100, 99, 900)
