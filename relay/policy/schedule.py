"""When may which lane send how much? The one place that decides pace, fairness and holds.

`next(now)` says what to do now: send this, or wait. `answered(...)` says what an answer means for
the events of a request, remembers what it means for its lanes and route, and frees the request's slot;
`settled(...)` frees the lanes once that is on disk.

Rules:
- One request in flight per lane, always its first events (G4); a lane takes a slot of its window
  for every request it has part in (G5).
- Lanes that may send queue up; who has sent goes to the end. Routes take turns (G6).
- A hold belongs to a lane or to a route, never to a batch.
- Exact requests (what was in flight at a crash, halves of a refused company) go first, just so.

It must not know what an event says, how it is stored, or how it travels.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Mapping, Sequence
from sys import maxsize
from typing import NamedTuple

from relay.event.reader import LaneKey
from relay.policy import overview
from relay.policy.batch_selection import company
from relay.policy.device_queue import Lane, due_at
from relay.policy.endpoint import Route, RouteState
from relay.policy.judgement import Case, LaneOutcome, judge
from relay.policy.limits import Limits
from relay.policy.rate_window import Window
from relay.policy.timers import Timers
from relay.policy.verdict import Delivered, Verdict

_KEPT_ROUTES = 100
CONNECTIONS_PER_SLOT = 8


class Share(NamedTuple):
    """One lane's part of a request: its first events, at most so many."""

    lane: int
    max_events: int


class Send(NamedTuple):
    """Send this now. Its slot is free again once it is `answered`, its lanes once that is `settled`."""

    tenant_id: int
    shares: tuple[Share, ...]
    max_body_bytes: int
    exact: bool
    """These very events and no more: the upstream may have seen the request already."""


class Reply(NamedTuple):
    """How a request went."""

    taken: Mapping[int, int]
    """How many events each lane had in it."""
    body_bytes: int
    verdict: Verdict
    sent_at: int
    """When `next` chose it: what was learnt between that and the first byte did not stop it any more."""


class Wait(NamedTuple):
    """Nothing may be sent before `until`, unless something changes; None: until something changes."""

    until: int | None


