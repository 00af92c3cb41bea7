"""`relay send` creates a complete event, sends it as an app does, and prints the outcome."""

from __future__ import annotations

import json
import socket
import threading
import time
from typing import Any
from uuid import UUID

import pytest

from tests.unit.cli.harness import GONE, NotedRelay, call

ID = "550e8400-e29b-41d4-a716-446655440000"


def test_an_event_type_is_enough_for_a_complete_event(relay: NotedRelay) -> None:
    result = call("send", "post.view", environ=relay.environ)

    event = relay.events[0]
    assert result.exit_code == 0
    assert result.stdout == f"stored: {event['event_id']}\n"
    assert UUID(event.pop("event_id")).version == 4
    assert UUID(event["source"].pop("device_id"))
    assert event == {"event_type": "post.view", "tenant_id": 1, "source": {"platform": "tv"}}


def test_the_device_id_of_this_machine_is_constant_and_event_ids_are_not(relay: NotedRelay) -> None:
    call("send", "a", environ=relay.environ)
    call("send", "b", environ=relay.environ)

    first, second = relay.events
    assert first["source"] == second["source"]
    assert first["event_id"] != second["event_id"]


def test_the_given_fields_are_sent(relay: NotedRelay) -> None:
    given = ["--tenant-id", "2", "--platform", "web", "--device-id", "d", "--event-id", ID, "--context", '{"ä": 1}']

    result = call(
        "send", "post.view", *given, "--subject-type", "post", "--subject-id", "7", "--json", environ=relay.environ
    )

    assert json.loads(result.stdout) == {"event_id": ID, "state": "stored"}
    assert relay.events == [
        {
            "event_id": ID,
            "event_type": "post.view",
            "tenant_id": 2,
            "source": {"platform": "web", "device_id": "d"},
            "subject": {"type": "post", "id": "7"},
            "context": {"ä": 1},
        }
    ]


def test_fields_with_a_default_of_the_relay_are_omitted(relay: NotedRelay) -> None:
    defaults = {"TENANT_ID": "2", "PLATFORM": "web", "DEVICE_ID": "auto"}

    call("send", "x", environ=relay.environ | {f"RELAY__DEFAULTS__{name}": value for name, value in defaults.items()})

    assert relay.events[0].keys() == {"event_id", "event_type", "source"}
    assert relay.events[0]["source"] == {}


@pytest.mark.parametrize(
    "wrong",
    [
        ["--context", "[1]"],
        ["--context", "{"],
        ["--context", '{"a":' * 50_000 + "1" + "}" * 50_000],
        ["--context", r'{"a": "\ud800"}'],
        ["--subject-type", "post"],
        ["--wait", "--timeout", "nan"],
        ["--wait", "--timeout", "inf"],
        ["--wait", "--timeout", "-1"],
    ],
)
def test_a_wrong_option_is_a_usage_error_and_nothing_is_sent(relay: NotedRelay, wrong: list[str]) -> None:
    assert call("send", "x", *wrong, environ=relay.environ).exit_code == 2
    assert relay.events == []


@pytest.mark.parametrize(
    "before", [[], *([f"--{name}"] for name in ("device-id", "subject-id", "event-id", "context"))]
)
def test_a_text_that_is_not_utf_8_is_a_usage_error(relay: NotedRelay, before: list[str]) -> None:
    """The shell's $'a\\xff' in sys.argv."""
    result = call("send", "--subject-type", "post", *before, "a\udcff", environ=relay.environ)

    assert result.exit_code == 2
    assert "is not UTF-8" in result.stderr
    assert relay.events == []


def test_a_rejected_event_is_reported_with_every_fault(relay: NotedRelay) -> None:
    faults = {"events.0.event_type": ["is empty"], "events.0.tenant_id": ["is missing", "really"]}
    relay.rejection = (422, {"success": False, "error": "invalid", "errors": faults})

    result = call("send", "", environ=relay.environ)

    assert result.exit_code == 1
    assert "events.0.event_type: is empty\n" in result.stderr
    assert "events.0.tenant_id: is missing really\n" in result.stderr


def test_a_full_outbox_is_reported_with_the_message_of_the_relay(relay: NotedRelay) -> None:
    relay.rejection = (503, {"success": False, "error": "the outbox is full"})

    result = call("send", "x", environ=relay.environ)

    assert result.exit_code == 1
    assert "(503): the outbox is full" in result.stderr


def test_the_id_of_an_event_that_was_not_stored_is_printed(absent_relay: dict[str, str]) -> None:
    result = call("send", "x", environ=absent_relay)

    assert result.exit_code == 1
    assert UUID(result.stderr.splitlines()[-1].removeprefix("event_id: "))


