"""The task that executes forward transactions, one at a time."""

from __future__ import annotations

from collections import deque
from typing import Any, TypeVar

from relay.outbox import OutboxLost, OutboxUnavailable
from relay.outbox.engine.commit_delay import Bell
from relay.outbox.postgres.database import Move, Moved, SharedDatabase
from relay.outbox.postgres.moves import MoveCall, MoveDraft
from relay.outbox.postgres.reconnect import Reconnect
from relay.outbox.postgres.state import ReplicaState
from relay.runtime.clock import Clock

T = TypeVar("T")

_MAX_CALLS = 64
"""Maximum number of calls in one transaction."""


class Forwarding:
    def __init__(self, database: SharedDatabase, state: ReplicaState, clock: Clock, reconnect: Reconnect) -> None:
        self._database = database
        self._state = state
        self._clock = clock
        self._reconnect = reconnect
        self._calls: deque[MoveCall[Any]] = deque()
        self._bell = Bell()
        self._number = 0
        self._requests = 0
        self._is_closing = False

    def __repr__(self) -> str:
        return f"<Forwarding: {len(self._calls)} calls wait after transaction {self._number}>"

    def next_request(self) -> int:
        """Return the number of a new request."""
        self._requests += 1
        return self._requests

    async def submit(self, call: MoveCall[T]) -> T:
        if self._is_closing:
            raise OutboxUnavailable("the outbox is closed")
        self.enqueue(call)
        return await call.result

    def enqueue(self, call: MoveCall[Any]) -> None:
        self._calls.append(call)
        self._bell.ring()

    def close(self) -> None:
        """Reject new calls. `run` executes the waiting ones, and ends."""
        self._is_closing = True
        self._bell.ring()

    async def run(self) -> None:
        try:
            while self._calls or not self._is_closing:
                if not self._calls:
                    await self._bell.wait(None)
                    continue
                await self._execute()
        finally:
            self._is_closing = True
            while self._calls:
                call = self._calls.popleft()
                if not call.result.done():
                    call.result.set_exception(OutboxUnavailable("the outbox is closed"))

    async def _execute(self) -> None:
        draft = MoveDraft(self._state, self._clock, self._number + 1)
        try:
            while self._calls and len(draft.calls) < _MAX_CALLS and draft.add(self._calls[0]):
                self._calls.popleft()
            moved = await self._committed(draft.move())
        except BaseException as error:
            draft.fail(error if isinstance(error, OutboxLost) else OutboxUnavailable("the outbox is closed"))
            raise
        draft.apply(moved)
        self._state.report()

    async def _committed(self, move: Move) -> Moved:
        """Execute a transaction, until its outcome is known and it was committed."""
        attempt = 0
        while True:
            try:
                if attempt and await self._database.last_move(self._state.replica) >= move.number:
                    # It was committed, but its results are lost: read the bodies again.
                    again = Move(move.number + 1, *move[1:5], (), (), (), (), move.reads, (), ())
                    moved = await self._database.move(self._state.replica, again)
                    self._number = again.number
                    return moved
                moved = await self._database.move(self._state.replica, move)
            except OutboxUnavailable as error:
                if isinstance(error, OutboxLost) or self._is_closing:
                    raise
                await self._reconnect.wait(attempt, error)
                attempt += 1
                continue
            self._number = move.number
            self._reconnect.succeeded()
            return moved
