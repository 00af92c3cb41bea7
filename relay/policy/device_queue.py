"""One device's queue, as the schedule sees it: how much waits, since when, and what holds it.

Rules: one request in flight; always from the front. What is known of a bad event at the front is
one number, `suspect`: that many leading events hold at least one.
"""

from __future__ import annotations

from zlib import crc32

from relay.event.reader import DeviceKey
from relay.policy.limits import Limits
from relay.policy.rate_window import Window

POISON_FAILURES = 10
POISON_MS = 600_000
_FAILURES_BEFORE_PROBE = 3  # failures of one batch before smaller probes are tried


class DeviceQueue:
    """State of one device; times are monotonic milliseconds."""

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
        "pause_reason",
        "paused_until",
        "phase",
        "probe_events",
        "queued",
        "requested_until",
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
        self.events = 0  # pending, in flight included
        self.body_bytes = 0
        self.due_at: int | None = None  # when the events have waited long enough for company
        self.paused_until = 0  # not before
        self.requested_until = 0  # the part of `hold` that a server named
        self.pause_reason = ""
        self.wake_at: int | None = None  # of the valid entry in the schedule's heap
        self.queued = False  # in its route's ready queue
        self.in_flight = False
        self.holds_slot = False  # of max_in_flight, for the request that it is first in
        self.stalled = False  # That request makes no progress.
        self.reserved = False  # part of an exact request that waits
        self.leftover = False  # more waited than the request in flight took
        self.grew_at: int | None = None  # first arrival while in flight
        self.listed_empty = False  # among those that may be forgotten one day
        self.failures = 0  # of the batch at the front, in a row
        self.failed_at: int | None = None  # the latest of them
        self.at_fault = False  # others were served between two of them
        self.suspect = 0
        self.probe_events = 0  # outage or poison? probe with at most this many events; 0: no doubt
        self.smaller_succeeded = False  # after failures of a batch, a smaller probe of it got through
        self.isolated = False  # not in company until it gets through
        self.isolated_since = 0  # the front event, alone, has failed since
        self.isolated_failed_at = 0  # and last counted as failed
        self.isolated_failures = 0

    def free_at(self, now: int, limits: Limits) -> int:
        """When its hold and its window allow the next request: a time not after `now` if they do now."""
        at = self.window.free_at(now, limits.device_per_window, limits.window_ms)
        return at if at > self.paused_until else self.paused_until

    def max_events(self, limit: int) -> int:
        """How many leading events the next request may take."""
        if self.suspect:
            limit = min(limit, max(1, self.suspect // 2))
        if self.probe_events:
            limit = min(limit, self.probe_events)
        return limit

    def needs_own_request(self) -> bool:
        """Not in company with other lanes: it may hold a bad event."""
        return bool(self.isolated or self.suspect or self.probe_events)

    def pause(self, until: int, pause_reason: str, requested_until: int = 0) -> None:
        """Pause the device. `named_until`: the time that a server named, 0 if none did."""
        self.paused_until, self.pause_reason, self.requested_until = until, pause_reason, requested_until

    def end_pause(self) -> None:
        """End the pause, except the part that a server named."""
        self.paused_until = min(self.paused_until, self.requested_until)

    def is_full(self, limits: Limits) -> bool:
        """Enough for a whole request: no more company is waited for."""
        return self.events >= limits.max_events or self.body_bytes >= limits.max_body_bytes

    def delivered(self, events: int) -> None:
        """The first `events` events got through."""
        suspect = max(0, self.suspect - events)
        self.smaller_succeeded = self.probe_events > 0
        if self.failed_at is not None or self.needs_own_request():
            self.reset_diagnosis()
        self.suspect = suspect

    def rejected(self, events: int) -> bool:
        """The upstream refused a request of the first `events` events without a name; True if one is found."""
        self.suspect = 0 if events == 1 else events
        return events == 1

    def reset_diagnosis(self) -> None:
        """The bad event is found and leaves."""
        self.failures = self.isolated_failures = self.suspect = self.probe_events = 0
        self.failed_at = None
        self.isolated = self.at_fault = False

    def note_failure(self, now: int, success_at: int | None) -> None:
        """It failed once more; `served_at` is when the route last served anybody: others, if since the last failure."""
        if self.failed_at is not None and success_at is not None and success_at > self.failed_at:
            self.at_fault = True
        self.failed_at = now

    def has_few_failures(self) -> bool:
        """Too early to look for a bad event."""
        return self.failures < _FAILURES_BEFORE_PROBE

    def failed_in_shared_batch(self, *, others_succeed: bool) -> None:
        """A request that held events of this lane and of others got no yes and no no."""
        self.failures += 1
        self.isolated = others_succeed or not self.has_few_failures()

    def failed(self, events: int, now: int, *, others_succeed: bool, success_at: int | None) -> None:
        """The first `events` events got no yes and no no: an outage, or one of them is poison?

        While others, or smaller probes of this batch, get through, it is the batch: halve it. Without
        that evidence it is the upstream, but the next probes are smaller, to have evidence when it heals.
        `served_at` is when the route last served anybody.
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
        """Its front event, alone, keeps failing while the route serves others."""
        return self.isolated_failures >= POISON_FAILURES and now - self.isolated_since >= POISON_MS

    def _count_isolated_failure(self, now: int, success_at: int | None) -> None:
        """Only a failure with others served since the one before it counts: an outage is nobody's poison."""
        if self.isolated_failures == 0:
            self.isolated_since = now
        elif success_at is None or success_at <= self.isolated_failed_at:
            return
        self.isolated_failures += 1
        self.isolated_failed_at = now


def linger_end(phase: int, arrived: int, linger_ms: int) -> int:
    """When an event that arrived has waited for company: its device's next beat, at most `linger_ms` away.

    Each device has a beat of its own, so that a site that powers up together is no stampede.
    """
    if linger_ms <= 0:
        return arrived
    return arrived + linger_ms - (arrived - phase) % linger_ms


def phase(key: DeviceKey) -> int:
    """A device's beat, the same in every process."""
    return crc32(repr(key).encode("utf-8", "surrogatepass"))
