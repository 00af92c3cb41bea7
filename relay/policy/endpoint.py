"""The state of one endpoint in the schedule: its health, its requests, its limits and its evidence about device queues.

A failing endpoint is paused and then probed with one request. After a successful probe all devices may send. A failure
of one device does not change the health of the endpoint while other devices succeed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from relay.policy.body_size import BodySize
from relay.policy.cause import (
    CONFIGURATION_CHANGED,
    EVENTS_DELIVERED,
    NO_SEARCH,
    Asked,
    Cause,
    SearchInput,
    Suspected,
    Suspicion,
)
from relay.policy.class_turns import DeviceClass
from relay.policy.device_queue import DeviceQueue
from relay.policy.endpoint_health import (
    ApiResponded,
    EndpointFailed,
    Failure,
    Health,
    PauseEnded,
    ProbePostponed,
)
from relay.policy.evidence import Evidence
from relay.policy.limits import Limits
from relay.policy.patience import Patience
from relay.policy.pause import Pause
from relay.policy.position import SlotUse
from relay.policy.ready_queues import ReadyQueues
from relay.policy.rejections import Rejections
from relay.policy.request_slots import (
    CONNECTIONS_PER_SLOT,
    FOR_TRIAL,
    FOR_UNPROVEN_TRIAL,
    NO_ROOM,
    STALLED_MS,
    RequestSlots,
    Room,
)
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
        "patience",
        "ready",
        "rejections",
        "search",
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
        self.patience = Patience()
        self.rejections = Rejections()
        self.search = NO_SEARCH
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

    def room(self, request_slots: int, everything: RequestSlots, now: int, *, is_only: bool) -> Room:
        """Return which requests may be sent now. `everything`: the requests of all origins.

        An endpoint never gets all request slots and connections if there is another one to serve. It gets a quarter of
        the connections without a recent success, and for devices in doubt.
        """
        own, connections = self.slots, CONNECTIONS_PER_SLOT * request_slots
        few = max(1, connections // 4)
        most = few
        if self.evidence.has_recent_success(now):
            most = connections if is_only else connections - few
        if own.in_flight >= most:
            return NO_ROOM
        if self.health.is_failing:
            return FOR_TRIAL if not own.in_flight and everything.permits_in_doubt(request_slots) else NO_ROOM
        if not self._is_proven(request_slots, everything, is_only=is_only):
            return self._room_for_trial(request_slots, everything, is_only=is_only)
        if own.occupied >= (request_slots if is_only else max(1, request_slots - 1)):
            return NO_ROOM
        permits_in_doubt = own.hanging + own.trials < few and everything.permits_in_doubt(request_slots)
        permits_unproven = own.hanging_since is None or everything.permits_unproven(request_slots)
        return Room(permits_in_doubt, permits_unproven, True)

    def _is_proven(self, request_slots: int, everything: RequestSlots, *, is_only: bool) -> bool:
        """Return whether no request hangs, or the endpoint had a success since then and does not fall silent.

        It falls silent if many of its requests hang after its latest success, or if one hung until it timed out.
        """
        own_since, success_at = self.slots.hanging_since, self.evidence.success_at
        since = everything.hanging_since if own_since is None else own_since
        if since is None:
            return is_only or self.health.state != "untested"
        most_hung = 0 if own_since is None else max(0, request_slots // 2 - 1)
        is_silent = not is_only and self.evidence.hung_since_success > most_hung
        return success_at is not None and success_at >= since and not is_silent

    def _room_for_trial(self, request_slots: int, everything: RequestSlots, *, is_only: bool) -> Room:
        """Return the room for one trial of an endpoint that is in doubt or unproven.

        While many of its requests hang, the next one follows when the latest one is stalled: such trials notice a
        recovery before the timeout, and are few.
        """
        own, permits_in_doubt = self.slots, everything.permits_in_doubt(request_slots)
        is_unproven = is_only or not own.hanging
        if own.trials or (own.overdue and own.hanging >= 2 * request_slots):
            return NO_ROOM
        if not (everything.permits_unproven(request_slots) if is_unproven else permits_in_doubt):
            return NO_ROOM
        return FOR_TRIAL if permits_in_doubt else FOR_UNPROVEN_TRIAL

    def slot_use(self, before: SlotUse, silent_ms: int) -> SlotUse:
        """Return how a request in flight uses its request slot after this time without progress."""
        if silent_ms < self.patience.ms:
            return "trial" if before == "trial" else "occupied"
        if before in ("occupied", "trial"):
            self.evidence.hung()
        return "stalled" if silent_ms >= STALLED_MS else "overdue"

    def is_trial(self, queues: Sequence[tuple[DeviceQueue, int]]) -> bool:
        """Return whether a request of these device queues is a trial, because one of them is unproven."""
        return self.slots.hanging_since is not None and not all(self._is_served(queue) for queue, _ in queues)

    def _is_served(self, queue: DeviceQueue) -> bool:
        """Return whether a device queue was served while requests hang."""
        since = self.slots.hanging_since
        return since is not None and self._is_blameless(queue) and self.evidence.served_since(queue.id, since)

    def sent(self, use: SlotUse, now: int) -> None:
        """Record that a request is sent."""
        self.slots.change("free", use)
        self.origin.sent(now)

    def free_at(self, now: int, span_ms: int) -> int:
        """Return the earliest time that pauses and shared limit permit. `span_ms`: length of the rate window."""
        return max(self.health.pause.until, self.origin.free_at(now, span_ms))

    def prefer_probe(self, device_class: DeviceClass) -> DeviceClass:
        """Move a ready device queue to the front that was served while requests hang, or else had no failures and
        rejections, because it is the better probe.

        Return its class, or `device_class` without one. In a shared endpoint, the turns of the tenants choose the
        probe.
        """
        if self.tenant_id is None:
            return device_class
        for is_preferred in (self._is_served, self._is_blameless):
            if (preferred := self.ready.prefer(device_class, is_preferred)) is not None:
                return preferred
        return device_class

    def prefer_served(self, device_class: DeviceClass) -> DeviceClass | None:
        """Move a ready device queue that was served while requests hang to the front. Return its class; None without
        one."""
        return None if self.tenant_id is None else self.ready.prefer(device_class, self._is_served)

    def add_ready(self, queue: DeviceQueue, limits: Limits, now: int) -> DeviceClass:
        """List a device queue that became ready, which ends the pause if it is likely served. Return its class."""
        if self.health.pause.until > now and self._is_likely_served(queue, now):
            self.end_pause()
        return self.ready.add(queue, limits)

    def _is_likely_served(self, queue: DeviceQueue, now: int) -> bool:
        return self._is_witness(queue) and self.search.trusts_witnesses and self.evidence.has_recent_success(now)

    def _is_witness(self, queue: DeviceQueue) -> bool:
        return queue.is_known and self._is_blameless(queue)

    def _is_blameless(self, queue: DeviceQueue) -> bool:
        return not queue.diagnosis.failures and queue.id not in self.rejections

    def is_quiet(self, now: int) -> bool:
        """Return whether the latest success is so old that a request without a response may hang."""
        success_at = self.evidence.success_at
        return success_at is not None and now - success_at > self.patience.ms

    # -- responses ---------------------------------------------------------------------------------

    def served_others(self, sent_at: int) -> bool:
        """Return whether another request succeeded while one that was sent then was stalled already."""
        success_at = self.evidence.success_at
        return success_at is not None and success_at >= sent_at + self.patience.ms

    def succeeded(self, queue_ids: Sequence[int], failures: int, now: int) -> None:
        """Record that the upstream accepted events of these device queues, after `failures` requests with them."""
        self.evidence.succeeded(queue_ids, failures, now)
        self.rejections.forget()
        if self.search.is_open:
            self.search = self.search.after(EVENTS_DELIVERED)
        self.limit.succeeded()
        self.last_error = None
        self.responded(now)

    def responded(self, now: int) -> None:
        """End a failure, because the API responded. The response may be a rejection."""
        if self.health.state != "ok":
            self._become(self.health.after(ApiResponded(now)))

    def recovered(self, now: int) -> None:
        """Record that the API responded to a batch without events while no events are pending."""
        self.last_error = None
        self.responded(now)

    def failed(self, failure: Failure, message: str, sent_at: int, now: int) -> int | None:
        """Record a failure of the endpoint. Return the number of consecutive failures before it.

        None: the request was sent before the failure began, so its response does not count.
        """
        self.last_error = SeenError(message, now)
        before = self.health
        self._become(before.after(EndpointFailed(failure, sent_at, now)))
        return None if self.health is before else self.health.attempt - 1

    def cause_of(self, queues: Sequence[DeviceQueue], suspicion: Suspicion, now: int) -> Cause:
        """Record that a request with events of these device queues failed. Return the cause, as far as it is known."""
        ids = [queue.id for queue in queues]
        self.evidence.failed(ids)
        if len(ids) == 1:
            self.evidence.suspected(ids[0])
        has_witness = self.evidence.has_witness(ids, now)
        was_asking = self.search.is_asking
        is_failing = self.health.is_failing and not queues[0].diagnosis.is_isolated()
        self.search_for_cause(Suspected(ids[0], queues[0].is_known, is_failing, suspicion, now))
        if self.search.is_asking and not was_asking:
            self.ready.add_empty_batch(queues[0].key[0])
        return self.search.cause(has_witness=has_witness)

    def asked(self, now: int) -> None:
        """Record that a batch without events is sent."""
        self.search_for_cause(Asked(now))

    def search_for_cause(self, what: SearchInput) -> None:
        """Continue the search for the cause of failures."""
        self.search = self.search.after(what)

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
        """End the pause, except the part that a server requested, and forget the finding of the search."""
        self.search_for_cause(CONFIGURATION_CHANGED)
        self.end_pause()

    def end_pause(self) -> None:
        """End the pause, except the part that a server requested."""
        self._become(self.health.after(PauseEnded()))

    # -- life --------------------------------------------------------------------------------------

    def is_in_use(self) -> bool:
        """Return whether a request is listed or in flight."""
        return self.ready.has_requests() or self.slots.in_flight > 0

    def inherit_success(self, queue_ids: Sequence[int], now: int) -> None:
        """Start as a working endpoint, because the shared endpoint delivered events of these device queues."""
        self.evidence.succeeded(queue_ids, 0, now)
        self.responded(now)

    def removed(self) -> None:
        """Remove the endpoint from the number of endpoints by state."""
        self.origin.count(self.health, None)

    def succeed(self, previous: Endpoint, now: int) -> None:
        """Take the ready requests of the endpoint with the URL before a reload.

        Its requests in flight stay there: their outcomes count for their events, and for the limit of their origin.
        """
        self.ready, previous.ready = previous.ready, self.ready
        previous.origin.count(previous.health, None)
        previous.origin = previous.origin.left(now)
        previous.origin.count(None, previous.health)

    def _become(self, health: Health) -> None:
        self.origin.count(self.health, health)
        self.health = health
