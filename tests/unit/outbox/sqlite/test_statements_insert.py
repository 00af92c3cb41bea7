"""Rows joined for one statement are stored unchanged, with any bytes."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from relay.outbox.engine.commands import InsertEvents
from relay.outbox.sqlite.connection import connect
from relay.outbox.sqlite.schema import CHECK_OF_ROW, migrate
from relay.outbox.sqlite.statements import insertion

GREATEST = 2**32 - 1
ROWS = [
    (1, bytes(range(16)), GREATEST, b"\x00" * 5),
    (GREATEST, bytes(16), 0, b"{"),
    (7, b"\xff" * 16, 10**9, '{"a":"\u00e9\u20ac\U0001f600"}'.encode()),
    (7, b"0123456789abcdef", 1, bytes(range(256)) * 1024),
    (2, b"\xe2\x82\xac" * 5 + b"\n", 12, b"%d %s 'x' \xff"),
]
"""(queue id, event id, checksum, body)"""


def database_at(path: Path) -> sqlite3.Connection:
    path.touch()
    database = connect(path)
    migrate(database)
    return database


@pytest.mark.parametrize("rows", [ROWS, ROWS[:1], ROWS * 300], ids=["some", "one", "many"])
def test_inserted_rows_equal_the_given_rows(rows: list[tuple[int, bytes, int, bytes]], tmp_path: Path) -> None:
    with closing(database_at(tmp_path / "outbox.db")) as database:
        queues, ids, crcs, bodies = zip(*rows, strict=True)
        checks = [0 if crc % 2 else 2**32 - 1 for crc in crcs]

        sizes = list(map(len, bodies))
        insertion(InsertEvents(2**40, 1_795_420_800_000, queues, ids, crcs, checks, bodies, sizes))(database)

        stored = database.execute("SELECT seq, queue_id, event_id, at_ms, crc, body FROM log ORDER BY seq").fetchall()
        assert stored == [
            (2**40 + at, queue_id, event_id, 1_795_420_800_000, crc, body)
            for at, (queue_id, event_id, crc, body) in enumerate(rows)
        ]
        stored_checks = database.execute(f"SELECT {CHECK_OF_ROW} FROM log ORDER BY seq").fetchall()
        assert stored_checks == [(crc if crc % 2 else 2**32 - 1,) for crc in crcs]
        kinds = "typeof(seq), typeof(queue_id), typeof(event_id), typeof(at_ms), typeof(crc), typeof(body)"
        assert database.execute(f"SELECT DISTINCT {kinds} FROM log").fetchall() == [
            ("integer", "integer", "blob", "integer", "integer", "blob")
        ]


def test_failed_insert_leaves_no_row(tmp_path: Path) -> None:
    with closing(database_at(tmp_path / "outbox.db")) as database:
        insertion(InsertEvents(3, 0, [1], [bytes(16)], [0], [0], [b"first"], [5]))(database)
        more = InsertEvents(1, 0, [1] * 3, [bytes(16)] * 3, [0] * 3, [0] * 3, [b"a", b"b", b"c"], [1] * 3)

        with pytest.raises(sqlite3.IntegrityError):
            insertion(more)(database)

        assert database.execute("SELECT seq, body FROM log").fetchall() == [(3, b"first")]
