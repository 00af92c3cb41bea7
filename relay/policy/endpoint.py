"""A tenant's URL and key, as the schedule sees it: its state, what holds it, and its pace.

A route that fails, or needs a person, is held and probed: one request, then all. A state is not
entered for one odd answer of one device while others are served.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from typing import Literal

from relay.policy.body_size import BodySize
from relay.policy.device_queue import DeviceQueue
from relay.policy.shared_limit import RequestHistory, SharedLimit

EndpointState = Literal["ok", "backing_off", "rate_limited", "unauthorized", "misconfigured"]
Trouble = Literal["backing_off", "unauthorized", "misconfigured"]
_RECENT_MS = 10_000
_SERVING_MS = 600_000
_REFUSALS_MAX = 20


class Endpoint:
    """State of one route; times are monotonic milliseconds."""

    __slots__ = (
        "active",
        "attempt",
        "body_size",
        "exact",
        "history",
        "in_flight",
        "last_error",
        "last_sent",
        "limited_attempt",
        "limited_from",
        "limited_until",
        "named_limit_until",
        "named_until",
        "paused_until",
        "queues",
        "ready",
        "refusals",
        "rejected_queue_ids",
        "served_at",
        "served_before",
        "served_queue_ids",
        "shared_limit",
        "since",
        "stalled",
        "states",
        "strangers",
        "suspects",
        "tenant_id",
        "trouble",
        "trouble_from",
        "wake_at",
    )

    def __init__(self, tenant_id: int, now: int, states: Counter[EndpointState]) -> None:
        """`states` counts all routes by state, this one from now on."""
        self.tenant_id = tenant_id
        self.states = states
        states["ok"] += 1
        self.ready: deque[DeviceQueue] = deque()
        self.exact: deque[tuple[tuple[DeviceQueue, int], ...]] = deque()  # requests to be sent just so, first
        self.active = False  # in the schedule's rotation
        self.wake_at: int | None = None
        self.in_flight = 0
        self.stalled = 0  # The requests in flight that make no progress.
        self.queues = 0  # that the schedule knows
        self.body_size = BodySize()
        self.trouble: Trouble | None = None
        self.trouble_from = 0
        self.attempt = 0
        self.paused_until = 0  # of the trouble, and over with it
        self.named_until = 0  # the part of `hold` that a server named
        self.since = now
        self.last_error = ""
        self.served_at: int | None = None
        self.served_queue_ids: Sequence[int] = ()
        self.served_before: tuple[Sequence[int], int | None] = ((), None)  # other lanes than those, and when
        self.suspects: set[int] = set()  # lanes that failed since the last success
        self.strangers = 0  # lone events given up by a status not about events, since the last success
        self.refusals = 0  # lone events refused without being named, since the last success
        self.rejected_queue_ids: set[int] = set()  # and whose
        self.shared_limit: SharedLimit | None = None
        self.history = RequestHistory()
        self.last_sent = 0
        self.limited_attempt = 0  # 429s in a row, one counted per round trip
        self.limited_from = 0
        self.limited_until = 0  # not before, by a 429: no success and no other failure ends it
        self.named_limit_until = 0  # the part of `limited_until` that a server named

    def state(self) -> EndpointState:
        if self.trouble:
            return self.trouble
        return "rate_limited" if self.shared_limit else "ok"

    def max_in_flight(self, all_slots: int) -> int:
        """One probe in trouble; else all, but no more than a whole window may have."""
        if self.trouble:
            return 1
        return min(all_slots, self.shared_limit.limit()) if self.shared_limit else all_slots

    def has_room(self, request_slots: int, connections: int, now: int) -> bool:
        """Return whether one more request may be in flight, with these numbers of request slots and connections.

        A stalled request needs a connection only, unless the endpoint is being probed or limited. An endpoint
        without a recent success gets a quarter of the connections.
        """
        most = connections if self.is_serving(now) else max(1, connections // 4)
        counted = self.in_flight - (self.stalled if self.state() == "ok" else 0)
        return counted < self.max_in_flight(request_slots) and self.in_flight < most

    def free_at(self, now: int, span_ms: int) -> int:
        """When its holds and its pace allow the next request."""
        at = max(self.paused_until, self.limited_until)
        if self.shared_limit:
            unanswered = min(self.in_flight, self.shared_limit.limit() - 1)
            at = max(
                at,
                self.last_sent + self.shared_limit.gap_ms(span_ms),
                self.history.free_at(now, self.shared_limit.limit() - unanswered, span_ms),
            )
        return at

    def served(self, queue_ids: Sequence[int], now: int) -> None:
        """It took events of these lanes."""
        if queue_ids != self.served_queue_ids:
            self.served_before = (self.served_queue_ids, self.served_at)
        self.served_at = now
        self.served_queue_ids = queue_ids
        self.suspects.clear()
        self.strangers = self.refusals = 0
        self.rejected_queue_ids.clear()
        self.limited_attempt = 0
        self.alive(now)

    def alive(self, now: int) -> None:
        """It answers as it should, be it by refusing an event."""
        if self.trouble:
            self._become(None, self.shared_limit)
            self.attempt = 0
            self.paused_until = 0
            self.since = now

    def others_served(self, queue_ids: Sequence[int], sent_at: int, now: int) -> bool:
        """Whether others were served lately, and none of them failed since."""
        ids = set(queue_ids)
        if self.suspects - ids:
            return False
        served = (
            (self.served_queue_ids, self.served_at) if not ids.issuperset(self.served_queue_ids) else self.served_before
        )
        return served[1] is not None and served[1] >= min(sent_at, now - _RECENT_MS)

    def refused(self, queue_id: int) -> None:
        """Count a single event of this device queue that a 400 or 422 rejected without a name."""
        self.refusals += 1
        self.rejected_queue_ids.add(queue_id)

    def refuses_everything(self, now: int) -> bool:
        """Return whether the URL is wrong rather than each event: so many were rejected in a row, and none accepted."""
        return self.refusals >= _REFUSALS_MAX and (len(self.rejected_queue_ids) > 1 or not self.is_serving(now))

    def is_serving(self, now: int) -> bool:
        """Whether anybody was served in the last minutes."""
        return self.served_at is not None and self.served_at >= now - _SERVING_MS

    def prefer_unfailed(self) -> None:
        """A lane without failures and refusals comes next, if one is ready: the better probe."""
        for _ in range(len(self.ready)):
            if not self.ready[0].failures and self.ready[0].id not in self.rejected_queue_ids:
                return
            self.ready.rotate(-1)

    def troubled(self, trouble: Trouble, message: str, sent_at: int, now: int) -> int | None:
        """It fails as a whole. Returns how many times in a row it did before; None if this is old news.

        Answers to requests sent before the trouble began do not make it worse.
        """
        self.last_error = message
        if self.trouble != trouble:
            self._become(trouble, self.shared_limit)
            self.since = self.trouble_from = now
            self.attempt = 0
        elif sent_at < self.trouble_from:
            return None
        self.attempt += 1
        return self.attempt - 1

    def limited(self, message: str, sent_at: int, now: int, assumed: int) -> int:
        """A 429 below the device's own limit: a shared ceiling. Returns how many such in a row came before.

        429s to requests sent before the last one was understood say nothing new.
        """
        self.last_error = message
        self.alive(now)
        if self.shared_limit is None:
            self._become(None, SharedLimit(now, assumed))
            self.since = now
        elif sent_at > self.limited_from:  # not in the very millisecond in which the last one was understood
            self.shared_limit.refused(sent_at, now)
        attempt = self.limited_attempt
        if sent_at >= self.limited_from:
            self.limited_attempt += 1
            self.limited_from = now
        return attempt

    def oddly_limited(self, sent_at: int, now: int) -> None:
        """A 429 to one device below its own limit, while others are served."""
        if self.shared_limit:
            self.shared_limit.doubted(sent_at, now)

    def tick(self, now: int, span_ms: int) -> None:
        """Count a window of its ceiling that is over; the ceiling may be forgotten by that."""
        if self.shared_limit and self.shared_limit.tick(now, span_ms, self.history):
            self._become(self.trouble, None)
            self.since = now

    def probe_now(self) -> None:
        """End every pause, except the part that a server named. The limits stay."""
        self.paused_until = min(self.paused_until, self.named_until)
        self.limited_until = min(self.limited_until, self.named_limit_until)

    def forgotten(self) -> None:
        """It is no route any more."""
        self.states[self.state()] -= 1

    def _become(self, trouble: Trouble | None, shared_limit: SharedLimit | None) -> None:
        self.states[self.state()] -= 1
        self.trouble, self.shared_limit = trouble, shared_limit
        self.states[self.state()] += 1
