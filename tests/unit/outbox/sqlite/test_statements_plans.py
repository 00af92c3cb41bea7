"""The plans of all statements that a running outbox executes."""

from __future__ import annotations

import sqlite3
from array import array
from contextlib import closing
from typing import get_args

from relay.outbox import Selection
from relay.outbox.engine import commands as c
from relay.outbox.engine.outbox_clock import Anchor

from tests.contract.boxes import PHONE, REFUSED, SqliteBox, event, event_id

LIMITS = c.DeadLetterLimits(3, 1 << 20, 0)
RANGE = c.SeqRange(1, 9, 1, bytes(16 * 9), bytes(9), bytes(4 * 9), 0)
COMMANDS: tuple[c.Command, ...] = (
    c.AddQueues([(7, (1, "tv", "tv-7"))], 0),
    c.InsertEvents(26, 0, [7], [event_id(26)], [0], [0], [event(26).body], [len(event(26).body)]),
    c.ClaimEvents(1, 1, 0, [c.WantedEvents(1, array("Q", [1, 2]), array("I", [70, 70]), b"", 60_000)], LIMITS),
    c.SettleEvents(
        [c.QueueMove(9, 5, b"", 1, 1)], [c.DeadEvent(seq, 1, REFUSED) for seq in (3, 4, 5, 6, 7, 8)], LIMITS
    ),
    c.ReadDeadLetters(Selection(ids=(4, 5)), 10, 0),
    c.ReadDeadLetters(Selection(all=True), 10, 0),
    c.ReadDeadLetters(Selection(event_id=event_id(1)), 10, 0),
    c.ReadAppendTime(10),
    c.FindOlder(1, 0),
    c.RequeueDeadLetters([(5, 1)], 27, 0),
    c.DropEvents(RANGE, 0, [10], spares_quarantined=True),
    *(c.DeleteSettled(RANGE, kind, 1 << 20) for kind in ("front", "holes", "tail", "all")),
    c.Shrink(1 << 20),
    c.AdoptEvents([(12, 1)], 28, 0, 1 << 20),
    c.DiscardQuarantined([13]),
    c.ForgetQueues([7], 9),
    c.SaveClocks(Anchor(0, 0, 0, ""), 1, 0, is_clean=False),
    c.CorrectLedger(0),
    c.ForgetMachine(),
)
FOR_OPERATORS: tuple[c.Command, ...] = tuple(
    command
    for selection in (Selection(device_id="tv-1"), Selection(reason="refused"), Selection(all=True))
    for command in (c.ChooseDeadLetters(selection, 10), c.DiscardDeadLetters(selection, 10))
)
"""They read dead letters in the order of their ids until `limit` of them match."""
LIMITED = ("json_each", "wanted", "ledger", "pragma_", "SUBQUERY", "(subquery", "CONSTANT ROW")
"""Tables with one row, and values whose number the engine limits."""


async def scans(box: SqliteBox, *commands: c.Command) -> set[tuple[str, str]]:
    """Execute commands. Return the first words of each statement that scans a table, and that part of its plan."""
    await box.append(range(20))
    await box.append(range(20, 25), PHONE)
    executed: list[str] = []
    store = box.outbox._owner.storage
    await store.run(lambda database: database.set_trace_callback(executed.append))
    await store.commit(commands)
    await box.outbox.close()
    with closing(sqlite3.connect(box.path)) as database:
        return {
            (" ".join(statement.split()[:3]), detail)
            for statement in executed
            if statement.split()[0] in ("SELECT", "INSERT", "UPDATE", "DELETE")
            for *_, detail in database.execute(f"EXPLAIN QUERY PLAN {statement}")
            if detail.startswith("SCAN") and not detail.removeprefix("SCAN ").startswith(LIMITED)
        }


async def test_no_statement_scans_a_table_that_apps_fill(box: SqliteBox) -> None:
    assert set(map(type, COMMANDS + FOR_OPERATORS)) == set(get_args(c.Command))

    assert await scans(box, *COMMANDS) == set()


async def test_the_choice_of_dead_letters_by_an_operator_reads_them_in_order(box: SqliteBox) -> None:
    assert await scans(box, *FOR_OPERATORS) == {
        ("SELECT id, CAST(tenant_id", "SCAN dead_letters"),
        ("SELECT id FROM", "SCAN dead_letters"),
    }


async def test_the_state_of_an_event_needs_no_statement(box: SqliteBox) -> None:
    await box.append(range(4))
    await box.claim(2)
    await box.settle(dead={1: REFUSED})
    executed: list[str] = []
    await box.outbox._owner.storage.run(lambda database: database.set_trace_callback(executed.append))

    states = [await box.outbox.find(event_id(number)) for number in (0, 1, 2, 9)]

    assert states == ["delivered", "dead_lettered", "pending", None]
    await box.outbox.dead_letters(Selection(), 1)
    assert not any("log" in statement or "dedupe_window" in statement for statement in executed)
