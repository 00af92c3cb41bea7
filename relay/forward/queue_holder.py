"""The holder of the outbox's device queues: it passes their changes to the schedule, and wakes the forwarder."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from relay.outbox import Backlog, ClaimPart, RestoredState
from relay.policy.omitted_events import DeadLetterCause, OmittedEvent
from relay.policy.requests import Share
from relay.policy.schedule import Schedule
from relay.runtime.clock import Clock


class QueueHolder:
    """See relay.outbox.Holder."""

    def __init__(self, schedule: Schedule, clock: Clock) -> None:
        self._schedule = schedule
        self._clock = clock
        self._changed = asyncio.Event()

    def pending(self, backlogs: Sequence[Backlog]) -> None:
        """See Holder."""
        now = self._clock.monotonic_ms()
        for queue_id, key, events, body_bytes in backlogs:
            if self._schedule.backlog(queue_id, key, events, body_bytes, now):
                self._changed.set()

    def granted(self, restored: RestoredState) -> None:
        """Restore the device queues and the requests in flight at the last end, as the outbox stored them."""
        now = self._clock.monotonic_ms()
        for queue in restored.queues:
            self._schedule.restore(queue.queue_id, queue.key, queue.window, now, queue.shift_ms)
            self._schedule.owed(queue.queue_id, queue.owed, now)
        self._schedule.resume([[_share(part) for part in parts] for parts in restored.unsettled], now)
        self._changed.set()

    def owed(self, queue_id: int, requests: int) -> bytes:
        """See Holder."""
        now = self._clock.monotonic_ms()
        self._schedule.owed(queue_id, requests, now)
        self._changed.set()
        return self._schedule.window_of(queue_id, now)


def _share(part: ClaimPart) -> Share:
    """Return the part of a request that was in flight at the last end."""
    omitted = [OmittedEvent(seq, dead and DeadLetterCause(*dead)) for seq, dead in part.omitted.items()]
    return Share(part.queue_id, part.events, tuple(omitted))
