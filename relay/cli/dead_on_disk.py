"""The dead letters of an outbox that no relay holds: this process takes its lock for the time being.

A broken file is left as it is: to set it aside is the relay's decision, and its log's to tell.
Imports the whole outbox, so it is imported only when no relay answers.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import structlog

from relay.cli import exits
from relay.cli.common import is_config_named
from relay.cli.dead_letters import PAGE, Filter, Letter, Page
from relay.clock import SystemClock
from relay.config import OutboxSettings
from relay.metrics import Metrics
from relay.ops.dead_letters import MAX_ID, Query, found, shown
from relay.outbox import Outbox, OutboxError, OutboxLocked, Selection
from relay.outbox.sqlite import SqliteOutbox, files
from relay.outbox.sqlite.recovery import broken, is_broken
from relay.tasks import Tasks

T = TypeVar("T")


class DeadLettersOnDisk:
    """Those of an open outbox; `runner` is the loop that the outbox lives on."""

    def __init__(self, path: Path, outbox: Outbox, runner: asyncio.Runner) -> None:
        self._path = path
        self._outbox = outbox
        self._runner = runner

    def page(self, chosen: Filter, after: int, *, with_bodies: bool) -> Page:
        selection = Selection((), chosen.device, chosen.reason, chosen.device is None and chosen.reason is None)
        query = Query(selection, chosen.search or "", PAGE, after, with_bodies)
        letters, next_after = self._run(found(self._outbox, query))
        return Page([shown(letter, with_body=with_bodies) for letter in letters], next_after)

    def find(self, letter_id: int) -> Letter | None:
        if not 1 <= letter_id <= MAX_ID:
            return None
        letters = self._run(self._outbox.dead_letters(Selection(ids=(letter_id,)), 1))
        return shown(letters[0]) if letters else None

    def requeue(self, ids: Sequence[int]) -> int:
        return self._run(self._outbox.requeue(Selection(ids=ids), len(ids)))

    def discard(self, ids: Sequence[int]) -> int:
        return self._run(self._outbox.discard(Selection(ids=ids), len(ids)))

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            return self._runner.run(work)
        except OutboxError as error:
            raise _failed(self._path, error) from error


@contextmanager
def open_on_disk(settings: OutboxSettings) -> Iterator[DeadLettersOnDisk]:
    """The outbox, open for the time of the block. Raises Failed (75 if somebody else holds it)."""
    if not _is_there(settings.path):
        what_to_do = (
            "set outbox.path, or STATE_DIRECTORY as systemd does for its unit"
            if is_config_named()
            else "name the relay's configuration with --config"
        )
        raise exits.Failed(f"no relay answers, and there is no outbox at {settings.path}: {what_to_do}")
    with _unlogged(), asyncio.Runner() as runner:
        outbox, tasks = runner.run(_open(settings))
        try:
            yield DeadLettersOnDisk(settings.path, outbox, runner)
        finally:
            runner.run(_close(outbox, tasks))


def _is_there(path: Path) -> bool:
    """Raises Failed if this user is not told."""
    try:
        return files.identity(path) is not None
    except OSError as error:
        raise _closed_to_us(path, error) from error


async def _open(settings: OutboxSettings) -> tuple[Outbox, Tasks]:
    tasks = Tasks()
    outbox = SqliteOutbox(settings, SystemClock(), Metrics(), tasks, mends=False)
    try:
        await outbox.open()
        loading = tasks.start("load", outbox.load(lambda lane, key, events, body_bytes: None))
        # answered after the load; where the disk fails, the load waits for it to heal, and this does not
        await outbox.dead_letters(Selection(ids=(1,)), 1)
        await loading
    except OutboxError as error:
        await _close(outbox, tasks)
        raise _failed(settings.path, error) from error
    return outbox, tasks


async def _close(outbox: Outbox, tasks: Tasks) -> None:
    await outbox.close()
    await tasks.cancel_all()


def _failed(path: Path, error: OutboxError) -> exits.Failed:
    """Why an outbox cannot be opened, or used."""
    if isinstance(error, OutboxLocked):
        return exits.Failed(f"no relay answers where the configuration says, but {error}", exits.OUTBOX_LOCKED)
    cause = error.__cause__
    if isinstance(cause, PermissionError):
        return _closed_to_us(path, cause)
    if cause is not None and is_broken(cause):
        return exits.Failed(str(broken(path, str(cause))))
    return exits.Failed(str(error))


def _closed_to_us(path: Path, error: OSError) -> exits.Failed:
    what_to_do = (
        "run this as root, or as the user of the relay" if isinstance(error, PermissionError) else "check outbox.path"
    )
    return exits.Failed(f"{path}: {error.strerror}: {error.filename}: {what_to_do}")


@contextmanager
def _unlogged() -> Iterator[None]:
    """What an outbox logs is for a relay's log; here errors are told, and standard output is the answer."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        yield
    finally:
        structlog.configure(**before)
