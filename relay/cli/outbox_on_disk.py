"""Access to an outbox that no relay holds. The command holds the outbox's lock meanwhile.

A broken database file is not changed, because only the relay quarantines files.
This module imports the whole outbox. It is therefore imported only if no relay responds.
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
from relay.config import OutboxSettings
from relay.outbox import Backlog, Outbox, OutboxError, OutboxLocked, RestoredState, Selection
from relay.outbox.factory import create_outbox, exists
from relay.runtime.clock import SystemClock
from relay.runtime.metrics import Metrics
from relay.runtime.tasks import Tasks

T = TypeVar("T")


class OutboxOnDisk:
    """An open outbox. `run` runs one of its calls to the end."""

    def __init__(self, path: Path, outbox: Outbox, runner: asyncio.Runner) -> None:
        self.outbox = outbox
        self._path = path
        self._runner = runner

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Return what `work` returns. Raises CommandFailed if the outbox fails."""
        try:
            return self._runner.run(work)
        except OutboxError as error:
            raise _failed(self._path, error) from error


@contextmanager
def open_on_disk(settings: OutboxSettings) -> Iterator[OutboxOnDisk]:
    """Open the outbox for the duration of the block. Raises CommandFailed (75 if another process holds it)."""
    if not is_there(settings):
        what_to_do = (
            "set outbox.path, or STATE_DIRECTORY as systemd does for its unit"
            if is_config_named()
            else "name the relay's configuration with --config"
        )
        raise exits.CommandFailed(f"no relay responds, and {settings.path} does not exist: {what_to_do}")
    with _unlogged(), asyncio.Runner() as runner:
        outbox, tasks = runner.run(_open(settings))
        try:
            yield OutboxOnDisk(settings.path, outbox, runner)
        finally:
            runner.run(_close(outbox, tasks))


def is_there(settings: OutboxSettings) -> bool:
    """Return whether the outbox file exists. Raises CommandFailed if this user cannot look it up."""
    try:
        return exists(settings)
    except OSError as error:
        raise _inaccessible(settings.path, error) from error


class NoHolder:
    """A holder that sends nothing, see Holder."""

    def pending(self, backlogs: Sequence[Backlog]) -> None: ...

    def granted(self, restored: RestoredState) -> None: ...

    def owed(self, queue_id: int, requests: int) -> bytes:
        return b""


async def _open(settings: OutboxSettings) -> tuple[Outbox, Tasks]:
    tasks = Tasks()
    outbox = create_outbox(settings, SystemClock(), Metrics(), tasks, mends=False)
    try:
        await outbox.open()
        if settings.kind == "postgres":  # A load would claim device queues of the running relays.
            await outbox.dead_letters(Selection(), 1)
        else:
            loading = tasks.start("load", outbox.load(NoHolder()))
            # This call returns after the load, and raises if the disk fails. The load itself would wait for the disk.
            await outbox.dead_letters(Selection(ids=(1,)), 1)
            await loading
    except OutboxError as error:
        await _close(outbox, tasks)
        raise _failed(settings.path, error) from error
    return outbox, tasks


async def _close(outbox: Outbox, tasks: Tasks) -> None:
    await outbox.close()
    await tasks.cancel_all()


def _failed(path: Path, error: OutboxError) -> exits.CommandFailed:
    """Return the error for an outbox that cannot be opened or used."""
    if isinstance(error, OutboxLocked):
        return exits.CommandFailed(f"no relay responds at the configured address, but {error}", exits.OUTBOX_LOCKED)
    cause = error.__cause__
    if isinstance(cause, PermissionError):
        return _inaccessible(path, cause)
    return exits.CommandFailed(str(error))


def _inaccessible(path: Path, error: OSError) -> exits.CommandFailed:
    what_to_do = (
        "run this as root, or as the user of the relay" if isinstance(error, PermissionError) else "check outbox.path"
    )
    return exits.CommandFailed(f"{path}: {error.strerror}: {error.filename}: {what_to_do}")


@contextmanager
def _unlogged() -> Iterator[None]:
    """Suppress the outbox's log: commands report errors themselves, and standard output is their result."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        yield
    finally:
        structlog.configure(**before)
