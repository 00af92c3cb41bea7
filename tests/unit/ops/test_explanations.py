"""The summary describes the first condition that applies, with the action it needs."""

from __future__ import annotations

from collections import Counter
from typing import get_args

import pytest
from relay.ops.explanations import (
    DEAD_LETTER_REASONS,
    DROP_REASONS,
    ENDPOINT_MESSAGES,
    PAUSE_REASONS,
    REJECTION_REASONS,
    Conditions,
    ConfiguredUpstream,
    Summary,
    advice,
    summary,
)
from relay.ops.last_hour import Kind
from relay.outbox import Gauges
from relay.policy.upstream_origin import EndpointState
from relay.runtime import metrics

WRITABLE = Gauges(4096, 1 << 20, 0, writable=True, dead_letters=0, problem="", devices=3, max_devices=50_000)
AT_MAX_DEVICES = WRITABLE._replace(devices=2_000, max_devices=2_000)
NOT_WRITABLE = WRITABLE._replace(writable=False, problem="the disk is full")
QUARANTINED = WRITABLE._replace(quarantined=3)
REJECTED: dict[tuple[Kind, str], int] = {("rejected", "invalid"): 2, ("rejected", "too_large"): 1}
DEAD: dict[tuple[Kind, str], int] = {("dead_lettered", "refused"): 1, ("dead_lettered", ""): 1_000}
DROPPED: dict[tuple[Kind, str], int] = {("dropped", "age"): 7}


def summarize(
    states: list[EndpointState] | None = None,
    *,
    waiting: list[EndpointState] | None = None,
    undelivered: list[EndpointState] | None = None,
    gauges: Gauges = WRITABLE,
    pending: int = 5,
    limited: int = 0,
    tenants: dict[EndpointState, str] | None = None,
    last_hour: dict[tuple[Kind, str], int] | None = None,
) -> Summary:
    """Return the summary. Each upstream has pending events unless `waiting` names others, and delivered some."""
    states = states or ["ok"]
    waiting = states if waiting is None else waiting
    counts = (Counter(states), Counter(waiting), Counter(undelivered or []))
    conditions = Conditions(gauges, pending, *counts, limited, tenants or {}, last_hour or {})
    return summary(conditions, lambda state: f"advice for {state}")


@pytest.mark.parametrize(
    ("shown", "level", "message"),
    [
        (summarize(gauges=NOT_WRITABLE), "trouble", "Events cannot be stored: the disk is full."),
        (summarize(["unauthorized"], gauges=NOT_WRITABLE), "trouble", "Events cannot be stored: the disk is full."),
        (summarize(["unauthorized"]), "trouble", "The upstream rejects the key: its events are pending."),
        (summarize(["unauthorized"], last_hour=DEAD), "trouble", "The upstream rejects the key"),
        (summarize(["backing_off"]), "trouble", "The upstream does not respond: its events are pending."),
        (summarize(gauges=AT_MAX_DEVICES, pending=0), "slow", "remembers 2,000 devices and accepts no further ones"),
        (summarize(["backing_off"], gauges=AT_MAX_DEVICES), "trouble", "The upstream does not respond"),
        (summarize(["backing_off", "backing_off"]), "trouble", "2 of 2 upstreams do not respond"),
        (summarize(["ok", "misconfigured"]), "trouble", "One of 2 upstreams is not the events API"),
        (summarize(["ok", "backing_off", "unauthorized"]), "trouble", "One of 3 upstreams rejects the key"),
        (
            summarize(["ok", "misconfigured"], tenants={"misconfigured": "tenant 2 (PlayTV)"}),
            "trouble",
            "The upstream of tenant 2 (PlayTV) is not the events API: its events are pending.",
        ),
        (summarize(["backing_off"], waiting=[], pending=0), "ok", "No events are pending."),
        (
            summarize(["unauthorized"], waiting=[], undelivered=["unauthorized"], pending=0),
            "slow",
            "Nothing delivered yet: the upstream rejects the key. No events are pending there.",
        ),
        (
            summarize(["ok", "backing_off"], waiting=[], undelivered=["backing_off"], pending=0),
            "slow",
            "Nothing delivered yet: one of 2 upstreams does not respond.",
        ),
        (summarize(["unauthorized"], waiting=[], undelivered=["unauthorized"], last_hour=DEAD), "trouble", "1,001"),
        (summarize(gauges=QUARANTINED, last_hour=DEAD), "trouble", "3 events were stored by another machine"),
        (
            summarize(last_hour=DEAD),
            "trouble",
            "1,001 events became dead letters within the last hour (rejected by the upstream 1).",
        ),
        (
            summarize(last_hour=DROPPED | REJECTED),
            "trouble",
            "7 events were dropped within the last hour (older than outbox.max_age 7).",
        ),
        (summarize(last_hour=DEAD | DROPPED), "trouble", "7 events were dropped"),
        (
            summarize(["rate_limited"], last_hour=REJECTED),
            "slow",
            "3 events were rejected within the last hour (invalid field 2, too large 1).",
        ),
        (summarize(last_hour={("rejected", "invalid"): 1}), "slow", "1 event was rejected within the last hour"),
        (summarize(["rate_limited"], pending=0), "slow", "The upstream limits the relay"),
        (summarize(limited=1), "slow", "One device waits for the next rate window."),
        (summarize(limited=1_200), "slow", "1,200 devices wait for the next rate window."),
        (summarize(["untested", "untested"]), "slow", "Nothing delivered yet: the upstream has not responded."),
        (summarize(["untested"], waiting=[], pending=0), "slow", "Nothing delivered yet"),
        (summarize(["untested", "ok"]), "ok", "Pending events are combined into batches."),
        (summarize(pending=0), "ok", "No events are pending."),
    ],
)
def test_the_summary_describes_the_first_condition_that_applies(shown: Summary, level: str, message: str) -> None:
    assert (shown.level, message in shown.message) == (level, True), shown


