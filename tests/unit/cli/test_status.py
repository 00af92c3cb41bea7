"""`relay status` and `relay flush` against the operations interface."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from relay.cli.table import bytes_text, duration_text, table
from relay.http.request import Request
from relay.http.response import Response
from relay.outbox import Gauges, Ledger, ReplicaView
from relay.policy.endpoint import SeenError
from relay.policy.overview import EndpointView, QueueView

from tests.unit.cli.harness import NoResponse, NotedRelay, call


def test_json_is_the_response_of_the_relay(relay: NotedRelay) -> None:
    relay.outbox.totals = Ledger(accepted=3, pending=3)

    result = call("status", "--json", environ=relay.environ)

    assert json.loads(result.stdout) == json.loads(json.dumps(relay.status.data()))


def test_the_text_begins_with_the_problem_and_the_advice(relay: NotedRelay) -> None:
    relay.outbox.totals = Ledger(accepted=12_345, delivered=12_000, pending=345)
    relay.outbox.state = Gauges(
        1_536, 1 << 20, 93_784_000, writable=False, dead_letters=0, problem="disk full", devices=3, max_devices=50_000
    )
    relay.schedule.shown_endpoints = [
        EndpointView(2, "unauthorized", 0, 35_000, SeenError("401 Invalid\x1b[2J or missing API key", 0), 0)
    ]
    relay.schedule.busy = [QueueView((2, "tv", "tv-17"), 345, None, "unauthorized")]

    text = call("status", environ=relay.environ).stdout
    lines = text.splitlines()

    assert lines[0] == "TROUBLE  Events cannot be stored: disk full."
    assert lines[1].startswith("  what to do: ")
    assert "pending           345, the oldest for 1 d 2 h (dropped in 5 d 21 h)" in lines
    assert "can store events  NO: disk full" in lines
    assert "outbox            1.5 KiB of 1 MiB; no growth measured; 1 GiB free on the disk" in lines
    ledger = lines.index("accepted  requeued  delivered  dead lettered  dropped  pending")
    assert lines[ledger + 1] == "  12,345         0     12,000              0        0      345"
    upstream = next(
        n for n, line in enumerate(lines) if line.startswith("upstream of tenant 2 (PlayTV): unauthorized since ")
    )
    assert lines[upstream + 1] == "  https://up.example/"
    assert lines[upstream + 2] == "  The upstream rejects the key. The relay stores all events."
    assert lines[upstream + 3].startswith("  last delivery: 1969-12-31T23:59:")
    assert lines[upstream + 4].startswith("  next attempt: 1970-01-01T00:00:")
    assert lines[upstream + 5].startswith("  last error at 1969-12-31T23:59:")
    assert lines[upstream + 5].endswith(": 401 Invalid\\x1b[2J or missing API key")
    assert lines[upstream + 6].startswith("  what to do: Write the right value to /etc/event-relay/key.")
    assert any(line.startswith("2 (PlayTV)  tv        tv-17       345") for line in lines)
    assert "\x1b" not in text


def test_the_text_lists_the_relays_that_share_the_outbox(relay: NotedRelay) -> None:
    replicas = [ReplicaView("box-1", 100, 7, 400, True), ReplicaView("box-2", 156, 1_234, 61_000, False)]
    relay.outbox.state = relay.outbox.state._replace(replicas=replicas, owed=2)

    lines = call("status", environ=relay.environ).stdout.splitlines()

    assert "durability        full" in lines
    assert "rate slots        2 reserved for requests of ended relays" in lines
    assert (
        "relays            box-1 (this one): 7 pending, 100 of 256 groups, seen 0 s ago; "
        "box-2: 1,234 pending, 156 of 256 groups, seen 1 min 1 s ago"
    ) in lines


def test_the_text_of_a_new_relay(relay: NotedRelay) -> None:
    result = call("status", environ=relay.environ)

    assert result.exit_code == 0
    assert result.stdout.startswith("SLOW  Nothing delivered yet: the upstream has not responded.")
    assert "received          not measured yet, 0 in total\n" in result.stdout
    assert "upstream: untested since 1970" in result.stdout
    assert "devices: no pending events" in result.stdout


def test_the_text_has_the_rates(relay: NotedRelay) -> None:
    relay.history.sample()
    relay.clock.monotonic += 10_000
    relay.outbox.totals = Ledger(accepted=12_345, delivered=5, pending=12_340)

    text = call("status", environ=relay.environ).stdout

    assert "received          1,234 events/s in the last 10 s, 12,345 in total\n" in text
    assert "sent              0.5 events/s in the last 10 s, 5 in total\n" in text


def test_the_text_has_the_rejected_events(relay: NotedRelay) -> None:
    relay.metrics.events_rejected.labels("http", "too_large").inc(1_200)

    text = call("status", environ=relay.environ).stdout

    assert "received          not measured yet, 0 in total; rejected since the start: too large 1,200\n" in text


class TestWatch:
    """--watch in its own process, ended by SIGINT."""

    @pytest.fixture
    def watching(self, relay: NotedRelay) -> Iterator[subprocess.Popen[str]]:
        watching = subprocess.Popen(
            [sys.executable, "-m", "relay", "status", "--watch", "--json"],
            env={**os.environ, **relay.environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with watching:
            yield watching
            watching.kill()

    def test_watch_continues_until_it_is_interrupted(self, relay: NotedRelay, watching: subprocess.Popen[str]) -> None:
        assert watching.stdout is not None
        assert json.loads(watching.stdout.readline())["ledger"]["accepted"] == 0
        relay.outbox.totals = Ledger(accepted=3, pending=3)

        assert json.loads(watching.stdout.readline())["ledger"]["accepted"] == 3
        watching.send_signal(signal.SIGINT)

        assert watching.wait(30) == 0

    def test_an_unavailable_relay_does_not_end_watch(self, relay: NotedRelay, watching: subprocess.Popen[str]) -> None:
        assert watching.stdout is not None
        assert watching.stderr is not None
        watching.stdout.readline()
        handle, relay.ops.handle = relay.ops.handle, fail_to_respond  # type: ignore[method-assign]
        assert "relay" in watching.stderr.readline()

        relay.ops.handle = handle  # type: ignore[method-assign]

        assert json.loads(watching.stdout.readline())["version"]


def fail_to_respond(_: Request) -> Response:
    return NoResponse()


def test_flush_calls_the_service_and_prints_the_pending_events(relay: NotedRelay) -> None:
    relay.outbox.totals = Ledger(accepted=1_234, pending=1_234)

    text, data = call("flush", environ=relay.environ), call("flush", "--json", environ=relay.environ)

    assert (text.exit_code, text.stdout) == (0, "sending 1,234 events, as fast as the limits allow\n")
    assert (data.exit_code, json.loads(data.stdout)) == (0, {"success": True, "pending": 1_234})
    assert relay.control.flushes == 2


class TestTable:
    def test_columns_are_aligned_with_numbers_on_the_right(self) -> None:
        assert table(("name", "events"), [("a", 1), ("long name", 12_000)]).splitlines() == [
            "name       events",
            "a               1",
            "long name  12,000",
        ]

    def test_received_text_cannot_control_the_terminal_or_break_the_line(self) -> None:
        line = table(("message",), [["a\x1b[2J\nb\u202ec" + "x" * 100]]).splitlines()[1]

        assert line.isprintable()
        assert len(line) == 60

    def test_sizes_and_durations_have_readable_units(self) -> None:
        assert [bytes_text(n) for n in (0, 1023, 1536, 512 << 20, 5 << 40)] == [
            "0 B",
            "1023 B",
            "1.5 KiB",
            "512 MiB",
            "5120 GiB",
        ]
        assert [duration_text(s) for s in (0, 59.9, 60, 3_661, 93_784)] == [
            "0 s",
            "59 s",
            "1 min",
            "1 h 1 min",
            "1 d 2 h",
        ]


def test_the_text_has_the_clock_skew_or_unknown(relay: NotedRelay) -> None:
    assert "clock             +1.5 s against the upstream's\n" in call("status", environ=relay.environ).stdout
    relay.clock_skew_ms = None
    assert "clock             unknown\n" in call("status", environ=relay.environ).stdout
