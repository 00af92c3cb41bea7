"""The summary describes the most serious condition, with the action it needs."""

from __future__ import annotations

from collections import Counter
from typing import get_args

import pytest
from relay.ops.explanations import ENDPOINT_STATES, PAUSE_REASONS, Summary, summary
from relay.outbox import Gauges
from relay.policy.upstream_origin import EndpointState

WRITABLE = Gauges(4096, 1 << 20, 0, writable=True, dead_letters=0, problem="", devices=3, max_devices=50_000)
AT_MAX_DEVICES = WRITABLE._replace(devices=2_000, max_devices=2_000)
NOT_WRITABLE = WRITABLE._replace(writable=False, problem="the disk is full")


def summarize(
    states: list[EndpointState] | None = None, *, gauges: Gauges = WRITABLE, pending: int = 5, paused: int = 0
) -> Summary:
    return summary(gauges, pending, paused, Counter(states or ["ok"]))


@pytest.mark.parametrize(
    ("shown", "level", "message"),
    [
        (summarize(pending=0), "ok", "All received events are delivered."),
        (summarize(), "ok", "combined into batches"),
        (summarize(gauges=AT_MAX_DEVICES, pending=0), "slow", "remembers 2,000 devices and accepts no further ones"),
        (summarize(["backing_off"], gauges=AT_MAX_DEVICES), "trouble", "The upstream does not respond"),
        (summarize(paused=1), "slow", "One device waits"),
        (summarize(paused=1_200), "slow", "1,200 devices wait"),
        (summarize(["rate_limited"]), "slow", "as fast as the upstream allows"),
        (summarize(["rate_limited"], pending=0), "ok", "All received events"),
        (summarize(["backing_off"]), "trouble", "The upstream does not respond"),
        (summarize(["backing_off", "backing_off"]), "trouble", "2 of 2 upstreams do not respond"),
        (summarize(["unauthorized"], pending=0), "trouble", "rejects the key"),
        (summarize(["ok", "misconfigured"]), "trouble", "One of 2 upstreams is not the events API"),
        (summarize(["ok", "backing_off", "unauthorized"]), "trouble", "One of 3 upstreams rejects the key"),
        (summarize(["unauthorized"], gauges=NOT_WRITABLE), "trouble", "cannot be stored: the disk is full"),
    ],
)
def test_the_summary_describes_the_most_serious_condition(shown: Summary, level: str, message: str) -> None:
    assert shown.level == level
    assert message in shown.message


def test_every_trouble_has_advice() -> None:
    for state in ("backing_off", "unauthorized", "misconfigured"):
        assert summarize([state]).advice == ENDPOINT_STATES[state].advice != ""
    assert "disk" in summarize(gauges=NOT_WRITABLE).advice
    assert "outbox.max_devices" in summarize(gauges=AT_MAX_DEVICES).advice


def test_every_endpoint_state_has_a_message() -> None:
    assert (
        set(ENDPOINT_STATES)
        == {name for names in get_args(EndpointState) for name in get_args(names)}
        <= set(PAUSE_REASONS) | {"ok"}
    )
