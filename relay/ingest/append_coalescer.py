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

Appended = Callable[[BaseException | None], None]
"""Called once: None when the events are kept, else why not."""
Unread = list[tuple[bytes, Reply]]
"""Bodies, and who waits for an answer to each."""
_Waiting = list[tuple[list[Event], Appended]]

_MAX_EVENTS = 1_000
"""So many are appended at once, and the next ones of the same turn after them."""


class Gather:
    """Stands before an outbox's `append`, and before what reads bodies to append them."""

    def __init__(
        self,
        outbox: Outbox,
        came: Callable[[int], None],
        kept: Callable[[int, int], None],
        read: Callable[[Unread], None],
        measured: Callable[[Callable[[], None]], Callable[[], None]] = lambda step: step,
    ) -> None:
        """`came` is told how many events are to be appended, `kept` how many were kept and were duplicates of those.

        `read` appends what the bodies hold, or answers, and raises nothing. `measured` is applied to what a turn of the
        event loop calls.
        """
        self._outbox = outbox
        self._came = came
        self._kept = kept
        self._read = read
        self._measured_end_turn = measured(self._end_turn)
        self._unread: Unread = []
        """Came after what waits to be appended."""
        self._unread_bytes = 0
        self._waiting: _Waiting = []
        self._events = 0
        self._turn_is_seen = False
        """Whether we are called at its end."""

    def read(self, body: bytes, reply: Reply) -> None:
        """Have it read with what else comes in this turn, up to a slice of it."""
        if not self._turn_is_seen:
            self._see_turn()
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

    def append(self, events: list[Event], appended: Appended) -> None:
        if not self._turn_is_seen:
            self._see_turn()
        self._waiting.append((events, appended))
        self._events += len(events)
        if self._events >= _MAX_EVENTS:
            self._append_waiting()

    def _see_turn(self) -> None:
        self._turn_is_seen = True
        asyncio.get_running_loop().call_soon(self._measured_end_turn)

    def _end_turn(self) -> None:
        # what is answered below may bring the next request at once: that one is of the next turn
        self._turn_is_seen = False
        self.read_now()
        self._append_waiting()

    def _append_waiting(self) -> None:
        waiting, events = self._waiting, self._events
        self._waiting, self._events = [], 0
        if waiting:
            self._came(events)
            self._append_all(waiting)

    def _append_all(self, waiting: _Waiting) -> None:
        events = waiting[0][0] if len(waiting) == 1 else [event for each, _ in waiting for event in each]
        self._outbox.append(events, callers=len(waiting)).add_done_callback(
            partial(self._all_appended, waiting, len(events))
        )

    def _all_appended(self, waiting: _Waiting, count: int, outcome: asyncio.Future[int]) -> None:
        error = OutboxError("the append was abandoned") if outcome.cancelled() else outcome.exception()
        if isinstance(error, OutboxFull) and len(waiting) > 1:
            for each in waiting:
                self._append_all([each])
            return
        if error is None:
            self._kept(count, outcome.result())
        for _, appended in waiting:
            tell(appended, error)


def tell(told: Callable[[T], None], what: T) -> None:
    """A bug in it is the loop's to report, and does not end what else there is to do."""
    try:
        told(what)
    except Exception as bug:
        report("an answer failed", bug)


def report(message: str, bug: Exception) -> None:
    asyncio.get_running_loop().call_exception_handler({"message": message, "exception": bug})
