"""Start tasks with a name and a reference, and report their failures.

The linter bans `asyncio.create_task` in other modules. If a task fails, the service stops and logs the task's name.
Cancellation does not count as a failure.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class TaskFailed(Exception):
    """A task of the service failed. The message contains the task's name; the cause is chained."""


class Tasks:
    """The running tasks. `failure` resolves with the first failure."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self.failure: asyncio.Future[TaskFailed] = asyncio.get_running_loop().create_future()

    def start(self, name: str, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work, name=name)  # noqa: TID251 - this is the helper
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def cancel_all(self) -> None:
        """Cancel all running tasks and wait for them to end."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None and not self.failure.done():
            failure = TaskFailed(f"{task.get_name()} failed: {type(error).__name__}: {error}")
            failure.__cause__ = error
            self.failure.set_result(failure)
