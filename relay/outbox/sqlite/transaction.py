"""One transaction: all steps of a commit or none, and the checkpoint of the write-ahead log."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from relay.outbox.sqlite.connection import Database

Step = Callable[[Database], Any]
_PAGES = "SELECT page_count, freelist_count FROM pragma_page_count, pragma_freelist_count"


class Executed(NamedTuple):
    results: Sequence[Any]
    """The return value of each step."""
    pages: int
    """Pages of the database, including free pages."""
    free_pages: int
    changed_rows: int
    """0 if the steps only read, or only moved pages."""


@contextmanager
def atomic(database: sqlite3.Connection) -> Iterator[None]:
    """Commit the statements of the block together. On an error, roll back and raise it."""
    database.execute("BEGIN")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise


def commit(database: Database, steps: Sequence[Step]) -> Executed:
    """Execute all steps in one transaction. On an error, roll back and raise it."""
    changes = database.total_changes
    with atomic(database):
        results = [step(database) for step in steps]
        pages, free = read_pages(database)
    return Executed(results, pages, free, database.total_changes - changes)


def read_pages(database: sqlite3.Connection) -> tuple[int, int]:
    """Return (pages of the database, free pages)."""
    pages, free = database.execute(_PAGES).fetchone()
    return pages, free


def checkpoint(database: sqlite3.Connection) -> None:
    """Copy the write-ahead log into the database. The next commit restarts the log at its beginning."""
    database.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
