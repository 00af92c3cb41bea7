"""The SQLite connection: its PRAGMAs, its transactions, and the thread that uses it.

Rule: callers pass a plain function to `DatabaseThread.run`, which calls the function with the Database. Nothing else
uses the connection, so that no other statement can run between two statements of the function.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any, Literal, NamedTuple, TypeVar

import aiosqlite

from relay.outbox.engine.dead_letter_shares import DeadLetterShares

T = TypeVar("T")

PAGE_BYTES = 4096
SQLITE_VERSION = sqlite3.sqlite_version
_CACHE_KIB = 2048
_CACHED_STATEMENTS = 64
_SETTLEMENT_SHARE = 64
_PAGES = "SELECT page_count, freelist_count FROM pragma_page_count, pragma_freelist_count"


class Database(sqlite3.Connection):
    """A connection whose `commit` executes the next waiting function. No statement commits by another way than SQL."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.waiting: deque[tuple[Callable[[Database], Any], list[Any]]] = deque()
        """Functions, and for each the list that gets its result."""
        self.dead_letter_shares: DeadLetterShares | None = None
        """See `dead_letters`."""

    def commit(self) -> None:
        work, results = self.waiting.popleft()
        results.append(work(self))


Step = Callable[[Database], Any]


class Executed(NamedTuple):
    results: Sequence[Any]
    """The return value of each step."""
    pages: int
    """Pages of the database, including free pages."""
    free_pages: int
    changed_rows: int
    """0 if the steps only read, or only moved pages."""


class DatabaseThread:
    """An aiosqlite connection that executes whole functions.

    Each awaited aiosqlite call is a thread hop of about 150 µs, statements of other tasks can run
    between two calls, and a cancelled await leaves a transaction open. `run` passes one function to
    the thread: one hop per commit, no interleaving, and the function always runs to its end. aiosqlite
    calls `commit` of the connection on its thread, and `Database.commit` executes the function.
    """

    def __init__(self, connector: Callable[[], Database]) -> None:
        self._connector = connector
        self._failure: BaseException | None = None
        self._connection = _made_by_daemon(lambda: aiosqlite.Connection(self._connect, iter_chunk_size=64))

    async def open(self) -> None:
        """Start the thread and open the file. If opening fails, the thread has ended when this raises."""
        await self._connection
        if self._failure is not None:
            await self._connection.close()
            raise self._failure

    async def run(self, work: Callable[[Database], T]) -> T:
        """Run `work(connection)` on the thread of this connection, and return its result."""
        results: list[T] = []
        self.database.waiting.append((work, results))
        await self._connection.commit()
        return results[0]

    async def close(self) -> None:
        await self._connection.close()

    def _connect(self) -> Database:
        """Open the file, on the thread. After a failure, return another connection, so that `close` ends the thread."""
        try:
            self.database = self._connector()
        except BaseException as error:
            self._failure = error
            self.database = sqlite3.connect(":memory:", factory=Database, check_same_thread=False)
        return self.database


def _made_by_daemon(make: Callable[[], T]) -> T:
    """Return what `make` returns. The threads that it creates are daemons, as the thread that calls it.

    A process that ends without `close`, because a task failed, must not wait for the thread of a connection.
    """
    made: list[T] = []
    thread = Thread(target=lambda: made.append(make()), daemon=True)
    thread.start()
    thread.join()
    return made[0]


def connect(path: Path) -> Database:
    """Open an existing file with an exclusive connection, without writing to it."""
    database = sqlite3.connect(
        path,
        timeout=0,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=_CACHED_STATEMENTS,
        factory=Database,
    )
    # It precedes the first read in WAL mode, so that SQLite uses no -shm file and no other process can open the file.
    database.execute("PRAGMA locking_mode=EXCLUSIVE").fetchall()
    return database


def configure(
    database: sqlite3.Connection, durability: Literal["full", "normal"], max_size_bytes: int, wal_bytes: int
) -> None:
    """Set every PRAGMA. Raise sqlite3.DatabaseError if the file is not a database."""
    pragmas = [
        "journal_mode=WAL",
        f"synchronous={durability}",
        "fullfsync=1",  # macOS only, see relay.runtime.flush
        "wal_autocheckpoint=0",  # WriteAheadLog.make_way checkpoints
        f"cache_size=-{_CACHE_KIB}",
        "cache_spill=0",  # a spilled page is written twice; the size of commits is limited
        "secure_delete=0",  # some builds overwrite freed space with zeros by default
        "temp_store=MEMORY",
        "mmap_size=0",
    ]
    if database.execute("PRAGMA page_count").fetchone() == (0,):
        pragmas = [f"page_size={PAGE_BYTES}", "auto_vacuum=INCREMENTAL", *pragmas]
    for pragma in pragmas:
        database.execute(f"PRAGMA {pragma}").fetchall()
    limit(database, max_size_bytes, wal_bytes)


def limit(database: sqlite3.Connection, max_size_bytes: int, wal_bytes: int) -> None:
    """Limit the size of the files.

    A file that is larger already may grow by 1/64 of the limit, because settlements need space
    before events can be deleted.
    """
    (pages,) = database.execute("PRAGMA page_count").fetchone()
    max_pages = max(
        (max_size_bytes - wal_bytes) // PAGE_BYTES, pages + max_size_bytes // _SETTLEMENT_SHARE // PAGE_BYTES, 16
    )
    database.execute(f"PRAGMA max_page_count={max_pages}").fetchall()
    database.execute(f"PRAGMA journal_size_limit={wal_bytes}").fetchall()


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
