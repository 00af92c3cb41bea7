"""The choice of rows to delete, and when a cleanup may run."""

from __future__ import annotations

from typing import Any

import pytest
from relay.outbox.engine.commands import Deleted
from relay.outbox.engine.deletion import Circumstances, CleanupDelay, DeletionRange, LogExtent, Search, choose
from relay.outbox.engine.storage import Space, SpaceLimits

KIB, MIB = 1 << 10, 1 << 20
LIMITS = SpaceLimits(64 * MIB, 4 * MIB, 56 * MIB, MIB, 16 * MIB, 4096, 2 * MIB, MIB, 4 * KIB)
FREE = Space(2 * MIB, 20 * MIB, False)
TIGHT = Space(2 * MIB, 0, False)
LARGE = Space(20 * MIB, 20 * MIB, False)


def now(log: LogExtent, pending: int, **given: Any) -> Circumstances:
    """Return circumstances of a log whose oldest row that must stay has the seq `oldest`."""
    oldest = given.pop("oldest", None if not pending else log.last_row - pending + 1)
    values = {
        "next_seq": log.last_row + 1,
        "pending": pending,
        "space": FREE,
        "limits": LIMITS,
        "is_crowded": False,
        "window": 1_000,
        "is_busy": lambda: False,
        "oldest_row": lambda: oldest,
    }
    return Circumstances(**values | given)


def log_of(rows: int, first_row: int = 1, **search: int) -> LogExtent:
    return LogExtent(first_row, first_row + rows - 1, rows, Search(**search))


@pytest.mark.parametrize(
    ("rows", "pending", "body_bytes", "given", "chosen"),
    [
        pytest.param(511, 0, None, {}, None, id="few settled rows, idle"),
        pytest.param(512, 0, None, {}, (1, 512, "all"), id="no pending event"),
        pytest.param(50_000, 0, 0, {}, (1, 50_000, "all"), id="no pending event, with an append"),
        pytest.param(50_001, 0, None, {"window": 0}, (45_906, 50_001, "tail"), id="large log without pending events"),
        pytest.param(50_001, 0, None, {}, (45_906, 50_001, "tail"), id="free space for the ids"),
        pytest.param(50_001, 0, None, {"space": TIGHT}, (1, 53, "front"), id="space for the ids of the rows first"),
        pytest.param(50_001, 0, None, {"is_busy": lambda: True}, None, id="idle cleanup waits for requests"),
        pytest.param(4_500, 400, None, {}, (1, 4_096, "front"), id="enough settled rows, idle"),
        pytest.param(4_500, 400, None, {"space": LARGE}, (1, 512, "front"), id="limit of the deleted blocks"),
        pytest.param(4_495, 400, None, {}, None, id="too few settled rows for an idle cleanup"),
        pytest.param(9_000, 3_000, None, {}, None, id="too many pending rows for an idle cleanup"),
        pytest.param(4_500, 400, MIB, {}, None, id="free space is enough for the append"),
        pytest.param(4_500, 400, MIB, {"space": TIGHT}, (1, 2_621, "front"), id="space for the append"),
        pytest.param(4_500, 400, KIB, {"space": TIGHT}, (1, 512, "front"), id="at least 512 rows"),
        pytest.param(900, 400, MIB, {"space": TIGHT}, None, id="too few settled rows for an append"),
        pytest.param(900, 890, 0, {"is_crowded": True}, (1, 10, "front"), id="any settled rows in a crowded outbox"),
        pytest.param(
            9_000, 4_000, MIB, {"space": TIGHT, "oldest": 1}, (1, 2_048, "holes"), id="settled rows among pending ones"
        ),
        pytest.param(9_000, 8_000, MIB, {"space": TIGHT, "oldest": 1}, None, id="few settled rows among pending ones"),
        pytest.param(
            9_000,
            7_000,
            MIB,
            {"is_crowded": True, "oldest": 1},
            (1, 2_048, "holes"),
            id="few settled rows among pending ones in a crowded outbox",
        ),
    ],
)
def test_choice(
    rows: int, pending: int, body_bytes: int | None, given: dict[str, Any], chosen: tuple[int, int, str] | None
) -> None:
    log = log_of(rows)
    assert choose(log, now(log, pending, **given), body_bytes)[0] == chosen


def test_queues_are_not_read_again_for_the_known_settled_rows() -> None:
    log = log_of(4_500, done_to=4_100)
    chosen, search = choose(log, now(log, 400, oldest_row=lambda: pytest.fail("read"), space=TIGHT), MIB)
    assert (chosen, search) == ((1, 2_621, "front"), Search(done_to=4_100))


def test_search_without_a_result_is_repeated_after_512_more_settled_rows() -> None:
    log = log_of(9_000)
    _, log.search = choose(log, now(log, 8_000, oldest=1, space=TIGHT), MIB)
    assert log.search.look_again_at == 1_512
    assert choose(log, now(log, 7_489, oldest_row=lambda: pytest.fail("read"), space=TIGHT), MIB)[0] is None


def test_ranges_with_holes_follow_each_other_and_begin_again() -> None:
    log = log_of(9_000)
    for first_seq in (1, 2_049, 4_097):
        chosen, log.search = choose(log, now(log, 4_000, oldest=1, space=TIGHT), MIB)
        assert chosen == (first_seq, first_seq + 2_047, "holes")
        log.delete(chosen, Deleted(0, 1, 9_000), 9_001)
    log.search = Search(sweep_from=9_001)
    assert choose(log, now(log, 4_000, oldest=1, space=TIGHT), MIB)[0] == (1, 2_048, "holes")


def test_empty_log_begins_at_the_next_seq() -> None:
    log = log_of(600)
    log.delete(DeletionRange(1, 600, "all"), Deleted(600, None, None), 601)
    assert (log.rows, log.first_row, log.last_row) == (0, 601, 600)


def test_rows_before_the_first_row_do_not_count() -> None:
    """A store may keep deleted rows; deleting the newest or all rows does not bring them back."""
    log = log_of(600, first_row=101)
    log.delete(DeletionRange(401, 700, "tail"), Deleted(300, 1, 400), 701)
    assert (log.rows, log.first_row, log.last_row) == (300, 101, 400)
    log.delete(DeletionRange(101, 400, "all"), Deleted(304, None, None), 701)
    assert (log.rows, log.first_row, log.last_row) == (0, 701, 700)


def test_cleanup_runs_when_idle_and_every_five_seconds() -> None:
    delay = CleanupDelay()
    assert delay.delay_ms(1_000, is_expensive=False) <= 0
    assert [delay.awaits_idleness(at) for at in (1_000, 5_999, 6_000)] == [True, True, False]
    delay.began(6_000)
    assert [delay.awaits_idleness(at) for at in (6_001, 11_000)] == [True, False]


def test_expensive_cleanup_waits_ten_seconds_from_when_it_was_due() -> None:
    delay = CleanupDelay()
    assert [delay.delay_ms(at, is_expensive=True) for at in (1_000, 4_000, 11_000)] == [10_000, 7_000, 0]
    delay.nothing_due()
    assert delay.delay_ms(20_000, is_expensive=True) == 10_000
