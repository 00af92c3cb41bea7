"""`relay event` prints what became of one event."""

from __future__ import annotations

import json

import pytest

from tests.unit.cli.harness import NotedRelay, call

ID = "550e8400-e29b-41d4-a716-446655440000"


def test_a_delivered_event(relay: NotedRelay) -> None:
    relay.states = ["delivered"]

    assert call("event", ID, environ=relay.environ).stdout == f"{ID}: delivered\n"


def test_a_pending_event_is_shown_with_the_summary_of_the_status(relay: NotedRelay) -> None:
    relay.states = ["pending"]

    result = call("event", ID, environ=relay.environ)

    assert result.stdout == f"{ID}: pending\n  Nothing delivered yet: the upstream has not responded.\n"


@pytest.mark.parametrize("state", ["dead_lettered", "dropped"])
def test_an_event_that_was_not_delivered_is_shown_with_reason_and_message(relay: NotedRelay, state: str) -> None:
    relay.states = [state]

    result = call("event", ID, environ=relay.environ)

    assert result.stdout == f"{ID}: {state}\n  reason: refused\n  message: 422 no such\\x1b[2J subject\n"


def test_json_is_the_response_of_the_relay(relay: NotedRelay) -> None:
    relay.states = ["dead_lettered"]

    result = call("event", ID, "--json", environ=relay.environ)

    assert json.loads(result.stdout) == {"event_id": ID, "state": "dead_lettered", **relay.why}


def test_an_unknown_event_is_a_failure(relay: NotedRelay) -> None:
    relay.states = [None]

    result = call("event", ID, environ=relay.environ)

    assert (result.exit_code, result.stdout) == (1, "")
    assert f"the relay has no record of {ID}" in result.stderr
