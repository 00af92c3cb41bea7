"""The state of one device queue in the schedule: its pending events, its pauses and the diagnosis of its first batch.

Rules: a device queue has at most one request in flight, which contains its first events. The diagnosis narrows a bad
event down to the first `suspect` events.
"""

from __future__ import annotations

from zlib import crc32

from relay.event.reader import DeviceKey
from relay.policy.limits import Limits
from relay.policy.pause import NO_PAUSE, Pause
from relay.policy.rate_window import Window

POISON_FAILURES = 10
POISON_MS = 600_000
_FAILURES_BEFORE_PROBE = 3  # Failures of one batch before the relay sends smaller probes.


class DeviceQueue:
    """The state of one device queue. Times are monotonic milliseconds."""

    __slots__ = (
        "at_fault",
        "body_bytes",
        "due_at",
        "events",
        "failed_at",
        "failures",
        "grew_at",
        "holds_slot",
        "id",
        "in_flight",
        "isolated",
        "isolated_failed_at",
        "isolated_failures",
        "isolated_since",
        "key",
        "leftover",
        "listed_empty",
        "pause",
        "phase",
        "probe_events",
        "queued",
        "reserved",
        "smaller_succeeded",
        "stalled",
        "suspect",
        "wake_at",
        "window",
    )

    def __init__(self, queue_id: int, key: DeviceKey, window: Window) -> None:
        self.id = queue_id
        self.key = key
        self.phase = phase(key)
        self.window = window
        self.events = 0  # Pending events, including events in flight.
        self.body_bytes = 0
        self.due_at: int | None = None  # End of the linger time; None without pending events.
        self.pause = NO_PAUSE
        self.wake_at: int | None = None  # Expiry of its timer; set by Timers.
        self.queued = False  # It is in the ready queue of its endpoint.
        self.in_flight = False
        self.holds_slot = False  # It occupies the request slot of the request that it is first in.
        self.stalled = False  # That request makes no progress.
        self.reserved = False  # It is part of a pending exact request.
        self.leftover = False  # Events remained pending when the request in flight was chosen.
        self.grew_at: int | None = None  # First arrival of an event during the request in flight.
        self.listed_empty = False  # It is in the schedule's list of empty device queues.
        self.failures = 0  # Consecutive failures of the first batch.
        self.failed_at: int | None = None  # Time of the latest of these failures.
        self.at_fault = False  # Other device queues succeeded between two of these failures.
        self.suspect = 0  # At least one of this number of first events is bad; 0: no suspicion.
        self.probe_events = 0  # Maximum size of a probe during unexplained failures; 0: no probe.
        self.smaller_succeeded = False  # A smaller probe of a failing batch succeeded.
        self.isolated = False  # It shares no request until its first batch succeeds.
        self.isolated_since = 0  # First failure of the first event in a request of its own.
        self.isolated_failed_at = 0  # Latest counted failure of that event.
        self.isolated_failures = 0

    def free_at(self, now: int, limits: Limits) -> int:
        """Return the earliest time that pause and rate window permit; `now` or earlier if they permit a request now."""
        at = self.window.free_at(now, limits.device_per_window, limits.window_ms)
        paused_until = self.pause.until
        return at if at > paused_until else paused_until

    def max_events(self, limit: int) -> int:
        """Return the maximum number of events for the next request."""
        if self.suspect:
            limit = min(limit, max(1, self.suspect // 2))
        if self.probe_events:
            limit = min(limit, self.probe_events)
        return limit

    def needs_own_request(self) -> bool:
        """Return whether the queue must not share a request, because one of its events may be bad."""
        return bool(self.isolated or self.suspect or self.probe_events)

    def start_pause(self, pause: Pause) -> None:
        self.pause = pause

    def end_pause(self) -> None:
        """End the pause, except the part that a server requested."""
        self.pause = self.pause.ended()

    def is_full(self, limits: Limits) -> bool:
        """Return whether the pending events fill a request, so that they need not linger."""
        return self.events >= limits.max_events or self.body_bytes >= limits.max_body_bytes

    def delivered(self, events: int) -> None:
        """Record that the first `events` events were delivered."""
        suspect, smaller_succeeded = max(0, self.suspect - events), self.probe_events > 0
        if self.failures or self.failed_at is not None or self.needs_own_request():
            self.reset_diagnosis()
        self.suspect, self.smaller_succeeded = suspect, smaller_succeeded

    def rejected(self, events: int) -> bool:
        """Record a rejection of the first `events` events that names none. Return whether the bad event is found."""
        self.suspect = 0 if events == 1 else events
        return events == 1

    def reset_diagnosis(self) -> None:
        """Reset the diagnosis after its events were removed or delivered."""
        self.failures = self.isolated_failures = self.suspect = self.probe_events = 0
        self.failed_at = None
        self.isolated = self.at_fault = self.smaller_succeeded = False

    def note_failure(self, now: int, success_at: int | None) -> None:
        """Record the time of a failure. The device queue is at fault if the endpoint had a success since the last one.

        `success_at`: time of the endpoint's latest success.
        """
        if self.failed_at is not None and success_at is not None and success_at > self.failed_at:
            self.at_fault = True
        self.failed_at = now

    def has_few_failures(self) -> bool:
        """Return whether the failures are too few to look for a bad event."""
        return self.failures < _FAILURES_BEFORE_PROBE

    def failed_in_shared_batch(self, *, others_succeed: bool) -> None:
        """Record that a request with events of several devices failed without a decision about its events."""
        self.failures += 1
        self.isolated = self.isolated or others_succeed or not self.has_few_failures()

    def failed(self, events: int, now: int, *, others_succeed: bool, success_at: int | None) -> None:
        """Record that a request with the first `events` events failed without a decision about them.

        The reason is either an outage or a poison event. If other devices or smaller probes of this batch succeed,
        the batch is at fault and is halved. Otherwise the upstream is, but the next probes are smaller, so that they
        show the difference when the upstream recovers. `success_at`: time of the endpoint's latest success.
        """
        self.failures += 1
        self.isolated = True
        if events == 1:
            self._count_isolated_failure(now, success_at)
        if self.has_few_failures():
            return
        if others_succeed or self.smaller_succeeded:
            self.suspect, self.probe_events = events, 0
        else:
            self.probe_events = max(1, events // 2)

    def is_poisoned(self, now: int) -> bool:
        """Return whether the first event keeps failing in requests of its own while other devices succeed."""
        return self.isolated_failures >= POISON_FAILURES and now - self.isolated_since >= POISON_MS

    def _count_isolated_failure(self, now: int, success_at: int | None) -> None:
        """Count a failure only if other devices succeeded since the previous one, so that an outage does not count."""
        if self.isolated_failures == 0:
            self.isolated_since = now
        elif success_at is None or success_at <= self.isolated_failed_at:
            return
        self.isolated_failures += 1
        self.isolated_failed_at = now


def linger_end(phase: int, arrived: int, linger_ms: int) -> int:
    """Return the end of the linger time of an event that arrived at `arrived`, at most `linger_ms` later.

    The linger times of a device end at its own phase, so that the devices of a site that power up together do not send
    at the same moment.
    """
    if linger_ms <= 0:
        return arrived
    return arrived + linger_ms - (arrived - phase) % linger_ms


def phase(key: DeviceKey) -> int:
    """Return the phase of a device, which is the same in every process."""
    return crc32(repr(key).encode("utf-8", "surrogatepass"))
