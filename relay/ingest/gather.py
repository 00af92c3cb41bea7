"""What many connections append in one turn of the event loop, appended in one call.

An append of its own costs a future, a callback and a share of the outbox's bookkeeping, together as much as
reading a small event. Apps that send single events pay that once per turn instead.

Rules:
1.  Nobody suffers for another: if the outbox has no room for all, each is appended by itself, and a bug in what one
    is told is told to the loop and to nobody else.
2.  The order of arrival is kept, and nothing waits longer than until the turn's end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from relay.event import Event
from relay.outbox import Outbox, OutboxError, OutboxFull

Appended = Callable[[BaseException | None], None]
"""Called once: None when the events are kept, else why not."""
_Waiting = list[tuple[list[Event], Appended]]

_MAX_EVENTS = 1_000
"""So many are appended at once, and the next ones of the same turn after them."""


class Gather:
    """Stands before an outbox's `append`."""

    def __init__(self, outbox: Outbox, came: Callable[[int], None], kept: Callable[[int, int], None]) -> None:
        """`came` is told how many events are to be appended, `kept` how many were kept and were duplicates of those."""
        self._outbox = outbox
        self._came = came
        self._kept = kept
        self._waiting: _Waiting = []
        self._events = 0

    def append(self, events: list[Event], appended: Appended) -> None:
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._append_waiting)
        self._waiting.append((events, appended))
        self._events += len(events)
        if self._events >= _MAX_EVENTS:
            self._append_waiting()

    def _append_waiting(self) -> None:
        waiting, events = self._waiting, self._events
        self._waiting, self._events = [], 0
        if waiting:
            self._came(events)
            self._append_all(waiting)

    def _append_all(self, waiting: _Waiting) -> None:
        events = waiting[0][0] if len(waiting) == 1 else [event for each, _ in waiting for event in each]
        self._outbox.append(events).add_done_callback(partial(self._all_appended, waiting, len(events)))

    def _all_appended(self, waiting: _Waiting, count: int, outcome: asyncio.Future[int]) -> None:
        error = OutboxError("the append was abandoned") if outcome.cancelled() else outcome.exception()
        if isinstance(error, OutboxFull) and len(waiting) > 1:
            for each in waiting:
                self._append_all([each])
            return
        if error is None:
            self._kept(count, outcome.result())
        for _, appended in waiting:
            try:
                appended(error)
            except Exception as bug:
                outcome.get_loop().call_exception_handler({"message": "an answer failed", "exception": bug})
