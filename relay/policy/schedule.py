"""Decide which device queue sends which number of events, and when: the only place for rate, fairness and pauses.

`next(now)` returns the next request, or the time to wait for. `responded(...)` returns the outcome for its events, and
frees its request slot. `settled(...)` frees its device queues after the outcome is stored.

Rules:
- A device queue has at most one request in flight, its first events (G4), which occupies a rate slot per device (G5).
- Ready device queues take turns within their class, and so do endpoints (G6). A pause belongs to one of them.
- Exact requests are sent first in their class: requests in flight at a crash, and the halves of a rejected request.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from relay.event.reader import DeviceKey
from relay.policy import overview
from relay.policy.batch_selection import select, split
from relay.policy.class_turns import DeviceClass
from relay.policy.completed_request import CompletedRequest, QueueOutcome
from relay.policy.device_queue import DeviceQueue
from relay.policy.diagnosis import BatchRemoved
from relay.policy.empty_batches import EmptyBatches
from relay.policy.empty_queues import EmptyQueues
from relay.policy.endpoint import Endpoint
from relay.policy.endpoint_turns import EndpointTurns
from relay.policy.endpoints import Endpoints
from relay.policy.judgement import judge
from relay.policy.limits import Limits
from relay.policy.overview import EndpointView
from relay.policy.pause import Pause
from relay.policy.position import IDLE, READY, RESERVED, InFlight, Lingering, SlotUse
from relay.policy.requests import Reply, Send, Share, Wait
from relay.policy.timers import Timers
from relay.policy.upstream_origin import EndpointState, UpstreamOrigin
from relay.policy.verdict import Delivered, NothingLeft
from relay.policy.visits import MAX_STEP, Visits


class Schedule:
    """The state of all device queues and endpoints. Times are monotonic milliseconds of one clock."""

    def __init__(
        self,
        limits: Limits,
        origin_of: Callable[[int], str] = lambda tenant_id: "",
        configured: Callable[[], Collection[int]] = lambda: (),
    ) -> None:
        """Create an empty schedule. `origin_of` and `configured`: see `Endpoints`."""
        self.limits = limits
        self._queues: dict[int, DeviceQueue] = {}
        self._turns = EndpointTurns()
        self._endpoints = Endpoints(origin_of, configured, self._turns.list_all)
        self._senders: dict[int, Endpoint] = {}  # Endpoints of unsettled requests, by the first device queue.
        self._empty_batches = EmptyBatches(self._turns, self._endpoints)
        self._timers: Timers[DeviceQueue | Endpoint | UpstreamOrigin | EmptyBatches] = Timers()
        self._visits: Visits[Endpoint | DeviceQueue] | None = None
        self._slots = self._endpoints.slots
        self._empty = EmptyQueues()

    # -- pending events ----------------------------------------------------------------------------

    def restore(self, queue_id: int, key: DeviceKey, packed: bytes, now: int, shift_ms: int | None) -> None:
        """Restore what `window_of` returned for a device queue before a restart, see Window.unpack."""
        if (queue := self._queues.get(queue_id)) is None:
            queue = self._new_queue(queue_id, key)
            self._empty.add(queue, now, self.limits.window_ms)
        queue.restore(packed, now, self.limits.device_per_window, shift_ms)
        if queue.is_known:
            self._endpoints.served(key[0], (), now)

    def owed(self, queue_id: int, requests: int, now: int) -> None:
        """Reserve rate slots for requests of another relay that may still reach the upstream."""
        self._queues[queue_id].owe(requests, now)

    def resume(self, requests: Sequence[Sequence[Share]], now: int) -> None:
        """Resend the requests that were in flight at a crash exactly and first: the upstream may have received them."""
        for shares in requests:
            known = [share for share in shares if share.queue_id in self._queues]
            queues = [(self._queues[share.queue_id], share.max_events) for share in known]
            for (queue, _), share in zip(queues, known, strict=True):
                queue.responded(now)
                if share.omitted:
                    queue.resume(share.omitted)
            if queues:
                self._endpoints.origin(queues[0][0].key[0], now).limit.responded(now)
                self._queue_exact(queues)

    def backlog(self, queue_id: int, key: DeviceKey, events: int, body_bytes: int, now: int) -> bool:
        """Set the pending events of a device queue, including events in flight. Return whether `next` may change."""
        queue = self._queues.get(queue_id) or self._new_queue(queue_id, key)
        before, position = queue.events, queue.position
        queue.set_backlog(events, body_bytes)
        if events and not before:
            self._endpoints.add_pending(key[0], now)
        elif before and not events:
            self._endpoints.remove_pending(key[0], now)
        if isinstance(position, InFlight):
            if events > before:
                position.grew(now)
            return False
        if events < before:
            queue.diagnose(BatchRemoved(before - events))  # The diagnosis was about dropped events.
        if not events:
            queue.become_empty()
            self._empty.add(queue, now, self.limits.window_ms)
        if not events or position is READY or position is RESERVED:
            return False
        if queue.is_full(self.limits):
            queue.arrive(now)
        elif position is IDLE:
            queue.arrive(queue.linger_end(now, self.limits, self._shared_phase(queue)))
        else:
            return False  # Further events do not end the linger time earlier.
        return self._arm(queue, now)

    def flush(self, now: int) -> None:
        """Send pending events now, within the limits, and end every pause that no server requested."""
        self._visit_all(now, linger_ends=True)

    def configure(self, limits: Limits, now: int) -> None:
        """Apply new limits, also to pending events, and end every pause that no server requested."""
        self.limits = limits
        self._endpoints.configure(now)
        self._turns.clear()
        self._visit_all(now, linger_ends=self._visits is not None and self._visits.linger_ends)

    def _visit_all(self, now: int, *, linger_ends: bool) -> None:
        """Begin a flush, or the application of new limits. `next` continues in bounded steps."""
        for origin in self._endpoints.origins():
            origin.end_pauses()
            self._turns.wake(origin)
        self._visits = Visits([*self._endpoints, *self._queues.values()], linger_ends=linger_ends)
        self._visit(self._visits, now)

    def _visit(self, visits: Visits[Endpoint | DeviceQueue], now: int) -> None:
        for each in visits.step():
            if isinstance(each, DeviceQueue):
                each.end_pause()
                if isinstance(each.position, Lingering):
                    is_due = visits.linger_ends or each.is_full(self.limits)
                    each.arrive(now if is_due else each.linger_end(now, self.limits, self._shared_phase(each)))
                    self._arm(each, now)
            elif self._endpoints.includes(each):
                each.probe_now()
                self._retry_exact(each)
        self._visits = visits if len(visits) else None

    # -- requests ----------------------------------------------------------------------------------

    def start(self, tenants: Collection[int | None], now: int, u: float) -> None:
        """Begin to send. See `EmptyBatches.start`."""
        self._timers.wake(self._empty_batches, self._empty_batches.start(tenants, now, u))

    def next(self, now: int) -> Send | Wait:
        """Return the request to send now, or how long to wait."""
        if self._visits:
            self._visit(self._visits, now)
        for what in self._timers.pop_expired(now, MAX_STEP):
            if isinstance(what, DeviceQueue):
                self._arm(what, now)
            elif isinstance(what, Endpoint):
                self._retry_exact(what)
            elif isinstance(what, UpstreamOrigin):
                self._turns.wake(what)
            else:
                what.try_endpoints(now)
        if self._slots.has_room(self.limits.max_in_flight):
            while origin := self._turns.next_origin():
                if not self._may_send(origin, now):
                    self._turns.wait(origin)
                    continue
                endpoint, device_class = self._turns.take(origin)
                if send := self._send(endpoint, device_class, now):
                    self._turns.served(endpoint, device_class)
                    return send
        return Wait(now if self._visits else self._timers.next_at())

    def _may_send(self, origin: UpstreamOrigin, now: int) -> bool:
        """Return whether network and shared limit permit a request now. If only time is missing, set the timer."""
        origin.limit.tick(now, self.limits.window_ms)
        if not origin.has_room():
            return False  # The end of a request in flight wakes it.
        if (free_at := origin.free_at(now, self.limits.window_ms)) > now:
            self._timers.wake(origin, free_at)
        return free_at <= now

    def _send(self, endpoint: Endpoint, device_class: DeviceClass, now: int) -> Send | None:
        """Return a request of an endpoint for a class; None if it may not send now or has no ready request."""
        room = endpoint.room(self.limits.max_in_flight, self._slots, now, is_only=len(self._endpoints) == 1)
        if not room.in_doubt:
            self._turns.wait_for_request(endpoint)
        if (paused_until := endpoint.health.pause.until) > now and room.proven:
            self._timers.wake(endpoint, paused_until)
        if paused_until > now or not room.proven:
            return None
        if room.unproven and (empty_batch := self._empty_batches.send(endpoint, now)):
            return empty_batch
        chosen = select(endpoint, device_class, room, self.limits, now, self._slots.occupied, self._arm)
        if chosen.wake_at is not None:
            self._timers.wake(endpoint, chosen.wake_at)
        if not chosen.queues:
            if room.unproven:
                self._turns.list_all(endpoint, in_doubt=room.in_doubt)  # Device queues may have moved to another class.
            return None
        slot: SlotUse = "trial" if chosen.is_trial else "occupied"
        endpoint.sent(slot, now)
        for queue, events in chosen.queues:
            queue.send(events, slot, now)
            slot = "free"
        shares = chosen.shares()
        self._senders[shares[0].queue_id] = endpoint
        return Send(queue.key[0], shares, endpoint.body_size.max_bytes(self.limits.max_body_bytes), chosen.is_exact)

    def pause(self, send: Send, until: int, reset_at: int | None = None) -> None:
        """Pause the device queues of a request that the outbox prevented (None) or reset. `settled` must follow."""
        queues = [(self._queues[share.queue_id], share.max_events) for share in send.shares]
        for queue, _ in queues:
            queue.start_pause(Pause(until, "outbox"))
            if reset_at is not None:
                queue.responded(reset_at)
        if send.exact:
            self._queue_exact(queues)

    def silent(self, send: Send, silent_ms: int, now: int) -> bool:
        """Record for how long a request makes no progress. Return whether `next` may change."""
        if not send.shares:
            return self._empty_batches.silent(send, silent_ms, now)
        position = self._queues[send.shares[0].queue_id].position
        if not isinstance(position, InFlight) or (before := position.slot) == "free":
            return False
        self._use_slot(send, self.endpoint(send).slot_use(before, silent_ms), now - silent_ms)
        return position.slot != before

    # -- outcomes ----------------------------------------------------------------------------------

    def window_of(self, queue_id: int, now: int) -> bytes:
        """Return the rate window of a device queue for storage, and whether the device is known."""
        return self._queues[queue_id].pack(now, self.limits.window_ms)

    def responded(self, send: Send, reply: Reply, now: int, u: float) -> Sequence[QueueOutcome]:
        """Apply the result of a request, free its request slot, and return the outcome for its events. 0 <= u < 1."""
        endpoint = self.endpoint(send)
        health = endpoint.health
        if perhaps_arrived := not isinstance(reply.verdict, NothingLeft):
            endpoint.limit.responded(now)
        queues = []
        for queue_id, max_events, omitted in send.shares:
            queue, events = self._queues[queue_id], reply.claimed.get(queue_id, 0) + len(omitted)
            if events < max_events or not isinstance(reply.verdict, Delivered):
                queue.cut()
            if events and perhaps_arrived:
                queue.responded(now)
            if events:
                queues.append((queue, events))
        context = (self.limits, endpoint, queues, reply.body_bytes, reply.sent_at, send.exact, now, u)
        judgement = judge(CompletedRequest(*context, reply.seqs, send.omitted()), self._endpoints.verdict(reply))
        if judgement.resend == "exact":
            self._queue_exact([(queue, queue.exact_events(events)) for queue, events in queues])
        elif judgement.resend == "halves":
            for queue, _ in queues:
                queue.end_remainder()
            for part in split(queues):
                self._queue_exact(part)
        self._use_slot(send, "free")
        if endpoint.health is not health or endpoint.ready.has_empty_batch:
            self._turns.list_all(endpoint)
        return judgement.outcomes

    def answered(self, send: Send, reply: Reply, now: int, u: float) -> Endpoint:
        """Apply the response to a batch without events, which is not settled. Return its endpoint."""
        return self._empty_batches.answered(send, reply, self.limits, now, u)

    def count_request(self, send: Send, now: int) -> None:
        """Count a request for the endpoint only: without events before `send`, or `send` itself, which was reset."""
        self.endpoint(send).limit.responded(now)

    def settled(self, send: Send, now: int) -> None:
        """Free the device queues of a request after its outcome is stored, or immediately without an outcome."""
        self._use_slot(send, "free")
        is_served = self._endpoints.is_served(send.tenant_id)
        if not is_served and (known := [each.queue_id for each in send.shares if self._queues[each.queue_id].is_known]):
            self._endpoints.served(send.tenant_id, known, now)
        endpoint = self._senders.pop(send.shares[0].queue_id)
        # The last device queue may have been cut off, so it becomes the first one of the next request.
        for queue_id, _, _ in reversed(send.shares):
            queue = self._queues[queue_id]
            queue.settle(now, self.limits, self._shared_phase(queue) if queue.events else None)
            if queue.position is RESERVED:
                self._retry_exact(self._endpoints.of(queue.key[0]) if queue.events else endpoint)
            if queue.events:
                self._arm(queue, now)
            else:
                self._empty.add(queue, now, self.limits.window_ms)

    def settlement_failed(self, send: Send) -> None:
        """Occupy a request slot again until the request is `settled`, because its outcome could not be stored."""
        self._use_slot(send, "occupied")

    def _use_slot(self, send: Send, use: SlotUse, progress_at: int = 0) -> None:
        """Change how a request uses its request slot. `progress_at`: its last progress, if it hangs."""
        endpoint, before = self.endpoint(send), self._queues[send.shares[0].queue_id].use_slot(use)
        if before != use:
            endpoint.slots.change(before, use, progress_at)
            if before != "free":
                self._turns.request_ended(endpoint, was_trial=before != "occupied")
            if use == "free":
                self._turns.wake(endpoint.origin)

    def idle_queues(self) -> int:
        """Return an upper bound of the number of device queues without pending events."""
        return len(self._empty)

    def forget_idle(self, now: int, limit: int, remembered: int) -> list[int]:
        """Remove and return up to `limit` idle device queues. At most `remembered` known ones stay."""
        removed: list[int] = []
        for _ in range(limit):
            if not (queue := self._empty.pop_due(now, remembered)):
                break
            if queue.events or isinstance(queue.position, InFlight) or self._queues.get(queue.id) is not queue:
                continue
            if not queue.is_idle(now, self.limits):
                self._empty.add(queue, now, self.limits.window_ms)
            else:
                del self._queues[queue.id]
                removed.append(queue.id)
                self._endpoints.remove_queue(queue.key[0])
        self._endpoints.free_expired(now, self.limits.window_ms, limit)
        return removed

    def endpoint(self, send: Send) -> Endpoint:
        """Return the endpoint that sent an unsettled request. Its tenant may have its own endpoint since then."""
        return self._senders[send.shares[0].queue_id]

    # -- views -------------------------------------------------------------------------------------

    def states(self) -> Mapping[EndpointState, int]:
        """Return the number of endpoints by state."""
        return self._endpoints.states()

    def endpoints(self, now: int, first: Collection[int | None] = (), others: int = 1 << 62) -> list[EndpointView]:
        """Return the endpoints of the tenants in `first` and at most `others` more, see `overview.select`."""
        chosen = overview.select([*self._endpoints], first, others)
        return [overview.endpoint_view(endpoint, self.limits, now) for endpoint in chosen]

    def freed_endpoints(self, now: int) -> Mapping[int | None, EndpointView]:
        """Return the last state of freed endpoints, see `Endpoints.freed`."""
        return {key: overview.endpoint_view(each, self.limits, now) for key, each in self._endpoints.freed().items()}

    def has_endpoint(self, tenant_id: int | None) -> bool:
        """Return whether a tenant has its own endpoint; None: whether tenants share one."""
        return tenant_id in self._endpoints

    def queues(self, limit: int, now: int) -> overview.QueueSummary:
        """Return a summary with lists of at most `limit` device queues. The time is linear in their number."""
        return overview.summarize(self._queues.values(), self._endpoints, limit, self.limits, now)

    def in_flight(self) -> int:
        """Return the number of requests without a response."""
        return self._slots.in_flight

    def _new_queue(self, queue_id: int, key: DeviceKey) -> DeviceQueue:
        queue = self._queues[queue_id] = DeviceQueue(queue_id, key)
        self._endpoints.add_queue(key[0])
        return queue

    def _shared_phase(self, queue: DeviceQueue) -> int | None:
        """Return the phase of the linger times if all devices share requests; otherwise None."""
        return self._endpoints.of(queue.key[0]).origin.linger_phase if self.limits.mix_devices == "always" else None

    def _arm(self, queue: DeviceQueue, now: int) -> bool:
        """Make a device queue ready, or set its timer. Return whether `next` may change."""
        position = queue.position
        if not isinstance(position, Lingering):
            return False
        at, due_at = queue.free_at(now, self.limits), position.due_at
        if at > now or due_at > now:
            return self._timers.wake(queue, max(at, due_at))
        endpoint = self._endpoints.of(queue.key[0])
        queue.become_ready()
        self._turns.list(endpoint, endpoint.add_ready(queue, self.limits, now))
        return True

    def _queue_exact(self, request: Sequence[tuple[DeviceQueue, int]]) -> None:
        if not (pending := tuple((queue, events) for queue, events in request if queue.events)):
            return
        for queue, _ in pending:
            queue.reserve()
        endpoint = self._endpoints.of(pending[0][0].key[0])
        endpoint.ready.add_exact(pending, self.limits)
        self._turns.list_all(endpoint)

    def _retry_exact(self, endpoint: Endpoint) -> None:
        """List an endpoint again, and let it examine its exact requests, because a pause or a request has ended."""
        endpoint.ready.retry_exact()
        self._turns.list_all(endpoint)
