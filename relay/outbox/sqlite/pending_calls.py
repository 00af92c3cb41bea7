"""The calls that wait for the next commit, and what that commit makes of them.

Owns what may wait in memory, and the order of a commit's work: room is made first, by deleting what
is done, or what is pending if the operator said so; then events, then the other calls. Rule: nothing
here changes before the commit has returned; a call that cannot be planned beside the others waits on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from relay.config import OutboxSettings
from relay.outbox import OutboxError, OutboxFull
from relay.outbox.sqlite import operations
from relay.outbox.sqlite.commit_plan import Append, Draft, Op
from relay.outbox.sqlite.disk_errors import failure_of
from relay.outbox.sqlite.outbox_state import OutboxState
from relay.runtime.clock import Clock
from relay.runtime.metrics import Metrics


class PendingCalls:
    """What has gathered since the last commit was begun."""

    def __init__(self, clock: Clock, metrics: Metrics) -> None:
        self.appends: deque[Append] = deque()
        self.ops: deque[Op[Any]] = deque()
        self.body_bytes = 0
        """Of appends that wait or are being committed."""
        self.memory_bytes = 0
        """What they take of the memory, and"""
        self.cost_bytes = 0
        """may take of the file, see Append."""
        self.callers = 0
        """Who wait for appends that wait."""
        self._clock = clock
        self._metrics = metrics
        self._ops_first = False
        """Whether the next commit takes no appends."""

    @property
    def calls(self) -> int:
        """How many wait."""
        return len(self.appends) + len(self.ops)

    @property
    def is_pressing(self) -> bool:
        """Whether somebody waits for one of them."""
        return self.callers > 0 or any(not op.patient for op in self.ops)

    def add(self, append: Append) -> None:
        self.appends.append(append)
        self.callers += append.callers
        self.body_bytes += append.body_bytes
        self.memory_bytes += append.memory_bytes
        self.cost_bytes += append.cost_bytes

    def done(self, append: Append) -> None:
        """It is committed, or refused."""
        self.body_bytes -= append.body_bytes
        self.memory_bytes -= append.memory_bytes
        self.cost_bytes -= append.cost_bytes

    def fail(self, failure: OutboxError) -> None:
        """Tell everybody who waits."""
        while self.appends:
            self._refuse(self._pop(), failure)
        while self.ops:
            op = self.ops.popleft()
            if not op.answer.done():
                op.answer.set_exception(failure)

    def draft(self, state: OutboxState, settings: OutboxSettings) -> Draft:
        """What the next commit does with what has gathered. Whoever is in it is told if it cannot even be planned."""
        draft = Draft(state, self._clock)
        appends = [] if self._ops_first else self._next_appends(state.limits.commit_bytes)
        try:
            self._plan(draft, appends, settings)
        except Exception as error:
            failure = failure_of(error)
            for append in appends:
                self._refuse(append, failure)
            draft.fail(failure)
            raise
        # an op cannot be planned beside a drop from its lane: with a drop in each commit it would wait for ever
        self._ops_first = bool(self.ops) and any(isinstance(op, operations.Drop) for op in draft.ops)
        return draft

    def _plan(self, draft: Draft, appends: list[Append], settings: OutboxSettings) -> None:
        rejection = self._make_room(draft, appends, settings)
        if rejection is not None:
            while appends:
                self._refuse(appends.pop(0), rejection)
        draft.append(appends)
        while draft.state.loaded and self.ops and self.ops[0].plan(draft):
            self.ops.popleft()

    def _refuse(self, append: Append, failure: OutboxError) -> None:
        self.done(append)
        if not append.answer.done():
            append.answer.set_exception(failure)

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

    def _make_room(self, draft: Draft, appends: Sequence[Append], settings: OutboxSettings) -> OutboxFull | None:
        """Plan what has to go: done rows when there are enough, pending ones when the operator said so."""
        state = draft.state
        cost_bytes = sum([each.cost_bytes for each in appends])
        missing_bytes = cost_bytes - state.room_bytes()
        if appends and settings.when_full == "drop_oldest" and missing_bytes > 0:
            # a limit that was lowered is reached step by step
            missing_bytes = min(missing_bytes, cost_bytes + state.limits.commit_bytes)
            last = state.index.oldest_droppable(missing_bytes) if state.loaded else None
            if last is None:
                return OutboxFull("the outbox is full, and nothing in it can be dropped now")
            operations.Drop("size", state.first_row, last, self._metrics).plan(draft)
        # without appends too: what is delivered makes room for those that are refused meanwhile
        elif (stretch := state.reclaimable(sum([each.body_bytes for each in appends]))) is not None:
            operations.Reclaim(stretch).plan(draft)
        return None


def cleanup(state: OutboxState, clock: Clock) -> Draft | None:
    """What is worth doing when nothing else is."""
    wanted: Op[None] | None = None
    if (stretch := state.reclaimable(None)) is not None:
        wanted = operations.Reclaim(stretch)
    elif state.loaded and state.wasteful:
        wanted = operations.Vacuum()
    if wanted is None:
        return None
    draft = Draft(state, clock)
    wanted.plan(draft)
    return draft
