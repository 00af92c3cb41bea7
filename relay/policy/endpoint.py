"""The state of one endpoint in the schedule: its health, its pauses and its limits.

A failing endpoint is paused and then probed with one request. After a successful probe all devices may send. A failure
of one device does not change the health of the endpoint while other devices succeed.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from typing import Literal

from relay.policy.body_size import BodySize
from relay.policy.device_queue import DeviceQueue
from relay.policy.pause import NO_PAUSE, Pause
from relay.policy.request_slots import RequestSlots
from relay.policy.shared_limit import SharedLimit

EndpointState = Literal["ok", "backing_off", "rate_limited", "unauthorized", "misconfigured"]
Failure = Literal["backing_off", "unauthorized", "misconfigured"]
_OTHERS_RECENT_MS = 10_000
_RECENT_SUCCESS_MS = 600_000
_UNNAMED_REJECTIONS_MAX = 20


class Endpoint:
    """The state of one endpoint. Times are monotonic milliseconds."""

    __slots__ = (
        "active",
        "attempt",
        "body_size",
        "exact",
        "failed_queue_ids",
        "failing_since",
        "failure",
        "last_error",
        "limit",
        "pause",
        "previous_success",
        "queues",
        "ready",
        "rejected_queue_ids",
        "since",
        "slots",
        "states",
        "success_at",
        "success_queue_ids",
        "tenant_id",
        "unexplained_rejections",
        "unnamed_rejections",
        "wake_at",
    )

    def __init__(self, tenant_id: int, now: int, states: Counter[EndpointState], slots: RequestSlots) -> None:
        """Create the state of a new endpoint and count it in `states`, the number of endpoints by state."""
        self.tenant_id = tenant_id
        self.states = states
        states["ok"] += 1
        self.ready: deque[DeviceQueue] = deque()
        self.exact: deque[tuple[tuple[DeviceQueue, int], ...]] = deque()  # Exact requests, which are sent first.
        self.active = False  # It is in the schedule's list of active endpoints.
        self.wake_at: int | None = None
        self.slots = slots
        self.queues = 0  # Number of its device queues in the schedule.
        self.body_size = BodySize()
        self.failure: Failure | None = None
        self.failing_since = 0
        self.attempt = 0
        self.pause = NO_PAUSE  # Until the next probe of a failing endpoint.
        self.since = now
        self.last_error = ""
        self.success_at: int | None = None
        self.success_queue_ids: Sequence[int] = ()
        self.previous_success: tuple[Sequence[int], int | None] = ((), None)  # Latest success of other device queues.
        self.failed_queue_ids: set[int] = set()  # Device queues that failed since the latest success.
        self.unexplained_rejections = (
            0  # Single events rejected by a status about something else, since the latest success.
        )
        self.unnamed_rejections = 0  # Single events rejected by a 400 or 422 without a name, since the latest success.
        self.rejected_queue_ids: set[int] = set()  # Device queues of these events.
        self.limit = SharedLimit()

    def state(self) -> EndpointState:
        if self.failure:
            return self.failure
        return "rate_limited" if self.limit.is_limited else "ok"

    def max_in_flight(self, all_slots: int) -> int:
        """Return the number of request slots: one for a failing endpoint, and at most the shared limit."""
        return 1 if self.failure else self.limit.max_in_flight(all_slots)

    def has_room(self, request_slots: int, connections: int, now: int) -> bool:
        """Return whether one more request may be in flight, with these numbers of request slots and connections.

        A stalled request needs a connection only, unless the endpoint is being probed or limited. An endpoint
        without a recent success gets a quarter of the connections.
        """
        most = connections if self.has_recent_success(now) else max(1, connections // 4)
        slots = self.slots
        counted = slots.occupied if self.state() == "ok" else slots.in_flight
        return counted < self.max_in_flight(request_slots) and slots.in_flight < most

    def free_at(self, now: int, span_ms: int) -> int:
        """Return the earliest time that pauses and shared limit permit. `span_ms`: length of the rate window."""
        return max(self.pause.until, self.limit.free_at(now, self.slots.in_flight, span_ms))

    def succeeded(self, queue_ids: Sequence[int], now: int) -> None:
        """Record that the upstream accepted events of these device queues."""
        if queue_ids != self.success_queue_ids:
            self.previous_success = (self.success_queue_ids, self.success_at)
        self.success_at = now
        self.success_queue_ids = queue_ids
        self.failed_queue_ids.clear()
        self.unexplained_rejections = self.unnamed_rejections = 0
        self.rejected_queue_ids.clear()
        self.limit.succeeded()
        self.mark_ok(now)

    def mark_ok(self, now: int) -> None:
        """End a failure, because the API responded. The response may be a rejection."""
        if self.failure:
            self._become(None)
            self.attempt = 0
            self.pause = NO_PAUSE
            self.since = now

    def others_succeed(self, queue_ids: Sequence[int], sent_at: int, now: int) -> bool:
        """Return whether other device queues succeeded recently and none of them failed since."""
        ids = set(queue_ids)
        if self.failed_queue_ids - ids:
            return False
        succeeded = (
            (self.success_queue_ids, self.success_at)
            if not ids.issuperset(self.success_queue_ids)
            else self.previous_success
        )
        return succeeded[1] is not None and succeeded[1] >= min(sent_at, now - _OTHERS_RECENT_MS)

    def rejected(self, queue_id: int) -> None:
        """Count a single event of this device queue that a 400 or 422 rejected without a name."""
        self.unnamed_rejections += 1
        self.rejected_queue_ids.add(queue_id)

    def rejects_everything(self, now: int) -> bool:
        """Return whether the URL must be wrong, because too many events were rejected and none was accepted."""
        return self.unnamed_rejections >= _UNNAMED_REJECTIONS_MAX and (
            len(self.rejected_queue_ids) > 1 or not self.has_recent_success(now)
        )

    def has_recent_success(self, now: int) -> bool:
        """Return whether a request succeeded in the last ten minutes."""
        return self.success_at is not None and self.success_at >= now - _RECENT_SUCCESS_MS

    def prefer_unfailed(self) -> None:
        """Move a ready device queue without failures and rejections to the front, because it is the better probe."""
        for _ in range(len(self.ready)):
            if not self.ready[0].diagnosis.failures and self.ready[0].id not in self.rejected_queue_ids:
                return
            self.ready.rotate(-1)

    def failed(self, failure: Failure, message: str, sent_at: int, now: int) -> int | None:
        """Record a failure of the endpoint. Return the number of consecutive failures before it.

        None: the request was sent before the failure began, so its response does not count.
        """
        self.last_error = message
        if self.failure != failure:
            self._become(failure)
            self.since = self.failing_since = now
            self.attempt = 0
        elif sent_at < self.failing_since:
            return None
        self.attempt += 1
        return self.attempt - 1

    def limited(self, message: str, sent_at: int, now: int, initial_rate: int) -> int:
        """Record a 429 of a shared limit. Return the number of consecutive ones before it."""
        self.last_error = message
        self.mark_ok(now)
        self.states[self.state()] -= 1
        if not self.limit.is_limited:
            self.since = now
        attempt = self.limit.limited(sent_at, now, initial_rate)
        self.states[self.state()] += 1
        return attempt

    def start_pause(self, pause: Pause) -> None:
        """Pause until the next probe."""
        self.pause = pause

    def tick(self, now: int, span_ms: int) -> None:
        """Evaluate a window of the shared limit that is over."""
        before = self.state()
        if self.limit.tick(now, span_ms):
            self.states[before] -= 1
            self.states[self.state()] += 1
            self.since = now

    def probe_now(self) -> None:
        """End every pause, except the part that a server requested. The limits stay."""
        self.pause = self.pause.ended()
        self.limit.end_pause()

    def removed(self) -> None:
        """Remove the endpoint from the number of endpoints by state."""
        self.states[self.state()] -= 1

    def _become(self, failure: Failure | None) -> None:
        self.states[self.state()] -= 1
        self.failure = failure
        self.states[self.state()] += 1
