"""The open file: its connection, its lock, and the size of its write-ahead log.

Rules: after a disk error the connection is closed and not used again. The lock is held from the
first `lock` to `unlock`. This module does not interpret the calls that it executes.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from relay.config import OutboxSettings
from relay.outbox.sqlite import connection, files, transaction
from relay.outbox.sqlite.connection import PAGE_BYTES, DatabaseThread
from relay.outbox.sqlite.disk_errors import NO_ROOM, explained
from relay.outbox.sqlite.loading import Opened
from relay.outbox.sqlite.quarantine import InstallationClaim
from relay.outbox.sqlite.recovery import Recovery, open_recovered
from relay.outbox.sqlite.transaction import Committed, Step
from relay.outbox.sqlite.wal import FRAME_BYTES, HEADER_BYTES, Wal
from relay.runtime.clock import Clock, monotonic_us
from relay.runtime.machine import MachineIds
from relay.runtime.metrics import Metrics

P = ParamSpec("P")
T = TypeVar("T")

_COMMIT_PAGES = 16
"""Pages that a commit writes besides bodies and changed rows: inner pages, page 1, the pointer map."""


class Store:
    """A file that may be open. Every method except `lock` and `connect` requires an open file."""

    def __init__(
        self,
        settings: OutboxSettings,
        wal_bytes: int,
        clock: Clock,
        metrics: Metrics,
        *,
        mends: bool = True,
        ids: MachineIds | None = None,
    ) -> None:
        """`mends`: whether a broken file may be salvaged; `ids`: of this machine, None: no check of the owner."""
        self.was_moved = False
        """Whether the file belonged to another machine when it was first opened."""
        self.suspect = False
        """Whether SQLITE_CORRUPT occurred, so that the next `connect` checks every page."""
        self.condemned = ""
        """Why the next `connect` quarantines the file without a check; "" otherwise."""
        self.thorough = False
        """Whether the last `connect` checked or created every page."""
        self.wal_file_bytes = 0
        """Size of the write-ahead log's file when it was last measured."""
        self._settings = settings
        self._wal_bytes = wal_bytes
        self._mends = mends
        self._ids = ids
        self._clock = clock
        self._metrics = metrics
        self._lock: int | None = None
        self._connection: DatabaseThread | None = None
        self._wal = Wal(files.beside(settings.path, "-wal"))
        self._guessed_bytes = 0
        """Maximum number of bytes written since the frames were counted."""
        self._reserves = True
        """Whether commits reserve space in the log; False after the disk was too full for it."""
        self._identities: tuple[files.Identity | None, files.Identity | None] = (None, None)

    @property
    def untidy(self) -> bool:
        """Whether there are writes that are not counted yet."""
        return self._guessed_bytes > 0

    @property
    def connected(self) -> bool:
        return self._connection is not None

    def configure(self, settings: OutboxSettings, wal_bytes: int) -> None:
        """Change the limits for the next `connect` or `resize`."""
        self._settings, self._wal_bytes = settings, wal_bytes

    async def resize(self) -> None:
        """Apply the limits to the open file."""
        await self.run(connection.limit, self._settings.max_size_bytes, self._wal_bytes)

    def lock(self) -> None:
        """Take the lock. Raise OutboxLocked or OutboxUnusable."""
        if self._lock is None:
            self._lock = files.lock(self._settings.path)

    async def connect(self) -> tuple[Opened, bool]:
        """Open the file, and salvage it if it is broken. Return its content, and whether the file
        was replaced.

        Raise sqlite3.Error or OSError if the disk fails, or OutboxUnusable.
        """
        recovery = Recovery(
            self._settings,
            self._wal_bytes,
            self._clock.boot_id,
            self.suspect,
            self.condemned,
            self._mends,
            self._installation_claim(),
        )
        opening = DatabaseThread(lambda: explained(recovery.settings.path, lambda: open_recovered(recovery)))
        await opening.open()
        self._connection = opening
        if recovery.set_aside is not None:
            self._metrics.outbox_set_aside.inc()
        self.was_moved |= recovery.was_moved
        self.thorough = self.suspect or recovery.set_aside is not None
        self.suspect, self.condemned = False, ""
        self._identities = self._look()
        await self.run(lambda _: self._wal.adopt())
        self.wal_file_bytes = self._wal.file_bytes()
        self._reserves = True
        assert recovery.opened is not None
        return recovery.opened, recovery.set_aside is not None

    def _installation_claim(self) -> InstallationClaim | None:
        if self._ids is None:
            return None
        return InstallationClaim(self._ids, self._clock.new_event_id(), self._settings.adopt)

    async def disconnect(self) -> None:
        """Close the file. An open transaction is rolled back."""
        connection_to_close, self._connection = self._connection, None
        self._wal.close()
        if connection_to_close is not None:
            with suppress(sqlite3.Error):
                await connection_to_close.close()

    def unlock(self) -> None:
        if self._lock is not None:
            files.unlock(self._lock)
            self._lock = None

    async def run(self, work: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        assert self._connection is not None
        path = self._settings.path
        return await self._connection.run(lambda database: explained(path, lambda: work(database, *args, **kwargs)))

    async def commit(self, steps: Sequence[Step]) -> Committed:
        """Execute all steps in one transaction. They are on disk when this returns."""
        began_us = monotonic_us()
        committed = await self.run(transaction.commit, steps)
        if committed.changed_rows:
            self._metrics.outbox_commits.inc()
            self._metrics.outbox_commit_duration_seconds.observe((monotonic_us() - began_us) / 1_000_000)
        return committed

    async def tidy(self) -> None:
        """Count the written frames, and checkpoint if the write-ahead log has half of its maximum size."""
        self._count()
        if self._wal.waiting * FRAME_BYTES > self._wal_bytes // 2:
            await self._copy_back()

    async def make_way(self, pages: int | None, appended_pages: int) -> None:
        """Make space in the log for a commit of at most `pages` pages; None: their number is unknown.

        A checkpoint costs three syncs, so there is none while the log has space. Half of the log is
        enough for any commit, even if `pages` counts a page per queue although queues share pages.
        If the events of the commit need more, the log restarts before them. With durability "full"
        the file is extended for the commit, see `wal`.
        """
        new_bytes = self._wal_bytes // 2
        if pages is not None:
            new_bytes = min((pages + _COMMIT_PAGES) * FRAME_BYTES, new_bytes)
        is_large = appended_pages * FRAME_BYTES > self._wal_bytes // 2
        room_bytes = 0 if is_large else self._wal_bytes - HEADER_BYTES - new_bytes
        if self._wal.waiting * FRAME_BYTES + self._guessed_bytes > room_bytes:
            self._count()
            if self._wal.waiting * FRAME_BYTES > room_bytes:
                await self._copy_back()
        if self._reserves and self._settings.durability == "full":
            await self._reserve((appended_pages + _COMMIT_PAGES) * FRAME_BYTES if is_large else new_bytes)

    async def _reserve(self, new_bytes: int) -> None:
        """Extend the log's file for a commit of `new_bytes`. Raise OSError if the disk fails."""
        known_bytes = min(self.wal_file_bytes, self._wal_bytes)  # SQLite truncates a larger file
        if self._end_bytes() + new_bytes <= known_bytes:
            return
        self._count()
        need_bytes = self._end_bytes() + new_bytes
        if need_bytes <= self.wal_file_bytes:
            return
        try:
            reserved_bytes = await self.run(lambda _: self._wal.reserve(need_bytes, self._wal_bytes))
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            self._reserves = False  # the commit may need less space, and fails if it needs more
            return
        self._metrics.outbox_written_bytes.inc(reserved_bytes)
        self.wal_file_bytes = self._wal.file_bytes()

    def _end_bytes(self) -> int:
        """Return the maximum offset in the log at which the next commit begins."""
        return HEADER_BYTES + self._wal.waiting * FRAME_BYTES + self._guessed_bytes

    def wrote(self, body_bytes: int, changed_pages: int) -> None:
        """Record the size of a commit, and count the frames if the log may have grown by a quarter
        of its maximum.

        Counting reads the file, and would take as long as the commit of one event.
        """
        self._guessed_bytes += 2 * body_bytes + (_COMMIT_PAGES + changed_pages) * FRAME_BYTES
        if self._guessed_bytes >= self._wal_bytes // 4:
            self._count()

    def _count(self) -> None:
        self._guessed_bytes = 0
        self._metrics.outbox_written_bytes.inc(self._wal.grown() * FRAME_BYTES)
        self.wal_file_bytes = self._wal.file_bytes()

    async def _copy_back(self) -> None:
        def work(database: sqlite3.Connection) -> int:
            pages = self._wal.distinct_pages()
            transaction.checkpoint(database)
            self._wal.copied_back()
            return pages

        self._metrics.outbox_written_bytes.inc(await self.run(work) * PAGE_BYTES)

    def problem(self) -> str:
        """Return what happened to the open files, and what to do; "" if nothing. Raise OSError if the disk fails."""
        path = self._settings.path
        if self._look() == self._identities:
            read_only = os.statvfs(path).f_flag & os.ST_RDONLY
            return f"{path} is on a file system that became read-only: check the disk" if read_only else ""
        if self.rescuable():
            return f"{path} or its -wal was deleted: the relay writes it again"
        return f"{path} was replaced by another file: stop the relay, then put the original file back"

    def rescuable(self) -> bool:
        """Return whether a deleted file is still open, so that it can be written again."""
        database, wal = self._look()
        here, wal_here = self._identities
        return database is None or (database == here and wal is None and wal_here is not None)

    async def rescue(self) -> None:
        """Write the deleted files again from the open ones. Call `disconnect` afterwards."""
        path = self._settings.path
        if files.identity(path) is None:
            fresh = files.beside(path, ".rescued")
            await self.run(_copy_to, fresh)
            files.rename(fresh, path)
        else:
            await self.run(transaction.checkpoint)

    def _look(self) -> tuple[files.Identity | None, files.Identity | None]:
        path = self._settings.path
        return files.identity(path), files.identity(files.beside(path, "-wal"))


def _copy_to(database: sqlite3.Connection, path: Path) -> None:
    files.remove(path)
    files.create(path)
    with closing(sqlite3.connect(path)) as copy:
        database.backup(copy)
