"""The one way to start a task: named, referenced, and never dying unseen.

`asyncio.create_task` is banned elsewhere by the linter. A task that a Tasks started and that ends
with an exception stops the service with the task's name; cancellation is no failure.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class PartDied(Exception):
    """A part of the service ended with an error; the message names it, the cause is kept."""


class Tasks:
    """Starts tasks and holds them; `died` resolves with the first failure."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self.died: asyncio.Future[PartDied] = asyncio.get_running_loop().create_future()

    def start(self, name: str, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work, name=name)  # noqa: TID251 - this is the helper
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def cancel_all(self) -> None:
        """Cancel what still runs and wait for it to end."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None and not self.died.done():
            death = PartDied(f"{task.get_name()} died: {type(error).__name__}: {error}")
            death.__cause__ = error
            self.died.set_result(death)
