"""Counts of the last hour, and losses that survive a restart."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from relay.ops.last_hour import BUCKET_MS, HOUR_MS, Kind, LastHour
from relay.outbox import Ledger

from tests.support.ops_harness import StillClock


class Process:
    """One process of a relay with totals set by a test. All processes of a test share directory and ledger."""

    def __init__(self, directory: Path, ledger: Ledger = Ledger(), *, boot_id: str = "boot") -> None:  # noqa: B008
        self.clock = StillClock()
        self.clock.boot_id = boot_id
        self.totals: dict[tuple[Kind, str], int] = {}
        self.ledger = ledger
        self.last_hour = LastHour(directory / "outbox.db", self.clock, lambda: dict(self.totals), lambda: self.ledger)

    def lose(self, kind: Kind, reason: str, events: int) -> None:
        self.totals[kind, reason] = self.totals.get((kind, reason), 0) + events
        if kind != "rejected":
            self.ledger = self.ledger._replace(**{kind: getattr(self.ledger, kind) + events})

    def counts(self) -> dict[tuple[Kind, str], int]:
        return dict(self.last_hour.counts())


def test_an_event_counts_for_an_hour(tmp_path: Path) -> None:
    process = Process(tmp_path)
    process.lose("rejected", "invalid", 2)
    assert process.counts() == {("rejected", "invalid"): 2}

    process.clock.monotonic += HOUR_MS - 1
    process.lose("dropped", "age", 1)
    assert process.counts() == {("rejected", "invalid"): 2, ("dropped", "age"): 1}

    process.clock.monotonic += BUCKET_MS + 1
    assert process.counts() == {("dropped", "age"): 1}
    process.clock.monotonic += HOUR_MS
    assert process.counts() == {}


async def test_losses_survive_a_restart_and_rejections_do_not(tmp_path: Path) -> None:
    first = Process(tmp_path)
    first.last_hour.load()
    first.lose("dead_lettered", "refused", 3)
    first.lose("rejected", "invalid", 9)
    assert await first.last_hour.save()

    second = Process(tmp_path, first.ledger)
    second.clock.monotonic = first.clock.monotonic + HOUR_MS - 1
    second.last_hour.load()

    assert second.counts() == {("dead_lettered", "refused"): 3}
    second.clock.monotonic += BUCKET_MS + 1
    assert second.counts() == {}


async def test_a_kill_after_a_loss_loses_only_its_reason(tmp_path: Path) -> None:
    first = Process(tmp_path)
    first.last_hour.load()
    first.lose("dropped", "size", 2)
    await first.last_hour.save()
    first.lose("dropped", "size", 5)

    second = Process(tmp_path, first.ledger)
    second.last_hour.load()

    assert second.counts() == {("dropped", "size"): 2, ("dropped", ""): 5}


@pytest.mark.parametrize(
    ("wall_passed_ms", "counts"),
    [(0, {("dropped", "age"): 1}), (-5, {("dropped", "age"): 1}), (HOUR_MS + BUCKET_MS, {})],
)
async def test_across_a_reboot_the_wall_clock_counts(
    tmp_path: Path, wall_passed_ms: int, counts: dict[tuple[Kind, str], int]
) -> None:
    first = Process(tmp_path)
    first.clock.wall = 1_795_420_800_000
    first.last_hour.load()
    first.lose("dropped", "age", 1)
    await first.last_hour.save()

    second = Process(tmp_path, first.ledger, boot_id="next boot")
    second.clock.wall = first.clock.wall + wall_passed_ms
    second.clock.monotonic = 50
    second.last_hour.load()

    assert second.counts() == counts


async def test_the_file_is_written_only_after_a_loss(tmp_path: Path) -> None:
    process = Process(tmp_path, Ledger(dead_lettered=4))
    process.last_hour.load()
    process.lose("rejected", "invalid", 9)

    assert not await process.last_hour.save()
    assert not process.last_hour.path.exists()
    process.lose("dead_lettered", "poison", 1)
    assert await process.last_hour.save()
    assert not await process.last_hour.save()
    assert json.loads(process.last_hour.path.read_bytes())["dead_lettered"] == 5


async def test_a_failed_write_is_tried_again(tmp_path: Path) -> None:
    process = Process(tmp_path / "missing")
    process.last_hour.load()
    process.lose("dropped", "age", 1)

    assert not await process.last_hour.save()
    process.last_hour.path.parent.mkdir()
    assert await process.last_hour.save()


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b"[1]"])
def test_an_unreadable_file_is_ignored(tmp_path: Path, content: bytes) -> None:
    process = Process(tmp_path)
    process.last_hour.path.write_bytes(content)
    process.last_hour.load()

    assert process.counts() == {}
