"""How SQLite is opened and spoken to: one connection, one thread, one hop per commit.

Owns the PRAGMAs. Rules: whoever wants something of the database hands over a plain function that
gets the sqlite3.Connection; nothing else touches it, so nothing can come between two statements.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Concatenate, Literal, ParamSpec, TypeVar, cast

import aiosqlite

P = ParamSpec("P")
T = TypeVar("T")

PAGE_BYTES = 4096
SQLITE_VERSION = sqlite3.sqlite_version
_CACHE_KIB = 2048
_CACHED_STATEMENTS = 64
_SETTLED_SHARE = 64


class DatabaseThread(aiosqlite.Connection):
    """aiosqlite's connection, with whole transactions as its unit.

    Each awaited aiosqlite call is a thread hop of about 150 µs, other tasks' statements may come in
    between, and a cancelled await leaves a transaction half made. `run` hands one function to the
    thread: one hop a commit, nothing interleaves, and what was handed over runs to its end.
    """

    def __init__(self, connector: Callable[[], sqlite3.Connection]) -> None:
        super().__init__(connector, iter_chunk_size=64)
        # a process that ends without `close` (a part died) must not wait for this thread for ever
        self._thread.daemon = True

    async def run(self, work: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What `work(connection, ...)` returns, run on this connection's thread."""
        return cast(T, await self._execute(work, self._conn, *args, **kwargs))  # type: ignore[no-untyped-call]

    async def open(self) -> None:
        """Start the thread and open the file; if that fails, the thread has ended when this raises."""
        try:
            await self
        except BaseException:
            self._thread.join()  # aiosqlite has told it to stop; it must not speak to a loop that is closed by then
            raise


def connect(path: Path) -> sqlite3.Connection:
    """A connection that nobody shares; writes nothing yet. The file must exist."""
    database = sqlite3.connect(
        path, timeout=0, isolation_level=None, check_same_thread=False, cached_statements=_CACHED_STATEMENTS
    )
    # before anything is read in WAL mode: then there is no -shm, and nobody else gets in
    database.execute("PRAGMA locking_mode=EXCLUSIVE").fetchall()
    return database


def configure(
    database: sqlite3.Connection, durability: Literal["full", "normal"], max_size_bytes: int, wal_bytes: int
) -> None:
    """Set every PRAGMA. sqlite3.DatabaseError if the file is no database."""
    pragmas = [
        "journal_mode=WAL",
        f"synchronous={durability}",
        "wal_autocheckpoint=0",  # checkpoints are ours, see Store.make_way
        f"cache_size=-{_CACHE_KIB}",
        "cache_spill=0",  # a page spilled half way is written twice; commits are bounded
        "secure_delete=0",  # some builds default to writing zeros over what is freed
        "temp_store=MEMORY",
        "mmap_size=0",
    ]
    if database.execute("PRAGMA page_count").fetchone() == (0,):
        pragmas = [f"page_size={PAGE_BYTES}", "auto_vacuum=INCREMENTAL", *pragmas]
    for pragma in pragmas:
        database.execute(f"PRAGMA {pragma}").fetchall()
    limit(database, max_size_bytes, wal_bytes)


def limit(database: sqlite3.Connection, max_size_bytes: int, wal_bytes: int) -> None:
    """How large the files may become.

    A file that is larger already may still grow by what settlements need: else nothing could ever be drained.
    """
    (pages,) = database.execute("PRAGMA page_count").fetchone()
    most = max((max_size_bytes - wal_bytes) // PAGE_BYTES, pages + max_size_bytes // _SETTLED_SHARE // PAGE_BYTES, 16)
    database.execute(f"PRAGMA max_page_count={most}").fetchall()
    database.execute(f"PRAGMA journal_size_limit={wal_bytes}").fetchall()
