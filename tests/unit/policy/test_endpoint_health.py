"""The health of an endpoint after each input, also the impossible ones."""

from __future__ import annotations

from itertools import product

import pytest
from relay.policy.endpoint_health import (
    ApiResponded,
    EndpointFailed,
    Health,
    HealthInput,
    PauseEnded,
    ProbePostponed,
)
from relay.policy.pause import NO_PAUSE, Pause

PAUSE = Pause(900, "backing_off", 400)
HEALTHS = {
    "untested": Health("untested", 100),
    "ok": Health("ok", 100),
    "backing_off": Health("backing_off", 100, 3, PAUSE),
    "unauthorized": Health("unauthorized", 100, 3, PAUSE),
    "misconfigured": Health("misconfigured", 100, 3, PAUSE),
}
INPUTS: dict[str, HealthInput] = {
    "API": ApiResponded(500),
    "backing off": EndpointFailed("backing_off", 100, 500),
    "unauthorized": EndpointFailed("unauthorized", 100, 500),
    "misconfigured": EndpointFailed("misconfigured", 100, 500),
    "postponed": ProbePostponed(Pause(700, "unauthorized")),
    "pause ended": PauseEnded(),
}
IMPOSSIBLE = None
TABLE: dict[str, list[Health | None]] = {
    # By input: the health after it, in the order of HEALTHS.
    "API": [*[Health("ok", 100)] * 2, *[Health("ok", 500)] * 3],
    "backing off": [
        *[Health("backing_off", 500, 1)] * 2,
        Health("backing_off", 100, 4, PAUSE),
        Health("backing_off", 500, 1, PAUSE),
        Health("backing_off", 500, 1, PAUSE),
    ],
    "unauthorized": [
        *[Health("unauthorized", 500, 1)] * 2,
        Health("unauthorized", 500, 1, PAUSE),
        Health("unauthorized", 100, 4, PAUSE),
        Health("unauthorized", 500, 1, PAUSE),
    ],
    "misconfigured": [
        *[Health("misconfigured", 500, 1)] * 2,
        Health("misconfigured", 500, 1, PAUSE),
        Health("misconfigured", 500, 1, PAUSE),
        Health("misconfigured", 100, 4, PAUSE),
    ],
    "postponed": [
        *[IMPOSSIBLE] * 2,
        *[Health(name, 100, 3, Pause(700, "unauthorized")) for name in list(HEALTHS)[2:]],
    ],
    "pause ended": [
        *[HEALTHS["untested"], HEALTHS["ok"]],
        *[Health(name, 100, 3, Pause(400, "backing_off", 400)) for name in list(HEALTHS)[2:]],
    ],
}


@pytest.mark.parametrize(("before", "what"), list(product(HEALTHS, INPUTS)))
def test_each_health_after_each_input(before: str, what: str) -> None:
    after = TABLE[what][list(HEALTHS).index(before)]
    if after is IMPOSSIBLE:
        with pytest.raises(AssertionError):
            HEALTHS[before].after(INPUTS[what])
    else:
        assert HEALTHS[before].after(INPUTS[what]) == after


def test_a_response_to_a_request_sent_before_the_failure_does_not_count() -> None:
    health = HEALTHS["backing_off"]
    assert health.after(EndpointFailed("backing_off", 99, 500)) is health


@pytest.mark.parametrize(
    ("state", "attempt", "pause"),
    [("ok", 1, NO_PAUSE), ("untested", 0, PAUSE), ("ok", 0, PAUSE), ("unauthorized", 0, NO_PAUSE)],
)
def test_only_a_failing_endpoint_has_attempts_and_a_pause(state: str, attempt: int, pause: Pause) -> None:
    with pytest.raises(AssertionError):
        Health(state, 100, attempt, pause)


def test_the_representation_shows_the_state() -> None:
    assert repr(HEALTHS["backing_off"]).startswith("Health(state='backing_off', since=100, attempt=3, ")
