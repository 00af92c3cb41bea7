"""The state of one endpoint in the schedule: its health, its requests, its limits and its evidence about device queues.

A failing endpoint is paused and then probed with one request. After a successful probe all devices may send. A failure
of one device does not change the health of the endpoint while other devices succeed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from relay.policy.body_size import BodySize
from relay.policy.class_turns import DeviceClass
from relay.policy.endpoint_health import ApiResponded, EndpointFailed, Failure, Health, PauseEnded, ProbePostponed
from relay.policy.evidence import Evidence
from relay.policy.pause import Pause
from relay.policy.ready_queues import ReadyQueues
from relay.policy.rejections import Rejections
from relay.policy.request_slots import RequestSlots
from relay.policy.shared_limit import SharedLimit
from relay.policy.upstream_origin import EndpointState, UpstreamOrigin


class SeenError(NamedTuple):
    """The latest error since the last delivery, for people."""

    message: str
    at_ms: int


class Endpoint:
    """The state of one endpoint. Times are monotonic milliseconds."""

    __slots__ = (
        "body_size",
        "evidence",
        "health",
        "last_error",
        "origin",
        "ready",
        "rejections",
        "slots",
        "tenant_id",
        "wake_at",
    )

    def __init__(self, tenant_id: int | None, now: int, origin: UpstreamOrigin) -> None:
        """Create the state of a new endpoint of `origin`, and count it there. `tenant_id` is None for a shared one."""
        self.tenant_id = tenant_id
        self.origin = origin
        self.health = Health("untested", now)
        self.slots = RequestSlots(origin.slots)
        self.ready = ReadyQueues(is_shared=tenant_id is None)
        self.evidence = Evidence()
        self.rejections = Rejections()
        self.body_size = BodySize()
        self.last_error: SeenError | None = None
        self.wake_at: int | None = None  # Expiry of its timer; set by Timers.
        origin.count(None, self.health)

    def __repr__(self) -> str:
        return f"Endpoint({self.tenant_id}, {self.health}, {self.origin}, {self.slots}, {self.ready})"

    @property
    def limit(self) -> SharedLimit:
        """The limit of all endpoints of the origin."""
        return self.origin.limit

    def state(self) -> EndpointState:
        """Return the state for people."""
        return self.origin.state_of(self.health)

    def since(self) -> int:
        """Return the beginning of the state."""
        return self.health.since if self.health.is_failing else max(self.health.since, self.origin.since())

    # -- requests ----------------------------------------------------------------------------------

    def has_room(self, request_slots: int, connections: int, now: int) -> bool:
        """Return whether one more request may be in flight, with these numbers of request slots and connections.

        A failing endpoint has one request slot. A stalled request needs a connection only, unless the endpoint is
        being probed or its origin limited. An endpoint without a recent success gets a quarter of the connections.
        """
        most = connections if self.evidence.has_recent_success(now) else max(1, connections // 4)
        in_flight = self.slots.in_flight
        if in_flight >= most:
            return False
        if self.health.is_failing:
            return in_flight == 0
        return (in_flight if self.limit.is_limited else self.slots.occupied) < request_slots

    def free_at(self, now: int, span_ms: int) -> int:
        """Return the earliest time that pauses and shared limit permit. `span_ms`: length of the rate window."""
        return max(self.health.pause.until, self.origin.free_at(now, span_ms))

    def prefer_probe(self, device_class: DeviceClass) -> DeviceClass:
        """Move a ready device queue without failures and rejections to the front, because it is the better probe.

        Return its class, or `device_class` without one. In a shared endpoint, the turns of the tenants choose the
        probe.
        """
        if self.tenant_id is None:
            return device_class
        return self.ready.prefer(
            device_class, lambda queue: not queue.diagnosis.failures and queue.id not in self.rejections
        )

    # -- responses ---------------------------------------------------------------------------------

    def succeeded(self, queue_ids: Sequence[int], now: int) -> None:
        """Record that the upstream accepted events of these device queues."""
        self.evidence.succeeded(queue_ids, now)
        self.rejections.forget()
        self.limit.succeeded()
        self.last_error = None
        self.responded(now)

    def responded(self, now: int) -> None:
        """End a failure, because the API responded. The response may be a rejection."""
        if self.health.state != "ok":
            self._become(self.health.after(ApiResponded(now)))

    def failed(self, failure: Failure, message: str, sent_at: int, now: int) -> int | None:
        """Record a failure of the endpoint. Return the number of consecutive failures before it.

        None: the request was sent before the failure began, so its response does not count.
        """
        self.last_error = SeenError(message, now)
        before = self.health
        self._become(before.after(EndpointFailed(failure, sent_at, now)))
        return None if self.health is before else self.health.attempt - 1

    def limited(self, message: str, sent_at: int, now: int, initial_rate: int) -> int:
        """Record a 429 of a shared limit. Return the number of consecutive ones before it."""
        self.last_error = SeenError(message, now)
        self.responded(now)
        return self.limit.limited(sent_at, now, initial_rate)

    def note_error(self, message: str, now: int) -> None:
        """Record a message for people that changes no state."""
        self.last_error = SeenError(message, now)

    def postpone_probe(self, pause: Pause) -> None:
        """Pause until the next probe."""
        self._become(self.health.after(ProbePostponed(pause)))

    def probe_now(self) -> None:
        """End the pause, except the part that a server requested."""
        self._become(self.health.after(PauseEnded()))

    # -- life --------------------------------------------------------------------------------------

    def is_in_use(self) -> bool:
        """Return whether a request is listed or in flight."""
        return self.ready.has_requests() or self.slots.in_flight > 0

    def inherit_success(self, queue_ids: Sequence[int], now: int) -> None:
        """Start as a working endpoint, because the shared endpoint delivered events of these device queues."""
        self.evidence.succeeded(queue_ids, now)
        self.responded(now)

    def removed(self) -> None:
        """Remove the endpoint from the number of endpoints by state."""
        self.origin.count(self.health, None)

    def move(self, origin: UpstreamOrigin) -> None:
        """Move to another origin, after a reload changed the URL."""
        self.origin.count(self.health, None)
        origin.count(None, self.health)
        self.slots.move(origin.slots)
        self.origin = origin

    def _become(self, health: Health) -> None:
        self.origin.count(self.health, health)
        self.health = health
