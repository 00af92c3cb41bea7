"""The task that watches the database: it discovers events, renews the lease, and exchanges queue groups.

It polls all commit rows of all replicas in one statement, soon after each own commit and else every tenth of a second.
Every second it beats: it publishes its own state, and learns the others'. It fences replicas whose beat does not
change, releases groups that belong to another replica, and claims free groups that belong to itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

import structlog

from relay.outbox import OutboxLost, OutboxUnavailable, RestoredState
from relay.outbox.engine.commit_delay import Bell
from relay.outbox.postgres.commits import in_order
from relay.outbox.postgres.database import Beat, CommitRow, EndedRequest, SharedDatabase, View, group_of
from relay.outbox.postgres.forwarding import Forwarding
from relay.outbox.postgres.lease import Lease, Observer, shares
from relay.outbox.postgres.moves import EndCall, RemoveCall
from relay.outbox.postgres.reconnect import Reconnect
from relay.outbox.postgres.state import ReplicaState
from relay.runtime.clock import Clock
from relay.runtime.metrics import Metrics

_POLL_S = 0.1
_MAX_BEAT_S = 1.0
_BEATS_IN_LEASE = 5
_POLL_ROWS = 50
_CLEAN_S = 10.0

_log = structlog.get_logger("relay.outbox")


class DatabaseWatch:
    def __init__(
        self,
        database: SharedDatabase,
        state: ReplicaState,
        clock: Clock,
        metrics: Metrics,
        reconnect: Reconnect,
        forwarding: Forwarding,
    ) -> None:
        self._database = database
        self._state = state
        self._clock = clock
        self._metrics = metrics
        self._reconnect = reconnect
        self._forwarding = forwarding
        self.lease = Lease(state.settings.lease_ms)
        self.observer = Observer(state.settings.lease_ms)
        self._bell = Bell()
        self._beats = 0
        self._is_beat_due = True
        self._is_poll_due = False
        self.granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Set after the first claim of queue groups."""

    def __repr__(self) -> str:
        return f"<DatabaseWatch: {self._beats} beats, {self.lease}>"

    def ring(self) -> None:
        """Poll at once, or after the present poll."""
        self._is_poll_due = True
        self._bell.ring()

    async def pace(self) -> None:
        """Make a beat due every second, or more often in a short lease. Never returns."""
        beat_s = min(_MAX_BEAT_S, self._state.settings.lease_ms / 1000 / _BEATS_IN_LEASE)
        while True:
            await asyncio.sleep(beat_s)
            self._is_beat_due = True
            self._bell.ring()

    async def run(self) -> None:
        """Poll and beat. Never returns."""
        attempt = 0
        while True:
            try:
                self._is_poll_due = False
                await self.poll()
                if self._is_beat_due and self._state.holder is not None:
                    self._is_beat_due = False
                    await self._beat()
                attempt = 0
                self._reconnect.succeeded()
            except OutboxLost:
                raise
            except OutboxUnavailable as error:
                self._is_beat_due = True
                await self._reconnect.wait(attempt, error)
                attempt += 1
                continue
            if not self._is_poll_due:
                await self._bell.wait(_POLL_S)

    async def clean(self) -> None:
        """Clean the database from time to time, if this replica holds the first queue group. Never returns."""
        state = self._state
        while True:
            await asyncio.sleep(_CLEAN_S)
            with suppress(OutboxUnavailable):  # `run` reports it.
                if 0 in state.groups:
                    await self._database.clean(state.settings.dedupe_window)
                before_id = state.commits.oldest_in_window()
                state.commits.prune(before_id, {*await self._database.kept_commits(before_id)})

    # -- discovery -----------------------------------------------------------------------------------

    async def poll(self) -> None:
        """Discover new commit rows, until no stream has more."""
        state = self._state
        while True:
            streams = await self._database.poll(state.commits.positions, _POLL_ROWS)
            rows = in_order(streams, _POLL_ROWS)
            unknown = self._unknown_queues(rows)
            state.discover(rows, await self._database.queues(unknown) if unknown else {})
            self._remove_duplicates()
            state.report()
            if not any(len(stream) >= _POLL_ROWS for stream in streams.values()):
                return

    def _unknown_queues(self, rows: Sequence[CommitRow]) -> list[int]:
        queues, groups = self._state.queues, self._state.groups
        found = {queue_id for row in rows for queue_id in row.queue_ids}
        return [queue_id for queue_id in found if queue_id not in queues and group_of(queue_id) in groups]

    def _remove_duplicates(self) -> None:
        state = self._state
        if state.duplicates:
            marks, state.duplicates = state.duplicates, []
            call = RemoveCall(marks, None, self._metrics)
            call.result.add_done_callback(lambda result: result.cancelled() or result.exception())
            self._forwarding.enqueue(call)

    # -- lease and groups ----------------------------------------------------------------------------

    async def _beat(self) -> None:
        state = self._state
        sent_at, letter_changes = self._clock.monotonic_ms(), state.letter_changes
        anchor = state.anchor() if 0 in state.groups or not state.view.holders else None
        view = await self._database.beat(
            state.replica, Beat(anchor, state.boot_from_ms, *state.held(), len(state.queues))
        )
        self.lease.renew(sent_at)
        state.see(view, letter_changes)
        self._beats += 1
        self._end_owed()
        await self._fence_silent(view)
        await self._exchange_groups(view)

    def _end_owed(self) -> None:
        """Free the rate slots of owed requests that are over."""
        state = self._state
        for queue_id, replica in state.take_ended() if state.holder is not None else ():
            assert state.holder is not None
            state.owed[queue_id] -= 1
            window = state.holder.owed(queue_id, state.owed[queue_id])
            call = EndCall(EndedRequest(queue_id, replica, window, self._clock.monotonic_ms()))
            call.result.add_done_callback(lambda result: result.cancelled() or result.exception())
            self._forwarding.enqueue(call)
            state.queues[queue_id].is_busy = True

    async def _fence_silent(self, view: View) -> None:
        me = self._state.replica
        beats = {other.replica: other.beat for other in view.replicas if other.replica != me}
        for replica in self.observer.look(beats, self._clock.monotonic_ms()):
            if await self._database.fence(replica, beats[replica]):
                self._metrics.outbox_takeovers.inc()
                _log.warning("took over from a silent replica", replica=replica)

    async def _exchange_groups(self, view: View) -> None:
        state = self._state
        share = shares([other.replica for other in view.replicas if other.beat])  # A command does not beat.
        foreign = {group for group in state.groups - state.leaving if share[group] != state.replica}
        if foreign:
            state.withdraw(foreign)
        releasable = state.releasable()
        # After a release or a claim with an unknown outcome, the database may list groups that are not held here.
        listed = {group for group, holder in view.holders.items() if holder == state.replica != share[group]}
        unheld = listed - state.groups
        if releasable or unheld:
            # First here: after a release with an unknown outcome, another replica may hold the groups.
            state.release(releasable)
            await self._database.release_groups(state.replica, [*releasable, *unheld])
        free = [
            group
            for group, holder in share.items()
            if group not in state.groups and view.holders.get(group, holder) == holder == state.replica
        ]
        if free:
            await self._claim(free)
        if not self.granted.done():
            self.granted.set_result(None)

    async def _claim(self, groups: Sequence[int]) -> None:
        state = self._state
        grant = await self._database.claim_groups(state.replica, groups)
        restored: RestoredState = state.grant(grant)
        self._remove_duplicates()
        state.report()
        if state.holder is not None:
            state.holder.granted(restored)
        if grant.groups:  # The next beat no longer counts their events as those of other replicas.
            self._is_beat_due = True
            self.ring()
