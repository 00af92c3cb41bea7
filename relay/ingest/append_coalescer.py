"""What many connections bring in one turn of the event loop, read together and appended in one call.

An append of its own costs a future, a callback and a share of the outbox's bookkeeping, together as much as
reading a small event; read by itself, that costs twice what it costs among others. Apps that send single events pay
the former once per turn instead, and the latter half.

Rules:
1.  Nobody suffers for another: if the outbox has no room for all, each is appended by itself, and a bug in what one
    is told is told to the loop and to nobody else.
2.  The order of arrival is kept, and nothing waits longer than until the turn's end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from relay.event.columns import SLICE_BYTES, SLICE_EVENTS
from relay.event.reader import Event
from relay.http.head_cache import Reply
from relay.outbox import Outbox, OutboxError, OutboxFull

T = TypeVar("T")

OnAppended = Callable[[BaseException | None], None]
"""Called once: None when the events are kept, else why not."""
UnreadBodies = list[tuple[bytes, Reply]]
"""Bodies, and who waits for an answer to each."""
_PendingAppends = list[tuple[list[Event], OnAppended]]

_MAX_EVENTS = 1_000
"""So many are appended at once, and the next ones of the same turn after them."""


class AppendCoalescer:
    """Stands before an outbox's `append`, and before what reads bodies to append them."""

    def __init__(
        self,
        outbox: Outbox,
        on_received: Callable[[int], None],
        on_stored: Callable[[int, int], None],
        read: Callable[[UnreadBodies], None],
        measured: Callable[[Callable[[], None]], Callable[[], None]] = lambda step: step,
    ) -> None:
        """`came` is told how many events are to be appended, `kept` how many were kept and were duplicates of those.

        `read` appends what the bodies hold, or answers, and raises nothing. `measured` is applied to what a turn of the
        event loop calls.
        """
        self._outbox = outbox
        self._on_received = on_received
        self._on_stored = on_stored
        self._read = read
        self._measured_end_turn = measured(self._end_turn)
        self._unread: UnreadBodies = []
        """Came after what waits to be appended."""
        self._unread_bytes = 0
        self._pending: _PendingAppends = []
        self._pending_events = 0
        self._is_scheduled = False
        """Whether we are called at its end."""

    def read(self, body: bytes, reply: Reply) -> None:
        """Have it read with what else comes in this turn, up to a slice of it."""
        if not self._is_scheduled:
            self._schedule_end_of_turn()
        self._unread.append((body, reply))
        self._unread_bytes += len(body)
        if len(self._unread) >= SLICE_EVENTS or self._unread_bytes >= SLICE_BYTES:
            self.read_now()

    def read_now(self) -> None:
        """Have read what waits for it; to be called before events are appended that came later."""
        if self._unread:
            unread = self._unread
            self._unread, self._unread_bytes = [], 0
            self._read(unread)

    def append(self, events: list[Event], appended: OnAppended) -> None:
        if not self._is_scheduled:
            self._schedule_end_of_turn()
        self._pending.append((events, appended))
        self._pending_events += len(events)
        if self._pending_events >= _MAX_EVENTS:
            self._append_pending()

    def _schedule_end_of_turn(self) -> None:
        self._is_scheduled = True
        asyncio.get_running_loop().call_soon(self._measured_end_turn)

    def _end_turn(self) -> None:
        # what is answered below may bring the next request at once: that one is of the next turn
        self._is_scheduled = False
        self.read_now()
        self._append_pending()

    def _append_pending(self) -> None:
        pending, events = self._pending, self._pending_events
        self._pending, self._pending_events = [], 0
        if pending:
            self._on_received(events)
            self._append_all(pending)

    def _append_all(self, pending: _PendingAppends) -> None:
        events = pending[0][0] if len(pending) == 1 else [event for each, _ in pending for event in each]
        self._outbox.append(events, callers=len(pending)).add_done_callback(
            partial(self._all_appended, pending, len(events))
        )

    def _all_appended(self, pending: _PendingAppends, count: int, outcome: asyncio.Future[int]) -> None:
        error = OutboxError("the append was abandoned") if outcome.cancelled() else outcome.exception()
        if isinstance(error, OutboxFull) and len(pending) > 1:
            for each in pending:
                self._append_all([each])
            return
        if error is None:
            self._on_stored(count, outcome.result())
        for _, appended in pending:
            call_guarded(appended, error)


def call_guarded(callback: Callable[[T], None], argument: T) -> None:
    """A bug in it is the loop's to report_bug, and does not end what else there is to do."""
    try:
        callback(argument)
    except Exception as bug:
        report_bug("an answer failed", bug)


def report_bug(message: str, bug: Exception) -> None:
    asyncio.get_running_loop().call_exception_handler({"message": message, "exception": bug})
