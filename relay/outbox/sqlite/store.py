"""The store in a SQLite file: its connection, its lock, and the size of its write-ahead log.

Rules: after a disk error the connection is closed and not used again. The lock is held from the
first `lock` to `unlock`. This module does not interpret the commands that it executes.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from relay.config import OutboxSettings
from relay.outbox import MayForget, OutboxError
from relay.outbox.engine import commands as c
from relay.outbox.engine.storage import Committed, FileFault, LogChunk, Opened, SpaceLimits
from relay.outbox.sqlite import connection, dead_letters, files, loading, quarantine, space, statements
from relay.outbox.sqlite.connection import PAGE_BYTES, Database, DatabaseThread, Step
from relay.outbox.sqlite.disk_errors import NO_ROOM, explained, failure_of
from relay.outbox.sqlite.quarantine import InstallationClaim
from relay.outbox.sqlite.recovery import Recovery, broken, is_broken, open_recovered
from relay.outbox.sqlite.statements import insertion
from relay.outbox.sqlite.wal import FRAME_BYTES, HEADER_BYTES, Wal
from relay.runtime.clock import Clock, monotonic_us
from relay.runtime.machine import MachineIds
from relay.runtime.metrics import Metrics

P = ParamSpec("P")
T = TypeVar("T")

_COMMIT_PAGES = 16
"""Pages that a commit writes besides bodies and changed rows: inner pages, page 1, the pointer map."""
_STATEMENTS: Mapping[type[c.Command], Callable[..., c.Result]] = {
    c.AddQueues: statements.add_queues,
    c.ClaimEvents: statements.claim,
    c.SettleEvents: statements.settle,
    c.ForgetQueues: statements.forget,
    c.DropEvents: statements.drop,
    c.DeleteSettled: statements.delete_settled,
    c.Shrink: statements.shrink,
    c.SaveClocks: statements.save_clocks,
    c.CorrectLedger: statements.correct_ledger,
    c.FindOlder: loading.last_older,
    c.ReadAppendTime: loading.read_at_ms,
    c.ReadDeadLetters: dead_letters.read,
    c.ChooseDeadLetters: dead_letters.choose,
    c.RequeueDeadLetters: dead_letters.requeue,
    c.DiscardDeadLetters: dead_letters.discard,
    c.AdoptEvents: quarantine.adopt,
    c.DiscardQuarantined: quarantine.discard,
    c.ForgetMachine: quarantine.forget_machine,
}


class SqliteStorage:
    """See relay.outbox.engine.storage.Storage."""

    def __init__(
        self,
        settings: OutboxSettings,
        clock: Clock,
        metrics: Metrics,
        *,
        mends: bool = True,
        ids: MachineIds | None = None,
    ) -> None:
        """`mends`: whether a broken file is quarantined and salvaged; otherwise `open` raises OutboxUnusable.

        `ids`: of this machine. If the outbox belongs to another machine, `open` quarantines its pending events. None:
        no check.
        """
        self.was_moved = False
        self.was_replaced = False
        self.is_verified = False
        self._suspect = False
        """Whether SQLITE_CORRUPT occurred, so that the next `open` checks every page."""
        self._condemned = ""
        """Why the next `open` quarantines the file without a check; "" otherwise."""
        self._settings = settings
        self._limits = space.limits_of(settings)
        self._is_resized = False
        """Whether the limits have changed since the file was opened."""
        self._mends = mends
        self._ids = ids
        self._clock = clock
        self._metrics = metrics
        self._lock: int | None = None
        self._thread: DatabaseThread | None = None
        self._pages = 0
        """Pages of the database as of the last commit."""
        self._vacuum_useless_at = 0
        """See `space_of`."""
        self._wal = Wal(files.beside(settings.path, "-wal"))
        self._is_used = False
        """Whether there was a commit since the file was opened."""
        self._reserves = True
        """Whether commits reserve space in the log; False after the disk was too full for it."""
        self._identities: tuple[files.Identity | None, files.Identity | None] = (None, None)

    @property
    def is_open(self) -> bool:
        return self._thread is not None

    @property
    def file_bytes(self) -> int:
        return self._pages * PAGE_BYTES + self._wal.file_bytes

    @property
    def is_untidy(self) -> bool:
        """Whether there are new limits, or the write-ahead log has half of its maximum size."""
        return self._is_resized or self._wal.waiting_bytes > self._limits.log_bytes // 2

    def configure(self, settings: OutboxSettings) -> SpaceLimits:
        self._settings, self._limits, self._is_resized = settings, space.limits_of(settings), True
        return self._limits

    cost_bytes = staticmethod(space.cost_bytes)

    def lock(self) -> None:
        if self._lock is None:
            self._lock = files.lock(self._settings.path)

    def unlock(self) -> None:
        if self._lock is not None:
            files.unlock(self._lock)
            self._lock = None

    async def open(self, may_forget: MayForget | None = None) -> Opened:
        """Open the file, and salvage it if it is broken."""
        recovery = Recovery(
            self._settings,
            self._limits.log_bytes,
            self._clock.boot_id,
            self._suspect,
            self._condemned,
            self._mends,
            self._ids and InstallationClaim(self._ids, self._clock.new_event_id(), self._settings.adopt),
            may_forget=may_forget,
        )
        with self._translated_errors():
            opening = DatabaseThread(partial(explained, recovery.settings.path, open_recovered, recovery))
            await opening.open()
            self._thread = opening
            self._is_resized = self._is_used = False
            self.was_replaced = recovery.set_aside is not None
            if self.was_replaced:
                self._metrics.outbox_set_aside.inc()
            self.was_moved |= recovery.was_moved
            self.is_verified = self._suspect or self.was_replaced
            self._suspect, self._condemned = False, ""
            self._identities = self._look()
            await self.run(lambda _: self._wal.grown())
            self._wal.copied_back()
            self._reserves = True
        assert recovery.opened is not None
        self._pages = (recovery.opened.space.used_bytes + recovery.opened.space.free_bytes) // PAGE_BYTES
        return recovery.opened

    async def close(self) -> None:
        """Close the file. An open transaction is rolled back."""
        closing_thread, self._thread = self._thread, None
        self._wal.close()
        if closing_thread is not None:
            with suppress(sqlite3.Error):
                await closing_thread.close()

    async def run(self, work: Callable[Concatenate[Database, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work(connection, ...)` on the thread of the connection, and return its result."""
        assert self._thread is not None
        path = self._settings.path
        return await self._thread.run(lambda database: explained(path, work, database, *args, **kwargs))

    async def commit(self, commands: Sequence[c.Command]) -> Committed:
        with self._translated_errors():
            await self._apply_limits()
            pages, appended_pages = space.written_pages(commands)
            steps = list(map(_step_of, commands))
            if self._is_used:  # the first commit stores the clocks, and a start must not reserve space
                await self._make_way(pages, appended_pages)
            self._is_used = True
            began_us = monotonic_us()
            executed = await self.run(connection.commit, steps)
            if executed.changed_rows:
                self._metrics.outbox_commits.inc()
                self._metrics.outbox_commit_duration_seconds.observe((monotonic_us() - began_us) / 1_000_000)
            # On the event loop: each read releases the interpreter lock, and the thread waits long for it.
            self._metrics.outbox_written_bytes.inc(self._wal.grown() * FRAME_BYTES)
        if executed.pages == self._pages and c.Shrink in map(type, commands):
            self._vacuum_useless_at = executed.pages
        self._pages = executed.pages
        return Committed(executed.results, space.space_of(executed.pages, executed.free_pages, self._vacuum_useless_at))

    async def read_log(self, after_seq: int, to_seq: int) -> LogChunk | None:
        with self._translated_errors():
            return await self.run(loading.read_chunk, after_seq, to_seq)

    def distrust(self, missing: int, orphans: int) -> OutboxError:
        if orphans:
            self._condemned = f"{orphans} rows of the log belong to no device"
        return self._translated(loading.Broken(f"{missing} events are missing from the log"))

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        """Raise the errors of the disk as OutboxError."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise self._translated(error) from error

    def _translated(self, error: sqlite3.Error | OSError) -> OutboxError:
        if not is_broken(error):
            return failure_of(error)
        self._suspect = True
        return failure_of(error) if self._mends else broken(self._settings.path, str(error))

    async def _apply_limits(self) -> None:
        if self._is_resized:
            self._is_resized = False
            await self.run(connection.limit, self._settings.max_size_bytes, self._limits.log_bytes)

    async def tidy(self) -> None:
        """Apply new limits, and checkpoint if the write-ahead log has half of its maximum size."""
        with self._translated_errors():
            await self._apply_limits()
            if self.is_untidy:
                await self.run(self._copy_back)

    async def _make_way(self, pages: int | None, appended_pages: int) -> None:
        """Make space in the log for a commit of at most `pages` pages.

        A checkpoint costs three syncs, so there is none while the log has space. Half of the log is enough for any
        commit, because queues share pages. If its events need more, the log restarts before them. With durability
        "full" the file is extended for the commit, see `wal`.
        """
        wal_bytes = self._limits.log_bytes
        new_bytes = wal_bytes // 2
        if pages is not None:
            new_bytes = min((pages + _COMMIT_PAGES) * FRAME_BYTES, new_bytes)
        is_large = appended_pages * FRAME_BYTES > wal_bytes // 2
        if self._wal.waiting_bytes > (0 if is_large else wal_bytes - HEADER_BYTES - new_bytes):
            await self.run(self._copy_back)
        if self._reserves and self._settings.durability == "full":
            await self._reserve((appended_pages + _COMMIT_PAGES) * FRAME_BYTES if is_large else new_bytes)

    async def _reserve(self, new_bytes: int) -> None:
        """Extend the log's file for a commit of `new_bytes`. Raise OSError if the disk fails."""
        need_bytes = HEADER_BYTES + self._wal.waiting_bytes + new_bytes
        if need_bytes <= self._wal.file_bytes:
            return
        try:
            reserved_bytes = await self.run(lambda _: self._wal.reserve(need_bytes, self._limits.log_bytes))
            self._metrics.outbox_written_bytes.inc(reserved_bytes)
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            self._reserves = False  # the commit may need less space, and fails if it needs more

    def _copy_back(self, database: sqlite3.Connection) -> None:
        self._metrics.outbox_written_bytes.inc(self._wal.distinct_pages() * PAGE_BYTES)
        connection.checkpoint(database)
        self._wal.copied_back()

    def find_fault(self) -> FileFault | None:
        path = self._settings.path
        try:
            database, wal = self._look()
            here, wal_here = self._identities
            if (database, wal) == (here, wal_here):
                read_only = os.statvfs(path).f_flag & os.ST_RDONLY
                what = f"{path} is on a file system that became read-only: check the disk"
                return FileFault(what, False) if read_only else None
        except OSError as error:
            return FileFault(f"{error.filename} cannot be read ({error.strerror}): check the disk", False)
        if database is None or (database == here and wal is None and wal_here is not None):
            return FileFault(f"{path} or its -wal was deleted: the relay writes it again", True)
        what = f"{path} was replaced by another file: stop the relay, then put the original file back"
        return FileFault(what, False)

    async def recreate(self) -> None:
        path = self._settings.path
        with self._translated_errors():
            if files.identity(path) is None:
                fresh = files.beside(path, ".rescued")
                await self.run(_copy_to, fresh)
                files.rename(fresh, path)
            else:
                await self.run(connection.checkpoint)

    def _look(self) -> tuple[files.Identity | None, files.Identity | None]:
        path = self._settings.path
        return files.identity(path), files.identity(files.beside(path, "-wal"))


def _step_of(command: c.Command) -> Step:
    if isinstance(command, c.InsertEvents):
        return insertion(command)
    return partial(_STATEMENTS[type(command)], command=command)


def _copy_to(database: sqlite3.Connection, path: Path) -> None:
    files.remove(path)
    files.create(path)
    with closing(sqlite3.connect(path)) as copy:
        database.backup(copy)
