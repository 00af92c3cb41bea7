"""Coalesce the appends of one turn of the event loop into one call.

An append costs a future, a callback and bookkeeping in the outbox, together as much as reading a small event. The
coalescer pays for one append per turn.

Rules:
1.  Callers do not affect each other. If the outbox has no room for all events, each caller's events are appended
    separately. An exception in one callback is reported to the event loop and affects no other callback.
2.  Events are appended in the order of arrival, at the latest at the end of the turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from relay.event.reader import Event
from relay.outbox import AppendResult, Outbox, OutboxError, OutboxFull
from relay.runtime.event_feed import EventFeed

T = TypeVar("T")

OnAppended = Callable[[AppendResult | BaseException], None]
"""Called once, with the result when the events are stored, else with the error."""
_PendingAppends = list[tuple[list[Event], OnAppended]]

_MAX_EVENTS = 1_000
"""Events that are appended before the end of the turn."""


class AppendCoalescer:
    """Coalesces the appends of single requests to an outbox."""

    def __init__(
        self,
        outbox: Outbox,
        on_received: Callable[[int], None],
        on_stored: Callable[[int, int], None],
        feed: EventFeed,
    ) -> None:
        """Coalesce appends to `outbox`.

        `on_received` is called with the number of events of each append, `on_stored` with the number of stored events
        and the number of duplicates among them. Rejected events are reported to `feed`.
        """
        self._outbox = outbox
        self._on_received = on_received
        self._on_stored = on_stored
        self._feed = feed
        self._pending: _PendingAppends = []
        self._pending_events = 0

    def append(self, events: list[Event], appended: OnAppended) -> None:
        """Append events together with the other events of this turn."""
        if not self._pending:
            asyncio.get_running_loop().call_soon(self._append_pending)
        self._pending.append((events, appended))
        self._pending_events += len(events)
        if self._pending_events >= _MAX_EVENTS:
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

    def _all_appended(self, pending: _PendingAppends, count: int, outcome: asyncio.Future[AppendResult]) -> None:
        error = OutboxError("the append was cancelled") if outcome.cancelled() else outcome.exception()
        if isinstance(error, OutboxFull) and len(pending) > 1:
            for each in pending:
                self._append_all([each])
            return
        if error is None:
            self._on_stored(count, outcome.result().duplicates)
        else:
            report_rejected(self._feed, [event for events, _ in pending for event in events], error)
        for _, appended in pending:
            call_guarded(appended, error or outcome.result())


def report_rejected(feed: EventFeed, events: Sequence[Event], error: BaseException) -> None:
    """Report events that the outbox did not store."""
    if feed.is_followed:
        reason = error.reason if isinstance(error, OutboxError) else OutboxError.reason
        feed.changed("rejected", [event.body for event in events], reason, str(error))


def call_guarded(callback: Callable[[T], None], argument: T) -> None:
    """Call a callback. Report an exception to the event loop, so that the caller can continue with other callbacks."""
    try:
        callback(argument)
    except Exception as bug:
        report_bug("a reply failed", bug)


def report_bug(message: str, bug: Exception) -> None:
    """Report an exception to the event loop's exception handler."""
    asyncio.get_running_loop().call_exception_handler({"message": message, "exception": bug})
