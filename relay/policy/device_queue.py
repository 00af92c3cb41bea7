"""The state of one device queue in the schedule: its pending events, its pause and the diagnosis of its first batch.

A device queue has at most one request in flight, which contains its first events.
"""

from __future__ import annotations

from zlib import crc32

from relay.event.reader import DeviceKey
from relay.policy.diagnosis import HEALTHY, BatchDelivered, Outcome
from relay.policy.limits import Limits
from relay.policy.pause import NO_PAUSE, Pause
from relay.policy.rate_window import Window


class DeviceQueue:
    """The state of one device queue. Times are monotonic milliseconds."""

    __slots__ = (
        "body_bytes",
        "diagnosis",
        "due_at",
        "events",
        "grew_at",
        "holds_slot",
        "id",
        "in_flight",
        "key",
        "leftover",
        "listed_empty",
        "pause",
        "phase",
        "queued",
        "reserved",
        "stalled",
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
        self.diagnosis = HEALTHY

    def free_at(self, now: int, limits: Limits) -> int:
        """Return the earliest time that pause and rate window permit; `now` or earlier if they permit a request now."""
        at = self.window.free_at(now, limits.device_per_window, limits.window_ms)
        paused_until = self.pause.until
        return at if at > paused_until else paused_until

    def max_events(self, limit: int) -> int:
        """Return the maximum number of events for the next request."""
        return limit if self.diagnosis is HEALTHY else self.diagnosis.max_events(limit)

    def needs_own_request(self) -> bool:
        """Return whether the queue must not share a request, because one of its events may be bad."""
        return self.diagnosis is not HEALTHY and self.diagnosis.needs_own_request()

    def start_pause(self, pause: Pause) -> None:
        self.pause = pause

    def end_pause(self) -> None:
        """End the pause, except the part that a server requested."""
        self.pause = self.pause.ended()

    def is_full(self, limits: Limits) -> bool:
        """Return whether the pending events fill a request, so that they need not linger."""
        return self.events >= limits.max_events or self.body_bytes >= limits.max_body_bytes

    def diagnose(self, outcome: Outcome) -> None:
        """Record the outcome of a request for the diagnosis of the first batch."""
        self.diagnosis = self.diagnosis.after(outcome)

    def delivered(self, events: int) -> None:
        """Record that the first `events` events were delivered."""
        if self.diagnosis is not HEALTHY:
            self.diagnose(BatchDelivered(events))


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
