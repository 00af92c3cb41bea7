"""One outbox file, opened: what runs on its connection, and what it costs.

Owns the connection, the lock and the numbers of the write-ahead log. Rules: after any error of the
disk the connection is closed, never used again; the lock is held from the first open to `close`.
Knows nothing of what the calls mean.
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
"""What a commit writes besides bodies and the rows it changes: inner pages, page 1, the map of pages."""


class Store:
    """A file that may be open; every call but `lock` and `connect` needs it to be."""

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
        """`mends`: whether a broken file may be set aside and salvaged; `ids`: of this machine, see `Mending.owner`."""
        self.was_moved = False
        """Whether the file belonged to another machine when it was first opened."""
        self.suspect = False
        """SQLITE_CORRUPT was met: the next `connect` looks at every page."""
        self.condemned = ""
        """Why the next `connect` sets the file aside without another look; "" if it does not."""
        self.thorough = False
        """Whether the last `connect` looked at every page, or made them."""
        self.wal_file_bytes = 0
        """When it was last counted."""
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
        """At most so much was written since the frames were counted."""
        self._reserves = True
        """Whether commits reserve their part of the log; False after the disk had no room for it."""
        self._identities: tuple[files.Identity | None, files.Identity | None] = (None, None)

    @property
    def untidy(self) -> bool:
        """Whether something was written that is not counted yet."""
        return self._guessed_bytes > 0

    @property
    def connected(self) -> bool:
        return self._connection is not None

    def configure(self, settings: OutboxSettings, wal_bytes: int) -> None:
        """Other limits from the next `connect` or `resize` on."""
        self._settings, self._wal_bytes = settings, wal_bytes

    async def resize(self) -> None:
        """Tell the open file its limits."""
        await self.run(connection.limit, self._settings.max_size_bytes, self._wal_bytes)

    def lock(self) -> None:
        """Raises OutboxLocked or OutboxRefused."""
        if self._lock is None:
            self._lock = files.lock(self._settings.path)

    async def connect(self) -> tuple[Opened, bool]:
        """Open the file, mending what is broken; returns what it holds and whether it had to be
        replaced.

        sqlite3.Error or OSError if the disk fails; OutboxRefused.
        """
        recovery = Recovery(
            self._settings.path,
            self._settings,
            self._wal_bytes,
            self._clock.boot_id,
            self.suspect,
            self.condemned,
            self._mends,
            None
            if self._ids is None
            else InstallationClaim(self._ids, self._clock.new_event_id(), self._settings.adopt),
        )
        opening = DatabaseThread(lambda: explained(recovery.path, lambda: open_recovered(recovery)))
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
        """Close what can be closed; what was not committed is rolled back."""
        open_one, self._connection = self._connection, None
        self._wal.close()
        if open_one is not None:
            with suppress(sqlite3.Error):
                await open_one.close()

    def unlock(self) -> None:
        if self._lock is not None:
            files.unlock(self._lock)
            self._lock = None

    async def run(self, work: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        assert self._connection is not None
        path = self._settings.path
        return await self._connection.run(lambda database: explained(path, lambda: work(database, *args, **kwargs)))

    async def commit(self, steps: Sequence[Step]) -> Committed:
        """All steps or none, on disk when this returns."""
        began_us = monotonic_us()
        committed = await self.run(transaction.commit, steps)
        if committed.changed_rows:
            self._metrics.outbox_commits.inc()
            self._metrics.outbox_commit_duration_seconds.observe((monotonic_us() - began_us) / 1_000_000)
        return committed

    async def tidy(self) -> None:
        """Count what was written, and copy the write-ahead log back once it is half as large as it may be."""
        self._count()
        if self._wal.waiting * FRAME_BYTES > self._wal_bytes // 2:
            await self._copy_back()

    async def make_way(self, pages: int | None, appended_pages: int) -> None:
        """Make room in the log for a commit of at most `pages` pages; None: their number is unknown.

        Each copying back costs three syncs, so it waits as long as the log has room; half of it is
        room for any commit, also for one whose lanes' pages are counted by the lane though many
        lanes share one. If its events alone need more, the log begins with them. With durability
        "full" the file is as large as the commit needs, see `wal`.
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
        """Have the log's file as large as a commit of so many bytes needs; OSError if the disk fails."""
        known_bytes = min(self.wal_file_bytes, self._wal_bytes)  # SQLite cuts a larger file
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
            self._reserves = False  # the commit may need less, and reports it if it does not fit
            return
        self._metrics.outbox_written_bytes.inc(reserved_bytes)
        self.wal_file_bytes = self._wal.file_bytes()

    def _end_bytes(self) -> int:
        """Where the next commit's frames begin in the log, at most."""
        return HEADER_BYTES + self._wal.waiting * FRAME_BYTES + self._guessed_bytes

    def wrote(self, body_bytes: int, changed_pages: int) -> None:
        """After a commit of so much: count, but not before the log may have grown by a quarter of
        what it may be.

        Counting reads the file, which a commit of one event would spend as much time on as on its
        event.
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
        """What happened to the files under us, and what to do; "" if nothing. OSError if the disk does not tell."""
        path = self._settings.path
        if self._look() == self._identities:
            read_only = os.statvfs(path).f_flag & os.ST_RDONLY
            return f"{path} is on a file system that became read-only: check the disk" if read_only else ""
        if self.rescuable():
            return f"{path} or its -wal was deleted: it is being written anew"
        return f"{path} was replaced by another file: stop the relay, then put back the file to be kept"

    def rescuable(self) -> bool:
        """Whether a file was deleted of which we still hold the last link."""
        database, wal = self._look()
        here, wal_here = self._identities
        return database is None or (database == here and wal is None and wal_here is not None)

    async def rescue(self) -> None:
        """Write the deleted files anew from what we hold; `disconnect` has to follow."""
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
