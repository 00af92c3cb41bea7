"""The dead letters of an outbox that no relay holds: this process takes its lock for the time being.

Imports the whole outbox, so it is imported only when no relay answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from relay.cli import exits
from relay.cli.common import is_config_named
from relay.cli.dead_letters import PAGE, Filter, Letter, Page
from relay.clock import SystemClock
from relay.config import OutboxSettings
from relay.metrics import Metrics
from relay.ops.dead_letters import MAX_ID, Query, found, shown
from relay.outbox import Outbox, OutboxError, OutboxLocked, Selection
from relay.outbox.sqlite import SqliteOutbox
from relay.tasks import Tasks

T = TypeVar("T")


class DeadLettersOnDisk:
    """Those of an open outbox; `runner` is the loop that the outbox lives on."""

    def __init__(self, outbox: Outbox, runner: asyncio.Runner) -> None:
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
            raise exits.Failed(str(error)) from error


@contextmanager
def open_on_disk(settings: OutboxSettings) -> Iterator[DeadLettersOnDisk]:
    """The outbox, open for the time of the block. Raises Failed (75 if a relay holds it)."""
    _require(settings.path)
    with asyncio.Runner() as runner:
        outbox, tasks = runner.run(_open(settings))
        try:
            yield DeadLettersOnDisk(outbox, runner)
        finally:
            runner.run(_close(outbox, tasks))


def _require(path: Path) -> None:
    """Raises Failed if no file is there: opening would make one."""
    try:
        path.stat()
    except PermissionError as error:
        raise exits.Failed(
            f"no relay answers, and this user may not read the outbox at {path}: "
            "run this as root, or as the relay's user"
        ) from error
    except OSError as error:
        what_to_do = (
            "set outbox.path, or STATE_DIRECTORY as systemd does for its unit"
            if is_config_named()
            else "name the relay's configuration with --config"
        )
        raise exits.Failed(f"no relay answers, and there is no outbox at {path}: {what_to_do}") from error


async def _open(settings: OutboxSettings) -> tuple[Outbox, Tasks]:
    tasks = Tasks()
    outbox = SqliteOutbox(settings, SystemClock(), Metrics(), tasks)
    try:
        await outbox.open()
        await outbox.load(lambda lane, key, events, body_bytes: None)
    except OutboxLocked as error:
        raise exits.Failed(
            f"a relay holds {settings.path}, but does not answer where the configuration says: {error}",
            exits.OUTBOX_LOCKED,
        ) from error
    except OutboxError as error:
        raise exits.Failed(str(error)) from error
    return outbox, tasks


async def _close(outbox: Outbox, tasks: Tasks) -> None:
    await outbox.close()
    await tasks.cancel_all()