class TestWait:
    def test_wait_ends_when_the_upstream_accepted_the_event(self, relay: NotedRelay) -> None:
        relay.states = [None, "pending", "pending", "delivered"]

        result = call("send", "x", "--wait", "--event-id", ID, environ=relay.environ)

        assert (result.exit_code, result.stdout) == (0, f"delivered: {ID}\n")
        assert relay.states == ["delivered"]

    def test_a_dead_letter_is_a_failure(self, relay: NotedRelay) -> None:
        relay.states = ["dead_lettered"]

        result = call("send", "x", "--wait", "--event-id", ID, environ=relay.environ)

        assert result.exit_code == 1
        assert result.stderr.startswith("Error: dead-lettered: 422 no such\\x1b[2J subject\n")
        assert result.stderr.endswith(f"\nevent_id: {ID}\n")

    def test_a_dropped_event_is_a_failure(self, relay: NotedRelay) -> None:
        relay.states = ["pending", "dropped"]

        result = call("send", "x", "--wait", "--timeout", "5", "--event-id", ID, environ=relay.environ)

        assert result.exit_code == 1
        assert result.stderr.startswith("Error: dropped: 422 no such")
        assert result.stderr.endswith(f"\nevent_id: {ID}\n")

    def test_wait_continues_while_the_relay_restarts(self, relay: NotedRelay) -> None:
        relay.states = [GONE, "pending", GONE, "delivered"]

        result = call("send", "x", "--wait", "--event-id", ID, environ=relay.environ)

        assert (result.exit_code, result.stdout) == (0, f"delivered: {ID}\n")

    @pytest.mark.parametrize(
        ("state", "shown"),
        [
            ("pending", "pending after 0 s (`relay status`"),
            (None, "not stored after 0 s (`relay status`"),
            (GONE, "unknown after 0 s (no relay responds at "),
        ],
    )
    def test_wait_ends_at_the_timeout(self, relay: NotedRelay, state: str | None, shown: str) -> None:
        relay.states = [state]

        result = call("send", "x", "--wait", "--timeout", "0", "--event-id", ID, environ=relay.environ)

        assert result.exit_code == 1
        assert shown in result.stderr
        assert result.stderr.endswith(f"\nevent_id: {ID}\n")


class Datagrams:
    """A socket in place of the relay's UDP listener. It sends `answer`, if given, to the first datagram."""

    def __init__(self, ack: bytes | None = None) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.settimeout(30)
        self.environ = {"RELAY__UDP__LISTEN": f"127.0.0.1:{self.socket.getsockname()[1]}"}
        self.event: Any = None
        self._ack = ack
        self._thread = threading.Thread(target=self._receive)

    def _receive(self) -> None:
        datagram, sender = self.socket.recvfrom(65_536)
        self.event = json.loads(datagram)
        if self._ack is not None:
            self.socket.sendto(self._ack, sender)

    def __enter__(self) -> Datagrams:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()
        self.socket.close()


class TestUdp:
    def test_without_acknowledgement_the_event_is_reported_as_sent(self) -> None:
        with Datagrams() as datagrams:
            result = call("send", "x", "--udp", "--event-id", ID, environ=datagrams.environ)

        assert (result.exit_code, result.stdout) == (0, f"sent: {ID}\n")
        assert datagrams.event["event_id"] == ID

    @pytest.mark.parametrize("ack", [{"stored": [ID], "count": 1}, {"count": 1}])
    def test_an_acknowledged_event_is_reported_as_stored(self, ack: dict[str, Any]) -> None:
        with Datagrams(json.dumps(ack).encode()) as datagrams:
            result = call(
                "send", "x", "--udp", "--event-id", ID.upper(), environ=datagrams.environ | {"RELAY__UDP__ACK": "true"}
            )

        assert (result.exit_code, result.stdout) == (0, f"stored: {ID.upper()}\n")

    @pytest.mark.parametrize(
        "ack",
        [
            {},
            {"alive": True},
            {"stored": [ID]},
            {"stored": [], "count": 1},
            {"stored": ["550e8400-e29b-41d4-a716-446655440001"], "count": 1},
            {"stored": ["x"], "count": 1},
            {"stored": [1], "count": 1},
            {"stored": ID, "count": 1},
            {"stored": [ID], "count": 2},
            {"stored": [ID], "count": True},
            {"stored": [ID], "count": 1.0},
            {"stored": [ID], "count": 1, "more": 1},
            {"count": 0},
            {"count": "1"},
            {"count": 1, "error": "x"},
            {"error": ""},
            {"error": None},
            {"error": ["x"]},
            {"error": "x", "more": 1},
            [],
            "stored",
        ],
        ids=json.dumps,
    )
    def test_a_datagram_that_is_no_acknowledgement_is_reported_as_another_programs(self, ack: object) -> None:
        with Datagrams(json.dumps(ack).encode()) as datagrams:
            result = call(
                "send", "x", "--udp", "--event-id", ID, environ=datagrams.environ | {"RELAY__UDP__ACK": "true"}
            )

        assert (result.exit_code, result.stdout) == (1, "")
        assert "is not a relay" in result.stderr

    def test_a_rejected_event_is_reported(self) -> None:
        with Datagrams(b'{"error": "too large"}') as datagrams:
            result = call("send", "x", "--udp", environ=datagrams.environ | {"RELAY__UDP__ACK": "true"})

        assert result.exit_code == 1
        assert "too large" in result.stderr

    def test_an_event_larger_than_a_datagram_is_reported(self) -> None:
        result = call("send", "x", "--udp", "--context", json.dumps({"a": "b" * 70_000}), environ={})

        assert result.exit_code == 1
        assert "over HTTP" in result.stderr

    def test_a_relay_without_udp_is_reported(self) -> None:
        result = call("send", "x", "--udp", environ={"RELAY__UDP__LISTEN": ""})

        assert result.exit_code == 1
        assert "udp.listen" in result.stderr

    def test_a_silent_relay_delays_wait_only_until_the_timeout(self) -> None:
        began_s = time.monotonic()
        with socket.create_server(("127.0.0.1", 0)) as silent, Datagrams() as datagrams:
            listen = {"RELAY__HTTP__LISTEN": f"127.0.0.1:{silent.getsockname()[1]}"}
            result = call("send", "x", "--udp", "--wait", "--timeout", "0.1", environ=datagrams.environ | listen)

        assert "unknown after 0.1 s (no relay responds at " in result.stderr
        assert time.monotonic() - began_s < 15
