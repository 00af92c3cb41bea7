"""One device's queue, as the schedule sees it: how much waits, since when, and what holds it.

Rules: one request in flight; always from the front. What is known of a bad event at the front is
one number, `suspect`: that many leading events hold at least one.
"""

from __future__ import annotations

from zlib import crc32

from relay.event.reader import DeviceKey
from relay.policy.limits import Limits
from relay.policy.rate_window import Window

POISON_TRIES = 10
POISON_MS = 600_000
_PATIENCE_TRIES = 3  # failures of one batch before smaller probes are tried


class DeviceQueue:
    """State of one device; times are monotonic milliseconds."""

    __slots__ = (
        "alone",
        "alone_at",
        "alone_since",
        "alone_tries",
        "body_bytes",
        "due",
        "events",
        "failed_at",
        "failures",
        "grew_at",
        "holds_slot",
        "id",
        "in_flight",
        "key",
        "leftover",
        "listed_empty",
        "named_until",
        "own_trouble",
        "paused_until",
        "phase",
        "queued",
        "reserved",
        "small",
        "smaller_served",
        "stalled",
        "suspect",
        "wake_at",
        "why",
        "window",
    )

    def __init__(self, queue_id: int, key: DeviceKey, window: Window) -> None:
        self.id = queue_id
        self.key = key
        self.phase = phase(key)
        self.window = window
        self.events = 0  # pending, in flight included
        self.body_bytes = 0
        self.due: int | None = None  # when the events have waited long enough for company
        self.paused_until = 0  # not before
        self.named_until = 0  # the part of `hold` that a server named
        self.why = ""
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
        self.own_trouble = False  # others were served between two of them
        self.suspect = 0
        self.small = 0  # outage or poison? probe with at most this many events; 0: no doubt
        self.smaller_served = False  # after failures of a batch, a smaller probe of it got through
        self.alone = False  # not in company until it gets through
        self.alone_since = 0  # the front event, alone, has failed since
        self.alone_at = 0  # and last counted as failed
        self.alone_tries = 0

    def free_at(self, now: int, limits: Limits) -> int:
        """When its hold and its window allow the next request: a time not after `now` if they do now."""
        at = self.window.free_at(now, limits.device_per_window, limits.window_ms)
        return at if at > self.paused_until else self.paused_until

    def max_events(self, limit: int) -> int:
        """How many leading events the next request may take."""
        if self.suspect:
            limit = min(limit, max(1, self.suspect // 2))
        if self.small:
            limit = min(limit, self.small)
        return limit

    def by_itself(self) -> bool:
        """Not in company with other lanes: it may hold a bad event."""
        return bool(self.alone or self.suspect or self.small)

    def pause(self, until: int, why: str, named_until: int = 0) -> None:
        """Pause the device. `named_until`: the time that a server named, 0 if none did."""
        self.paused_until, self.why, self.named_until = until, why, named_until

    def end_pause(self) -> None:
        """End the pause, except the part that a server named."""
        self.paused_until = min(self.paused_until, self.named_until)

    def is_full(self, limits: Limits) -> bool:
        """Enough for a whole request: no more company is waited for."""
        return self.events >= limits.max_events or self.body_bytes >= limits.max_body_bytes

    def delivered(self, events: int) -> None:
        """The first `events` events got through."""
        suspect = max(0, self.suspect - events)
        self.smaller_served = self.small > 0
        if self.failed_at is not None or self.by_itself():
            self.forget_doubts()
        self.suspect = suspect

    def refused(self, events: int) -> bool:
        """The upstream refused a request of the first `events` events without a name; True if one is found."""
        self.suspect = 0 if events == 1 else events
        return events == 1

    def forget_doubts(self) -> None:
        """The bad event is found and leaves."""
        self.failures = self.alone_tries = self.suspect = self.small = 0
        self.failed_at = None
        self.alone = self.own_trouble = False

    def failed_again(self, now: int, served_at: int | None) -> None:
        """It failed once more; `served_at` is when the route last served anybody: others, if since the last failure."""
        if self.failed_at is not None and served_at is not None and served_at > self.failed_at:
            self.own_trouble = True
        self.failed_at = now

    def is_patient(self) -> bool:
        """Too early to look for a bad event."""
        return self.failures < _PATIENCE_TRIES

    def failed_in_shared_batch(self, *, others_served: bool) -> None:
        """A request that held events of this lane and of others got no yes and no no."""
        self.failures += 1
        self.alone = others_served or not self.is_patient()

    def failed(self, events: int, now: int, *, others_served: bool, served_at: int | None) -> None:
        """The first `events` events got no yes and no no: an outage, or one of them is poison?

        While others, or smaller probes of this batch, get through, it is the batch: halve it. Without
        that evidence it is the upstream, but the next probes are smaller, to have evidence when it heals.
        `served_at` is when the route last served anybody.
        """
        self.failures += 1
        self.alone = True
        if events == 1:
            self._failed_alone(now, served_at)
        if self.is_patient():
            return
        if others_served or self.smaller_served:
            self.suspect, self.small = events, 0
        else:
            self.small = max(1, events // 2)

    def is_poisoned(self, now: int) -> bool:
        """Its front event, alone, keeps failing while the route serves others."""
        return self.alone_tries >= POISON_TRIES and now - self.alone_since >= POISON_MS

    def _failed_alone(self, now: int, served_at: int | None) -> None:
        """Only a failure with others served since the one before it counts: an outage is nobody's poison."""
        if self.alone_tries == 0:
            self.alone_since = now
        elif served_at is None or served_at <= self.alone_at:
            return
        self.alone_tries += 1
        self.alone_at = now


def due_at(phase: int, arrived: int, linger_ms: int) -> int:
    """When an event that arrived has waited for company: its device's next beat, at most `linger_ms` away.

    Each device has a beat of its own, so that a site that powers up together is no stampede.
    """
    if linger_ms <= 0:
        return arrived
    return arrived + linger_ms - (arrived - phase) % linger_ms


def phase(key: DeviceKey) -> int:
    """A device's beat, the same in every process."""
    return crc32(repr(key).encode("utf-8", "surrogatepass"))
