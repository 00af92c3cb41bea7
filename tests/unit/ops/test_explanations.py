"""One look: the worst thing is said first, with what to do about it."""

from __future__ import annotations

from collections import Counter
from typing import get_args

import pytest
from relay.ops.explanations import LANE, ROUTE, Summary, summary
from relay.outbox import Gauges
from relay.policy.endpoint import EndpointState

WRITABLE = Gauges(4096, 1 << 20, 0, writable=True, dead_letters=0, problem="")
NOT_WRITABLE = WRITABLE._replace(writable=False, problem="the disk is full")


def look(
    states: list[EndpointState] | None = None, *, gauges: Gauges = WRITABLE, pending: int = 5, held: int = 0
) -> Summary:
    return summary(gauges, pending, held, Counter(states or ["ok"]))


@pytest.mark.parametrize(
    ("said", "level", "words"),
    [
        (look(pending=0), "ok", "Nothing waits"),
        (look(), "ok", "gathered into batches"),
        (look(held=1), "slow", "One device waits"),
        (look(held=1_200), "slow", "1,200 devices wait"),
        (look(["rate_limited"]), "slow", "as fast as the upstream allows"),
        (look(["rate_limited"], pending=0), "ok", "Nothing waits"),
        (look(["backing_off"]), "trouble", "The upstream does not answer"),
        (look(["unauthorized"], pending=0), "trouble", "refuses the key"),
        (look(["ok", "misconfigured"]), "trouble", "One upstream of 2 is not what"),
        (look(["ok", "backing_off", "unauthorized"]), "trouble", "One upstream of 3 refuses the key"),
        (look(["unauthorized"], gauges=NOT_WRITABLE), "trouble", "cannot be stored: the disk is full"),
    ],
)
def test_the_worst_is_said(said: Summary, level: str, words: str) -> None:
    assert said.level == level
    assert words in said.words


def test_whatever_is_trouble_says_what_to_do() -> None:
    for state in ("backing_off", "unauthorized", "misconfigured"):
        assert look([state]).to_do == ROUTE[state].to_do != ""
    assert "disk" in look(gauges=NOT_WRITABLE).to_do


def test_every_state_of_a_route_has_words() -> None:
    assert set(ROUTE) == set(get_args(EndpointState)) <= set(LANE) | {"ok"}
