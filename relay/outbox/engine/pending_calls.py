"""The calls that wait for the next commit, and the plan of that commit.

A commit first makes space: it deletes settled rows, or pending events if `when_full` is
"drop_oldest". Then it appends events, then it executes the other calls. Rules: the state in memory
does not change before the commit has returned. A call that cannot be planned together with the
calls before it waits for the next commit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from relay.outbox import OutboxError, OutboxFull
from relay.outbox.engine import operations
from relay.outbox.engine.commit_plan import Append, Draft, Op
from relay.outbox.engine.outbox_state import OutboxState
from relay.outbox.engine.storage import Committed, failure_of
from relay.runtime.metrics import Metrics


class PendingCalls:
    """Calls since the last commit began."""

    def __init__(self, metrics: Metrics) -> None:
        self.appends: deque[Append] = deque()
        self.ops: deque[Op[Any]] = deque()
        self.body_bytes = 0
        """Sum over appends that wait or are being committed."""
        self.memory_bytes = 0
        """Sum over the same appends, see Append."""
        self.cost_bytes = 0
        """Sum over the same appends, see Append."""
        self.callers = 0
        """Number of callers of the waiting appends."""
        self._metrics = metrics
        self._ops_first = False
        """Whether the next commit contains no appends."""

    @property
    def calls(self) -> int:
        """The number of waiting calls."""
        return len(self.appends) + len(self.ops)

    @property
    def is_pressing(self) -> bool:
        """Whether a caller waits for the result of one of the calls."""
        return self.callers > 0 or any(not op.patient for op in self.ops)

    def add(self, append: Append) -> None:
        self.appends.append(append)
        self.callers += append.callers
        self.body_bytes += append.body_bytes
        self.memory_bytes += append.memory_bytes
        self.cost_bytes += append.cost_bytes

    def apply(self, draft: Draft, committed: Committed) -> None:
        """Apply a commit, and report the events that it stored."""
        draft.apply(committed)
        self._metrics.feed.changed("stored", draft.stored())

    def done(self, append: Append) -> None:
        """Remove an append from the sums after it was committed or rejected."""
        self.body_bytes -= append.body_bytes
        self.memory_bytes -= append.memory_bytes
        self.cost_bytes -= append.cost_bytes

    def fail(self, failure: OutboxError) -> None:
        """Fail every waiting call."""
        while self.appends:
            self._reject(self._pop(), failure)
        while self.ops:
            self.ops.popleft().reject(failure)

    def draft(self, state: OutboxState) -> Draft:
        """Plan the next commit. If planning raises, the planned calls fail."""
        draft = Draft(state)
        appends = [] if self._ops_first else self._next_appends(state.limits.space.commit_bytes)
        try:
            self._plan(draft, appends)
        except Exception as error:
            failure = failure_of(error)
            for append in appends:
                self._reject(append, failure)
            draft.fail(failure)
            raise
        # A call cannot be planned beside a drop from its queue. With a drop in each commit it would never be executed.
        self._ops_first = bool(self.ops) and any(isinstance(op, operations.Drop) for op in draft.ops)
        return draft

    def correction(self, state: OutboxState, missing: int) -> Draft:
        """Plan a commit that balances the ledger with the log."""
        draft = Draft(state)
        operations.correct(missing, self._metrics).plan(draft)
        return draft

    def _plan(self, draft: Draft, appends: list[Append]) -> None:
        for at, error in reversed(draft.state.beyond_max_devices([each.events for each in appends]).items()):
            self._reject(appends.pop(at), error)
        rejection = self._make_room(draft, appends)
        if rejection is not None:
            while appends:
                self._reject(appends.pop(0), rejection)
        draft.append(appends)
        while draft.state.is_loaded and self.ops and self.ops[0].plan(draft):
            self.ops.popleft()

    def _reject(self, append: Append, failure: OutboxError) -> None:
        self.done(append)
        if not append.result.done():
            append.result.set_exception(failure)

    def _pop(self) -> Append:
        append = self.appends.popleft()
        self.callers -= append.callers
        return append

    def _next_appends(self, body_bytes: int) -> list[Append]:
        appends = []
        while self.appends and body_bytes > 0:
            append = self._pop()
            appends.append(append)
            body_bytes -= append.body_bytes
        return appends

    def _make_room(self, draft: Draft, appends: Sequence[Append]) -> OutboxFull | None:
        """Plan deletions: of settled rows if there are enough, of pending events if `when_full` is
        "drop_oldest".

        Return the error for the appends if they cannot be stored.
        """
        state = draft.state
        cost_bytes = sum([each.cost_bytes for each in appends])
        missing_bytes = cost_bytes - state.room_bytes()
        if appends and state.limits.settings.when_full == "drop_oldest" and missing_bytes > 0:
            # After a limit was lowered, each commit frees a limited amount.
            missing_bytes = min(missing_bytes, cost_bytes + state.limits.space.commit_bytes)
            last = state.index.oldest_droppable(missing_bytes) if state.is_loaded else None
            if last is None:
                return OutboxFull(
                    "the outbox is full, and every event in it is in flight or quarantined: append again later"
                )
            operations.Drop("size", state.log.first_row, last, self._metrics).plan(draft)
        # Also without appends, because the relay rejects appends until delivered rows are deleted.
        elif (seq_range := state.deletable(sum([each.body_bytes for each in appends]))) is not None:
            operations.Delete(seq_range).plan(draft)
        return None


def cleanup(state: OutboxState) -> Draft | None:
    """Plan a commit that only deletes settled rows or returns free space; None if there is nothing to do."""
    wanted: Op[None] | None = None
    if (seq_range := state.deletable(None)) is not None:
        wanted = operations.Delete(seq_range)
    elif state.is_loaded and state.space.can_shrink:
        wanted = operations.shrink(state)
    if wanted is None:
        return None
    draft = Draft(state)
    wanted.plan(draft)
    return draft
