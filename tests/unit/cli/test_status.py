"""`relay status` and `relay flush` against the operations interface."""

from __future__ import annotations

import json

from relay.cli.table import bytes_text, duration_text, table
from relay.outbox import Gauges, Ledger
from relay.policy.schedule import LaneView, RouteView

from tests.unit.cli.harness import NotedRelay, call


def test_json_is_what_the_relay_says(relay: NotedRelay) -> None:
    relay.outbox.totals = Ledger(accepted=3, pending=3)

    result = call("status", "--json", environ=relay.environ)

    assert json.loads(result.stdout) == json.loads(json.dumps(relay.status.data()))


def test_text_has_what_waits_and_why(relay: NotedRelay) -> None:
    relay.outbox.totals = Ledger(accepted=12_345, delivered=12_000, pending=345)
    relay.outbox.state = Gauges(1_536, 1 << 20, 93_784_000, writable=False, dead_letters=0, problem="disk full")
    relay.schedule.shown_routes = [RouteView(2, "unauthorized", 0, 35_000, "401 Invalid or missing API key")]
    relay.schedule.busy = [LaneView((2, "tv", "tv-17"), 345, None, "unauthorized")]

    lines = call("status", environ=relay.environ).stdout.splitlines()

    assert "can store events    NO: disk full" in lines
    assert "outbox              1.5 KiB of 1 MiB" in lines
    assert "oldest event waits  1 d 2 h" in lines
    ledger = lines.index("accepted  requeued  delivered  dead lettered  dropped  pending")
    assert lines[ledger + 1] == "  12,345         0     12,000              0        0      345"
    upstream = next(line for line in lines if line.startswith("2 ") and "401" in line)
    assert upstream.split() == [
        "2",
        "unauthorized",
        *upstream.split()[2:4],
        "401",
        "Invalid",
        "or",
        "missing",
        "API",
        "key",
    ]
    assert any(line.split() == ["2", "tv", "tv-17", "345", "unauthorized"] for line in lines)


def test_text_of_a_fresh_relay(relay: NotedRelay) -> None:
    result = call("status", environ=relay.environ)

    assert result.exit_code == 0
    assert "upstream: nothing sent yet" in result.stdout
    assert "devices: nothing waits" in result.stdout


def test_flush_reaches_the_service(relay: NotedRelay) -> None:
    assert call("flush", environ=relay.environ).exit_code == 0
    assert relay.control.flushes == 1


class TestTable:
    def test_columns_are_aligned_and_numbers_stand_right(self) -> None:
        assert table(("name", "events"), [("a", 1), ("long name", 12_000)]).splitlines() == [
            "name       events",
            "a               1",
            "long name  12,000",
        ]

    def test_what_others_wrote_cannot_drive_the_terminal_or_break_the_line(self) -> None:
        line = table(("words",), [["a\x1b[2J\nb\u202ec" + "x" * 100]]).splitlines()[1]

        assert line.isprintable()
        assert len(line) == 60

    def test_sizes_and_times_are_for_people(self) -> None:
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
