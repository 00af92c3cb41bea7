"""Decide which device queue sends which number of events, and when: the only place for rate, fairness and pauses.

`next(now)` returns the next request, or the time to wait for. `responded(...)` returns the outcome of a request for
its events, updates the state of its device queues and its endpoint, and frees its request slot. `settled(...)` frees
the device queues after the outcome is stored.

Rules:
- A device queue has at most one request in flight, which contains its first events (G4). Every request occupies a rate
  slot of each device in it (G5).
- Ready device queues take turns, and so do endpoints (G6).
- A pause belongs to a device queue or to an endpoint, never to a batch.
- Exact requests are sent first: requests that were in flight at a crash, and the halves of a rejected request.

The schedule does not depend on the content of events, on their storage or on HTTP.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Mapping, Sequence
from sys import maxsize

from relay.event.reader import DeviceKey
from relay.policy import overview
from relay.policy.batch_selection import choose
from relay.policy.device_queue import DeviceQueue, linger_end
from relay.policy.diagnosis import BatchRemoved
from relay.policy.endpoint import Endpoint, EndpointState
from relay.policy.judgement import CompletedRequest, QueueOutcome, judge
from relay.policy.limits import Limits
from relay.policy.pause import Pause
from relay.policy.rate_window import Window
from relay.policy.requests import Reply, Send, Share, Wait
from relay.policy.timers import Timers
from relay.policy.verdict import Delivered

_MAX_LISTED_ENDPOINTS = 100
CONNECTIONS_PER_SLOT = 8


class Schedule:
    """The state of all device queues and endpoints. Times are monotonic milliseconds of one clock."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._queues: dict[int, DeviceQueue] = {}
        self._endpoints: dict[int, Endpoint] = {}
        self._states: Counter[EndpointState] = Counter()  # Number of endpoints by state.
        self._active: deque[Endpoint] = deque()  # Endpoints with ready requests, in turn.
        self._timers: Timers[DeviceQueue | Endpoint] = Timers()
        self._in_flight = 0
        self._stalled = 0  # Requests in flight that make no progress.
        self._empty: deque[tuple[int, DeviceQueue]] = (
            deque()
        )  # Empty device queues, each with the time at which it may be removed.

    # -- pending events ----------------------------------------------------------------------------

    def restore(self, queue_id: int, key: DeviceKey, packed: bytes, now: int, *, same_boot: bool) -> None:
        """Restore a device queue and its rate window after a restart."""
        window = Window.unpack(packed, now, self.limits.device_per_window, same_boot=same_boot)
        known = self._queues.get(queue_id)
        if known:
            known.window = window
        else:
            self._list_empty(self._new_queue(queue_id, key, window, now), now)

    def resume(self, requests: Sequence[Sequence[Share]], now: int) -> None:
        """Resend the requests that were in flight at a crash exactly and first: the upstream may have received them."""
        for shares in requests:
            queues = [
                (self._queues[share.queue_id], share.max_events) for share in shares if share.queue_id in self._queues
            ]
            for queue, _ in queues:
                queue.window.responded(now)
            if queues:
                self._endpoints[queues[0][0].key[0]].limit.responded(now)
                self._queue_exact(queues)

    def backlog(self, queue_id: int, key: DeviceKey, events: int, body_bytes: int, now: int) -> bool:
        """Set the pending events of a device queue, including events in flight. Return whether `next` may change."""
        queue = self._queues.get(queue_id)
        if queue is None:
            queue = self._new_queue(queue_id, key, Window(), now)
        before, queue.events, queue.body_bytes = queue.events, events, body_bytes
        if queue.in_flight:
            if events > before and queue.grew_at is None:
                queue.grew_at = now
            return False
        if events >= before and queue.due_at is not None and queue.queued:
            return False
        if events < before:
            queue.diagnose(BatchRemoved())  # The diagnosis was about dropped events.
        if not events:
            queue.due_at = None
            self._list_empty(queue, now)
        if queue.is_full(self.limits):
            queue.due_at = now if queue.due_at is None else min(queue.due_at, now)
        elif queue.due_at is not None and queue.wake_at is not None:
            return False  # Further events do not end the linger time earlier.
        elif queue.due_at is None and events:
            queue.due_at = linger_end(queue.phase, now, self.limits.linger_ms)
        return self._arm(queue, now)

    def flush(self, now: int) -> None:
        """Send pending events now, within the limits, and end every pause that no server requested."""
        for endpoint in self._endpoints.values():
            endpoint.probe_now()
            self._activate(endpoint)
        for queue in self._queues.values():
            if queue.events and not queue.in_flight:
                queue.due_at = now
                queue.end_pause()
                self._arm(queue, now)

    def configure(self, limits: Limits, now: int) -> None:
        """Apply new limits, also to pending events, and end every pause that no server requested."""
        self.limits = limits
        for endpoint in self._endpoints.values():
            endpoint.probe_now()
            self._activate(endpoint)
        for queue in self._queues.values():
            queue.end_pause()
            if queue.due_at is not None:
                queue.due_at = min(
                    queue.due_at, now if queue.is_full(limits) else linger_end(queue.phase, now, limits.linger_ms)
                )
            self._arm(queue, now)

    # -- requests ----------------------------------------------------------------------------------

    def next(self, now: int) -> Send | Wait:
        """Return the request to send now, or how long to wait."""
        while what := self._timers.pop_expired(now):
            if isinstance(what, DeviceQueue):
                self._arm(what, now)
            else:
                self._activate(what)
        slots = self.limits.max_in_flight
        if self._in_flight - self._stalled < slots and self._in_flight < CONNECTIONS_PER_SLOT * slots:
            for _ in range(len(self._active)):
                endpoint = self._active.popleft()
                endpoint.active = False
                if send := self._send(endpoint, now):
                    self._activate(endpoint)
                    return send
        return Wait(self._timers.next_at())

    def _send(self, endpoint: Endpoint, now: int) -> Send | None:
        """Return the next request of an endpoint; None if it may not send now or has no ready request."""
        # An endpoint never gets all request slots if there is another one to serve.
        slots = self.limits.max_in_flight
        own_slots = slots if len(self._endpoints) == 1 else max(1, slots - 1)
        if not (endpoint.exact or endpoint.ready) or not endpoint.has_room(
            own_slots, CONNECTIONS_PER_SLOT * slots, now
        ):
            return None
        endpoint.tick(now, self.limits.window_ms)
        free_at = endpoint.free_at(now, self.limits.window_ms)
        if free_at > now:
            self._timers.wake(endpoint, free_at)
            return None
        if endpoint.failure:
            endpoint.prefer_unfailed()
        exact = self._exact(endpoint, now)
        chosen = exact or choose(endpoint, self.limits, now, self._arm)
        if not chosen:
            return None
        shares = []
        for queue, events in chosen:
            queue.in_flight, queue.reserved = True, False
            queue.leftover = queue.events > events
            queue.grew_at = queue.due_at = None
            shares.append(Share(queue.id, events))
        chosen[0][0].holds_slot = True
        endpoint.in_flight += 1
        endpoint.limit.sent(now)
        self._in_flight += 1
        return Send(
            endpoint.tenant_id, tuple(shares), endpoint.body_size.max_bytes(self.limits.max_body_bytes), bool(exact)
        )

    def _exact(self, endpoint: Endpoint, now: int) -> list[tuple[DeviceQueue, int]]:
        """Return the first exact request that all its device queues may send now; empty without one."""
        for _ in range(len(endpoint.exact)):
            request = endpoint.exact.popleft()
            if any(queue.in_flight for queue, _ in request):
                endpoint.exact.append(request)
                continue
            free_at = max(queue.free_at(now, self.limits) for queue, _ in request)
            if free_at <= now:
                pending = [(queue, events) for queue, events in request if queue.events]
                for queue, _ in request:
                    queue.reserved = False
                if pending:
                    return pending
                continue
            endpoint.exact.append(request)
            self._timers.wake(endpoint, free_at)
        return []

    def pause(self, send: Send, until: int) -> None:
        """Pause the device queues of a request that was not sent, because the outbox failed. `settled` must follow."""
        queues = [(self._queues[share.queue_id], share.max_events) for share in send.shares]
        for queue, _ in queues:
            queue.start_pause(Pause(until, "outbox"))
        if send.exact:
            self._queue_exact(queues)

    def stalled(self, send: Send, *, stalled: bool) -> None:
        """Record whether a request makes progress. Without progress it occupies a connection, but no request slot."""
        endpoint, first = self._endpoints[send.tenant_id], self._queues[send.shares[0].queue_id]
        if first.holds_slot and first.stalled != stalled:
            first.stalled = stalled
            change = 1 if stalled else -1
            endpoint.stalled += change
            self._stalled += change
            self._activate(endpoint)

    # -- outcomes ----------------------------------------------------------------------------------

    def window_of(self, queue_id: int, now: int) -> bytes:
        """Return the rate window of a device queue for storage."""
        return self._queues[queue_id].window.pack(now, self.limits.window_ms)

    def responded(self, send: Send, reply: Reply, now: int, u: float) -> Sequence[QueueOutcome]:
        """Apply the result of a request and free its request slot. Return the outcome for its events.

        `u` is uniform in [0, 1).
        """
        endpoint = self._endpoints[send.tenant_id]
        endpoint.limit.responded(now)
        delivered = isinstance(reply.verdict, Delivered)
        queues = []
        for queue_id, max_events in send.shares:
            queue, events = self._queues[queue_id], reply.claimed.get(queue_id, 0)
            if events < max_events or not delivered:
                queue.leftover = True
            if events:
                queue.window.responded(now)
                queues.append((queue, events))
        request = CompletedRequest(self.limits, endpoint, queues, reply.body_bytes, reply.sent_at, send.exact, now, u)
        judgement = judge(request, reply.verdict)
        if judgement.resend == "exact":
            self._queue_exact(queues)
        elif judgement.resend == "halves":
            middle = (len(queues) + 1) // 2
            self._queue_exact(queues[:middle])
            self._queue_exact(queues[middle:])
        self._free_slot(endpoint, send)
        return judgement.outcomes

    def count_request(self, tenant_id: int, now: int) -> None:
        """Count a request without events, which belongs to the endpoint and to no device."""
        self._endpoints[tenant_id].limit.responded(now)

    def settled(self, send: Send, now: int) -> None:
        """Free the device queues of a request after its outcome is stored, or immediately without an outcome."""
        endpoint = self._endpoints[send.tenant_id]
        self._free_slot(endpoint, send)
        # The last device queue may have been cut off, so it becomes the first one of the next request.
        for queue_id, _ in reversed(send.shares):
            queue = self._queues[queue_id]
            queue.in_flight = False
            if queue.events:
                self._due_again(queue, now)
                self._arm(queue, now)
            else:
                queue.due_at = None
                self._list_empty(queue, now)
        self._activate(endpoint)

    def settlement_failed(self, send: Send) -> None:
        """Occupy a request slot again until the request is `settled`, because its outcome could not be stored."""
        self._queues[send.shares[0].queue_id].holds_slot = True
        self._endpoints[send.tenant_id].in_flight += 1
        self._in_flight += 1

    def _free_slot(self, endpoint: Endpoint, send: Send) -> None:
        self.stalled(send, stalled=False)
        first = self._queues[send.shares[0].queue_id]
        if first.holds_slot:
            first.holds_slot = False
            endpoint.in_flight -= 1
            self._in_flight -= 1
            self._activate(endpoint)

    def forget_idle(self, now: int, limit: int) -> list[int]:
        """Remove and return up to `limit` device queues without pending events, occupied rate slots and pause."""
        removed: list[int] = []
        while self._empty and self._empty[0][0] <= now and len(removed) < limit:
            _, queue = self._empty.popleft()
            queue.listed_empty = False
            if queue.events or queue.in_flight:
                continue
            if queue.window.count(now, self.limits.window_ms) or queue.pause.until > now:
                self._list_empty(queue, now)
            else:
                del self._queues[queue.id]
                removed.append(queue.id)
                self._remove_from_endpoint(self._endpoints[queue.key[0]])
        return removed

    def _remove_from_endpoint(self, endpoint: Endpoint) -> None:
        """Remove a device queue from its endpoint, and an endpoint without any.

        Apps can invent tenants, so their number must stay bounded. An endpoint with a shared limit is retained while
        there are few endpoints.
        """
        endpoint.queues -= 1
        if endpoint.queues == 0 and (not endpoint.limit.is_limited or len(self._endpoints) > _MAX_LISTED_ENDPOINTS):
            del self._endpoints[endpoint.tenant_id]
            endpoint.removed()

    # -- views -------------------------------------------------------------------------------------

    def states(self) -> Mapping[EndpointState, int]:
        """Return the number of endpoints by state, counted at each change because apps can invent tenants."""
        return self._states

    def endpoints(self, now: int, first: Collection[int] = (), others: int = maxsize) -> list[overview.EndpointView]:
        """Return the endpoints of the tenants in `first` and at most `others` more, see `overview.select`."""
        return [self.endpoint(tenant_id, now) for tenant_id in overview.select(self._endpoints, first, others)]

    def endpoint(self, tenant_id: int, now: int) -> overview.EndpointView:
        endpoint = self._endpoints[tenant_id]
        at = endpoint.free_at(now, self.limits.window_ms)
        return overview.EndpointView(
            tenant_id, endpoint.state(), endpoint.since, at if at > now else None, endpoint.last_error
        )

    def queues(self, limit: int, now: int) -> overview.QueueSummary:
        """Return a summary with lists of at most `limit` device queues. The time is linear in their number."""
        return overview.summarize(self._queues.values(), limit, self.limits, now)

    def in_flight(self) -> int:
        """Return the number of requests without a response."""
        return self._in_flight

    # -- internals ---------------------------------------------------------------------------------

    def _new_queue(self, queue_id: int, key: DeviceKey, window: Window, now: int) -> DeviceQueue:
        queue = self._queues[queue_id] = DeviceQueue(queue_id, key, window)
        if key[0] not in self._endpoints:
            self._endpoints[key[0]] = Endpoint(key[0], now, self._states)
        self._endpoints[key[0]].queues += 1
        return queue

    def _arm(self, queue: DeviceQueue, now: int) -> bool:
        """Make a device queue ready, or set its timer. Return whether `next` may change."""
        if queue.in_flight or queue.queued or queue.reserved or queue.due_at is None or not queue.events:
            return False
        at = max(queue.free_at(now, self.limits), queue.due_at)
        if at > now:
            return self._timers.wake(queue, at)
        endpoint = self._endpoints[queue.key[0]]
        queue.queued = True
        endpoint.ready.append(queue)
        self._activate(endpoint)
        return True

    def _due_again(self, queue: DeviceQueue, now: int) -> None:
        """Set the end of the linger time after a request.

        Events that remained pending are due now. Events that arrived during the request linger from their arrival.
        """
        if queue.leftover or queue.grew_at is None or queue.is_full(self.limits):
            queue.due_at = now
        else:
            queue.due_at = linger_end(queue.phase, queue.grew_at, self.limits.linger_ms)

    def _list_empty(self, queue: DeviceQueue, now: int) -> None:
        """List an empty device queue for removal when its rate window must be free."""
        if not queue.listed_empty:
            queue.listed_empty = True
            self._empty.append((now + self.limits.window_ms + 1, queue))

    def _queue_exact(self, request: Sequence[tuple[DeviceQueue, int]]) -> None:
        endpoint = self._endpoints[request[0][0].key[0]]
        for queue, _ in request:
            queue.reserved = True
        endpoint.exact.append(tuple(request))
        self._activate(endpoint)

    def _activate(self, endpoint: Endpoint) -> None:
        if not endpoint.active and (endpoint.ready or endpoint.exact):
            endpoint.active = True
            self._active.append(endpoint)
