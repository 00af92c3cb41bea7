"""`relay healthcheck` exits with 0 exactly while the relay can store events."""

from __future__ import annotations

import json

import pytest
from relay.outbox import Gauges

from tests.unit.cli.harness import NotedRelay, call


def test_the_check_succeeds_while_events_can_be_stored(relay: NotedRelay) -> None:
    assert call("healthcheck", environ=relay.environ).exit_code == 0


def test_the_check_fails_with_the_reason_while_events_cannot_be_stored(relay: NotedRelay) -> None:
    relay.outbox.state = Gauges(
        0, 1, 0, writable=False, dead_letters=0, problem="the disk is full", devices=3, max_devices=50_000
    )

    result = call("healthcheck", environ=relay.environ)

    assert result.exit_code == 1
    assert "/readyz" in result.stderr
    assert "the disk is full" in result.stderr


def test_json_is_the_response_of_the_relay(relay: NotedRelay) -> None:
    fine = call("healthcheck", "--json", environ=relay.environ)
    relay.outbox.state = Gauges(
        0, 1, 0, writable=False, dead_letters=0, problem="the disk is full", devices=3, max_devices=50_000
    )
    failed = call("healthcheck", "--json", environ=relay.environ)

    assert (fine.exit_code, json.loads(fine.stdout)) == (0, {"ready": True, "problem": ""})
    assert (failed.exit_code, json.loads(failed.stdout)) == (1, {"ready": False, "problem": "the disk is full"})


@pytest.mark.parametrize("seconds", ["-1", "0", "nan", "inf", "1e9"])
def test_an_invalid_timeout_is_a_usage_error(relay: NotedRelay, seconds: str) -> None:
    result = call("healthcheck", "--timeout", seconds, environ=relay.environ)

    assert result.exit_code == 2
    assert "--timeout" in result.stderr