class Schedule:
    """See the module. All times are monotonic milliseconds of one clock."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._lanes: dict[int, Lane] = {}
        self._routes: dict[int, Route] = {}
        self._states: Counter[RouteState] = Counter()  # routes by state
        self._active: deque[Route] = deque()  # routes that may have something to send, in turn
        self._timers: Timers[Lane | Route] = Timers()
        self._in_flight = 0
        self._stalled = 0  # The requests in flight that make no progress.
        self._empty: deque[tuple[int, Lane]] = deque()  # when which lane has nothing left to remember

    # -- what waits ----------------------------------------------------------------------------

    def restore(self, lane: int, key: LaneKey, packed: bytes, now: int, *, same_boot: bool) -> None:
        """A lane as a restart finds it, with its rate window."""
        window = Window.unpack(packed, now, self.limits.device_per_window, same_boot=same_boot)
        known = self._lanes.get(lane)
        if known:
            known.window = window
        else:
            self._list_empty(self._new_lane(lane, key, window, now), now)

    def resume(self, requests: Sequence[Sequence[Share]], now: int) -> None:
        """Requests in flight at a crash: the upstream may have seen each; send them again first, just so."""
        for shares in requests:
            lanes = [(self._lanes[share.lane], share.max_events) for share in shares if share.lane in self._lanes]
            for lane, _ in lanes:
                lane.window.answered(now)
            if lanes:
                self._routes[lanes[0][0].key[0]].history.answered(now)
                self._put_back(lanes)

    def backlog(self, lane_id: int, key: LaneKey, events: int, body_bytes: int, now: int) -> bool:
        """A lane has this much pending now, in flight included. True if `next` may now answer otherwise than before."""
        lane = self._lanes.get(lane_id)
        if lane is None:
            lane = self._new_lane(lane_id, key, Window(), now)
        before, lane.events, lane.body_bytes = lane.events, events, body_bytes
        if lane.in_flight:
            if events > before and lane.grew_at is None:
                lane.grew_at = now
            return False
        if events >= before and lane.due is not None and lane.queued:
            return False
        if events < before:
            lane.forget_doubts()  # they were about events that were dropped
        if not events:
            lane.due = None
            self._list_empty(lane, now)
        if lane.is_full(self.limits):
            lane.due = now if lane.due is None else min(lane.due, now)
        elif lane.due is not None and lane.wake_at is not None:
            return False  # nothing becomes due sooner by one more
        elif lane.due is None and events:
            lane.due = due_at(lane.phase, now, self.limits.linger_ms)
        return self._arm(lane, now)

    def flush(self, now: int) -> None:
        """Send pending events now and end every pause that no server named; still within the limits."""
        for route in self._routes.values():
            route.probe_now()
            self._activate(route)
        for lane in self._lanes.values():
            if lane.events and not lane.in_flight:
                lane.due = now
                lane.end_pause()
                self._arm(lane, now)

    def configure(self, limits: Limits, now: int) -> None:
        """Apply other limits, to pending events too, and end every pause that no server named."""
        self.limits = limits
        for route in self._routes.values():
            route.probe_now()
            self._activate(route)
        for lane in self._lanes.values():
            lane.end_pause()
            if lane.due is not None:
                lane.due = min(lane.due, now if lane.is_full(limits) else due_at(lane.phase, now, limits.linger_ms))
            self._arm(lane, now)

    # -- what to do ----------------------------------------------------------------------------

    def next(self, now: int) -> Send | Wait:
        while what := self._timers.ringing(now):
            if isinstance(what, Lane):
                self._arm(what, now)
            else:
                self._activate(what)
        slots = self.limits.max_in_flight
        if self._in_flight - self._stalled < slots and self._in_flight < CONNECTIONS_PER_SLOT * slots:
            for _ in range(len(self._active)):
                route = self._active.popleft()
                route.active = False
                if send := self._send(route, now):
                    self._activate(route)
                    return send
        return Wait(self._timers.first())

    def _send(self, route: Route, now: int) -> Send | None:
        """The route's next request, or None if it may not or need not send now."""
        # An endpoint never gets all request slots if there is another one to serve.
        slots = self.limits.max_in_flight
        own_slots = slots if len(self._routes) == 1 else max(1, slots - 1)
        if not (route.exact or route.ready) or not route.has_room(own_slots, CONNECTIONS_PER_SLOT * slots, now):
            return None
        route.tick(now, self.limits.window_ms)
        free_at = route.free_at(now, self.limits.window_ms)
        if free_at > now:
            self._timers.wake(route, free_at)
            return None
        if route.trouble:
            route.prefer_unfailed()
        exact = self._exact(route, now)
        chosen = exact or company(route, self.limits, now, self._arm)
        if not chosen:
            return None
        shares = []
        for lane, events in chosen:
            lane.in_flight, lane.reserved = True, False
            lane.leftover = lane.events > events
            lane.grew_at = lane.due = None
            shares.append(Share(lane.id, events))
        chosen[0][0].holds_slot = True
        route.in_flight += 1
        route.last_sent = now
        self._in_flight += 1
        return Send(route.tenant_id, tuple(shares), route.body_size.max_bytes(self.limits.max_body_bytes), bool(exact))

    def _exact(self, route: Route, now: int) -> list[tuple[Lane, int]]:
        """The first exact request whose lanes may all send."""
        for _ in range(len(route.exact)):
            request = route.exact.popleft()
            if any(lane.in_flight for lane, _ in request):
                route.exact.append(request)
                continue
            free_at = max(lane.free_at(now, self.limits) for lane, _ in request)
            if free_at <= now:
                alive = [(lane, events) for lane, events in request if lane.events]
                for lane, _ in request:
                    lane.reserved = False
                if alive:
                    return alive
                continue
            route.exact.append(request)
            self._timers.wake(route, free_at)
        return []

    def pause(self, send: Send, until: int) -> None:
        """Nothing left for the upstream, for a reason of our own: hold the lanes. `settled` follows."""
        lanes = [(self._lanes[share.lane], share.max_events) for share in send.shares]
        for lane, _ in lanes:
            lane.held(until, "outbox")
        if send.exact:
            self._put_back(lanes)

    def stalled(self, send: Send, *, stalled: bool) -> None:
        """A request makes no progress: until it does again, it occupies a connection, but no request slot."""
        route, first = self._routes[send.tenant_id], self._lanes[send.shares[0].lane]
        if first.holds_slot and first.stalled != stalled:
            first.stalled = stalled
            change = 1 if stalled else -1
            route.stalled += change
            self._stalled += change
            self._activate(route)

    # -- what became of it ---------------------------------------------------------------------

    def window_of(self, lane: int, now: int) -> bytes:
        """A lane's rate window for the disk."""
        return self._lanes[lane].window.pack(now, self.limits.window_ms)

    def answered(self, send: Send, reply: Reply, now: int, u: float) -> Sequence[LaneOutcome]:
        """What an answer means for the request's events; `u` is uniform in [0, 1)."""
        route = self._routes[send.tenant_id]
        route.history.answered(now)
        delivered = isinstance(reply.verdict, Delivered)
        lanes = []
        for lane_id, max_events in send.shares:
            lane, events = self._lanes[lane_id], reply.taken.get(lane_id, 0)
            if events < max_events or not delivered:
                lane.leftover = True
            if events:
                lane.window.answered(now)
                lanes.append((lane, events))
        case = Case(self.limits, route, lanes, reply.body_bytes, reply.sent_at, send.exact, now, u)
        judgement = judge(case, reply.verdict)
        if judgement.again == "exact":
            self._put_back(lanes)
        elif judgement.again == "halves":
            middle = (len(lanes) + 1) // 2
            self._put_back(lanes[:middle])
            self._put_back(lanes[middle:])
        self._free_slot(route, send)
        return judgement.outcomes

    def asked(self, tenant_id: int, now: int) -> None:
        """A request without events was answered: it was no device's, but one of the route's."""
        self._routes[tenant_id].history.answered(now)

    def settled(self, send: Send, now: int) -> None:
        """What the answer meant is on disk, or nothing had to be: the lanes may send again."""
        route = self._routes[send.tenant_id]
        self._free_slot(route, send)
        # who came last may not have fitted in: it is first in the next company
        for lane_id, _ in reversed(send.shares):
            lane = self._lanes[lane_id]
            lane.in_flight = False
            if lane.events:
                self._due_again(lane, now)
                self._arm(lane, now)
            else:
                lane.due = None
                self._list_empty(lane, now)
        self._activate(route)

    def not_settled(self, send: Send) -> None:
        """What the answer meant did not reach the disk at once: the request has a slot until it is `settled`."""
        self._lanes[send.shares[0].lane].holds_slot = True
        self._routes[send.tenant_id].in_flight += 1
        self._in_flight += 1

    def _free_slot(self, route: Route, send: Send) -> None:
        self.stalled(send, stalled=False)
        first = self._lanes[send.shares[0].lane]
        if first.holds_slot:
            first.holds_slot = False
            route.in_flight -= 1
            self._in_flight -= 1
            self._activate(route)

    def forgettable(self, now: int, limit: int) -> list[int]:
        """Lanes with nothing pending and nothing in their window; forgotten here by being returned."""
        gone: list[int] = []
        while self._empty and self._empty[0][0] <= now and len(gone) < limit:
            _, lane = self._empty.popleft()
            lane.listed_empty = False
            if lane.events or lane.in_flight:
                continue
            if lane.window.count(now, self.limits.window_ms) or lane.hold > now:
                self._list_empty(lane, now)
            else:
                del self._lanes[lane.id]
                gone.append(lane.id)
                self._leave(self._routes[lane.key[0]])
        return gone

    def _leave(self, route: Route) -> None:
        """One lane less. A route without any is forgotten: a tenant is whatever an app writes.

        But for what it knows of a ceiling, while routes are few.
        """
        route.lanes -= 1
        if route.lanes == 0 and (route.ceiling is None or len(self._routes) > _KEPT_ROUTES):
            del self._routes[route.tenant_id]
            route.forgotten()

    # -- for people ----------------------------------------------------------------------------

    def states(self) -> Mapping[RouteState, int]:
        """How many routes are in which state. Counted as they change: apps can make up any number."""
        return self._states

    def routes(self, now: int, first: Collection[int] = (), others: int = maxsize) -> list[overview.RouteView]:
        """As `views.shown` chooses: those of the tenants `first`, and at most so many others."""
        return [self.route(tenant_id, now) for tenant_id in overview.shown(self._routes, first, others)]

    def route(self, tenant_id: int, now: int) -> overview.RouteView:
        route = self._routes[tenant_id]
        at = route.free_at(now, self.limits.window_ms)
        return overview.RouteView(tenant_id, route.state(), route.since, at if at > now else None, route.last_error)

    def lanes(self, limit: int, now: int) -> overview.Lanes:
        """At most `limit` of the busiest, and of the most held. Looks at every lane: not for every request."""
        return overview.look(self._lanes.values(), limit, self.limits, now)

    def in_flight(self) -> int:
        """Requests that are not answered."""
        return self._in_flight

    # -- inside --------------------------------------------------------------------------------

    def _new_lane(self, lane_id: int, key: LaneKey, window: Window, now: int) -> Lane:
        lane = self._lanes[lane_id] = Lane(lane_id, key, window)
        if key[0] not in self._routes:
            self._routes[key[0]] = Route(key[0], now, self._states)
        self._routes[key[0]].lanes += 1
        return lane

    def _arm(self, lane: Lane, now: int) -> bool:
        """Queue the lane if it may send and has waited long enough, else wake it then. True if it is the next thing."""
        if lane.in_flight or lane.queued or lane.reserved or lane.due is None or not lane.events:
            return False
        at = max(lane.free_at(now, self.limits), lane.due)
        if at > now:
            return self._timers.wake(lane, at)
        route = self._routes[lane.key[0]]
        lane.queued = True
        route.ready.append(lane)
        self._activate(route)
        return True

    def _due_again(self, lane: Lane, now: int) -> None:
        """After a request: what was left over has waited; what came meanwhile waits for company from then."""
        if lane.leftover or lane.grew_at is None or lane.is_full(self.limits):
            lane.due = now
        else:
            lane.due = due_at(lane.phase, lane.grew_at, self.limits.linger_ms)

    def _list_empty(self, lane: Lane, now: int) -> None:
        """Look at it again when its window must be free."""
        if not lane.listed_empty:
            lane.listed_empty = True
            self._empty.append((now + self.limits.window_ms + 1, lane))

    def _put_back(self, request: Sequence[tuple[Lane, int]]) -> None:
        route = self._routes[request[0][0].key[0]]
        for lane, _ in request:
            lane.reserved = True
        route.exact.append(tuple(request))
        self._activate(route)

    def _activate(self, route: Route) -> None:
        if not route.active and (route.ready or route.exact):
            route.active = True
            self._active.append(route)