def test_every_trouble_has_advice() -> None:
    assert summarize(["unauthorized"]).advice == "advice for unauthorized"
    assert summarize(["unauthorized"], waiting=[], undelivered=["unauthorized"]).advice == "advice for unauthorized"
    assert summarize(gauges=QUARANTINED).advice.startswith("Run `relay adopt`")
    assert summarize(last_hour=DEAD).advice == "Run `relay dead list` for the upstream's messages."
    assert "outbox.max_age" in summarize(last_hour=DROPPED).advice
    assert "disk" in summarize(gauges=NOT_WRITABLE).advice
    assert "outbox.max_devices" in summarize(gauges=AT_MAX_DEVICES).advice


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (
            "file /etc/event-relay/key named by upstream.api_key_file",
            "Write the right value to /etc/event-relay/key. The relay applies it within 5 seconds.",
        ),
        (
            "file /etc/relay/config.toml",
            "Correct upstream.api_key in /etc/relay/config.toml and reload (systemctl reload event-relay, or SIGHUP).",
        ),
        (
            "environment RELAY__UPSTREAM__API_KEY",
            "Correct the environment variable RELAY__UPSTREAM__API_KEY and restart the relay.",
        ),
        (
            "credential upstream.api_key",
            "Replace the systemd credential upstream.api_key and restart the relay.",
        ),
    ],
)
def test_the_advice_names_where_the_key_is_set(source: str, text: str) -> None:
    upstream = ConfiguredUpstream("https://up.example/", "upstream.url", "file a.toml", "upstream.api_key", source)

    assert advice("unauthorized", upstream) == text


def test_the_advice_for_a_wrong_url_names_where_the_url_is_set() -> None:
    source = "environment RELAY__UPSTREAM__URL"
    upstream = ConfiguredUpstream("https://up.example/", "upstream.url", source, "upstream.api_key", "file a.toml")

    assert advice("misconfigured", upstream).endswith(
        "or correct the URL: correct the environment variable RELAY__UPSTREAM__URL and restart the relay."
    )
    assert [advice(state, upstream) for state in ("ok", "untested")] == ["", ""]


def _names(literal: object) -> set[str]:
    return {name for part in get_args(literal) for name in (_names(part) if get_args(part) else {part})}


def test_every_endpoint_state_has_a_message() -> None:
    assert set(ENDPOINT_MESSAGES) == _names(EndpointState) <= set(PAUSE_REASONS) | {"ok", "untested"}


def test_every_reason_has_a_text() -> None:
    assert set(REJECTION_REASONS) == {*metrics.REJECT_REASONS, *metrics.UDP_DROP_REASONS}
    assert set(DEAD_LETTER_REASONS) == set(metrics.DEAD_REASONS)
    assert set(DROP_REASONS) == set(metrics.DROP_REASONS)
