"""When may which lane send how much? The one place that decides pace, fairness and holds.

`next(now)` says what to do now: send this, or wait. `answered(...)` says what an answer means for
the events of a request, and remembers what it means for its lanes and route; `settled(...)` frees
the lanes once that is on disk.

Rules:
- One request in flight per lane, always its first events (G4); a lane takes a slot of its window
  for every request it has part in (G5).
- Lanes that may send queue up; who has sent goes to the end. Routes take turns (G6).
- A hold belongs to a lane or to a route, never to a batch.
- Exact requests (what was in flight at a crash, halves of a refused company) go first, just so.

It must not know what an event says, how it is stored, or how it travels.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from heapq import heappop, heappush
from itertools import count
from typing import NamedTuple

from relay.event import LaneKey
from relay.policy.lane import Lane, due_at, phase
from relay.policy.limits import Limits
from relay.policy.outcome import Case, LaneOutcome, Request, judge
from relay.policy.route import Route
from relay.policy.verdict import Verdict
from relay.policy.views import LaneView, RouteView
from relay.policy.window import Window


class Share(NamedTuple):
    """One lane's part of a request: its first events, at most so many."""

    lane: int
    max_events: int


class Send(NamedTuple):
    """Send this now. The shares' lanes are in flight until `settled` or `released`."""

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


class Wait(NamedTuple):
    """Nothing may be sent before `until`, unless something changes; None: until something changes."""

    until: int | None


class Schedule:
    """See the module. All times are monotonic milliseconds of one clock."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._lanes: dict[int, Lane] = {}
        self._routes: dict[int, Route] = {}
        self._active: deque[Route] = deque()  # routes that may have something to send, in turn
        self._timers: list[tuple[int, int, Lane | Route]] = []
        self._tie = count()
        self._in_flight = 0
        self._empty: deque[tuple[int, Lane]] = deque()  # when which lane has nothing left to remember

    # -- what waits ----------------------------------------------------------------------------

    def restore(self, lane: int, key: LaneKey, packed: bytes, now: int, *, same_boot: bool) -> None:
        """A lane as a restart finds it, with its rate window."""
        window = Window.unpack(packed, now, self.limits.device_per_window, same_boot=same_boot)
        known = self._lanes.get(lane)
        if known:
            known.window = window
        else:
            self._lanes[lane] = Lane(lane, key, window)
            self._empty.append((now + self.limits.window_ms + 1, self._lanes[lane]))

    def resume(self, requests: Sequence[Sequence[Share]], now: int) -> None:
        """Requests in flight at a crash: the upstream may have seen each; send them again first, just so."""
        for shares in requests:
            lanes = [(self._lanes[share.lane], share.max_events) for share in shares if share.lane in self._lanes]
            for lane, _ in lanes:
                lane.window.answered(now)
            if lanes:
                self._route(lanes[0][0].key[0], now).history.answered(now)
                self._put_back(lanes, now)

    def backlog(self, lane_id: int, key: LaneKey, events: int, body_bytes: int, now: int) -> None:
        """A lane has this much pending now, in flight included."""
        lane = self._lanes.get(lane_id)
        if lane is None:
            lane = self._lanes[lane_id] = Lane(lane_id, key, Window())
        grew, lane.events, lane.body_bytes = events > lane.events, events, body_bytes
        if lane.in_flight:
            if grew and lane.grew_at is None:
                lane.grew_at = now
            return
        limits = self.limits
        if events >= limits.max_events or body_bytes >= limits.max_body_bytes:
            lane.due = now if lane.due is None else min(lane.due, now)
        elif lane.due is None and events:
            lane.due = due_at(phase(key), now, limits.linger_ms)
        self._arm(lane, now)

    def flush(self, now: int) -> None:
        """Send now what waits, and probe what is held; still within the limits."""
        for route in self._routes.values():
            route.probe_now()
            self._activate(route)
        for lane in self._lanes.values():
            if lane.events and not lane.in_flight:
                lane.due = now
                if lane.why != "rate_limited":
                    lane.hold = 0
                self._arm(lane, now)

    def probe(self, now: int) -> None:
        """Try held routes at once: a key or a URL may be right now."""
        for route in self._routes.values():
            route.probe_now()
            self._activate(route)
        for lane in self._lanes.values():
            if lane.why in ("unauthorized", "misconfigured"):
                lane.hold = 0
                self._arm(lane, now)

    # -- what to do ----------------------------------------------------------------------------

    def next(self, now: int) -> Send | Wait:
        timers = self._timers
        while timers and timers[0][0] <= now:
            at, _, what = heappop(timers)
            if what.wake_at == at:
                what.wake_at = None
                if isinstance(what, Lane):
                    self._arm(what, now)
                else:
                    self._activate(what)
        if self._in_flight < self.limits.max_in_flight:
            for _ in range(len(self._active)):
                route = self._active.popleft()
                route.active = False
                send = self._send(route, now)
                if send:
                    self._activate(route)
                    return send
        while timers and timers[0][2].wake_at != timers[0][0]:
            heappop(timers)
        return Wait(timers[0][0] if timers else None)

    def _send(self, route: Route, now: int) -> Send | None:
        """The route's next request, or None if it may not or need not send now."""
        if not (route.exact or route.ready) or route.in_flight >= self._slots(route):
            return None
        if route.ceiling and route.ceiling.tick(now, self.limits.window_ms, route.history):
            route.ceiling, route.since = None, now
        free_at = route.free_at(now, self.limits.window_ms)
        if free_at > now:
            self._wake(route, free_at)
            return None
        chosen = self._exact(route, now)
        exact = bool(chosen)
        chosen = chosen or self._company(route, now)
        if not chosen:
            return None
        for lane, events in chosen:
            lane.in_flight, lane.reserved = True, False
            lane.leftover = lane.events > events
            lane.grew_at = None
            lane.due = None
        route.in_flight += 1
        route.last_sent = now
        self._in_flight += 1
        shares = tuple(Share(lane.id, events) for lane, events in chosen)
        return Send(route.tenant_id, shares, route.max_body_bytes, exact)

    def _slots(self, route: Route) -> int:
        """How many requests a route may have in flight: never all, if there is another route to serve."""
        slots = self.limits.max_in_flight
        return route.max_in_flight(slots if len(self._routes) == 1 else max(1, slots - 1))

    def _exact(self, route: Route, now: int) -> list[tuple[Lane, int]]:
        """The first exact request whose lanes may all send."""
        for _ in range(len(route.exact)):
            request = route.exact.popleft()
            if any(lane.in_flight for lane, _ in request):
                route.exact.append(request)
                continue
            free_at = max(self._free_at(lane, now) for lane, _ in request)
            if free_at <= now:
                alive = [(lane, events) for lane, events in request if lane.events]
                for lane, _ in request:
                    lane.reserved = False
                if alive:
                    return alive
                continue
            route.exact.append(request)
            self._wake(route, free_at)
        return []

    def _company(self, route: Route, now: int) -> list[tuple[Lane, int]]:
        """The next lane in turn, and, where devices may mix, those after it that still fit."""
        limits = self.limits
        mix = limits.mix_devices == "always" or (limits.mix_devices == "when_ip_limited" and route.ceiling is not None)
        chosen: list[tuple[Lane, int]] = []
        room_events, room_bytes = limits.max_events, route.max_body_bytes
        for _ in range(len(route.ready)):
            lane = route.ready.popleft()
            lane.queued = False
            if not lane.events or lane.in_flight or lane.reserved:
                continue
            if self._free_at(lane, now) > now:
                self._arm(lane, now)
                continue
            if chosen and lane.by_itself():
                lane.queued = True
                route.ready.append(lane)
                continue
            events = min(lane.max_events(limits.max_events), lane.events, room_events)
            chosen.append((lane, events))
            room_events -= events
            room_bytes -= lane.body_bytes * events // lane.events
            if not mix or room_events <= 0 or room_bytes <= 0 or lane.by_itself():
                break
        return chosen

    def pause(self, send: Send, until: int) -> None:
        """Nothing left for the upstream, for a reason of our own: hold the lanes. `settled` follows."""
        for share in send.shares:
            self._lanes[share.lane].held(until, "outbox")

    # -- what became of it ---------------------------------------------------------------------

    def window_of(self, lane: int, now: int) -> bytes:
        """A lane's rate window for the disk."""
        return self._lanes[lane].window.pack(now, self.limits.window_ms)

    def answered(self, send: Send, reply: Reply, now: int, u: float) -> Sequence[LaneOutcome]:
        """What an answer means for the request's events; `u` is uniform in [0, 1)."""
        route = self._routes[send.tenant_id]
        route.history.answered(now)
        lanes = []
        for share in send.shares:
            lane, events = self._lanes[share.lane], reply.taken.get(share.lane, 0)
            lane.window.answered(now)
            lane.leftover |= events < share.max_events
            if events:
                lanes.append((lane, events))
        request = Request(lanes, reply.body_bytes, reply.sent_at, send.exact)
        judgement = judge(Case(self.limits, route, request, now, u), reply.verdict)
        news = {outcome.lane for outcome in judgement.outcomes}
        for lane, _ in lanes:
            lane.leftover |= lane.id not in news
        if judgement.again == "exact":
            self._put_back(lanes, now)
        elif judgement.again == "halves":
            middle = (len(lanes) + 1) // 2
            self._put_back(lanes[:middle], now)
            self._put_back(lanes[middle:], now)
        return judgement.outcomes

    def settled(self, send: Send, now: int) -> None:
        """What the answer meant is on disk, or nothing had to be: the lanes may send again."""
        route = self._routes[send.tenant_id]
        route.in_flight -= 1
        self._in_flight -= 1
        for share in send.shares:
            lane = self._lanes[share.lane]
            lane.in_flight = False
            if lane.events:
                self._due_again(lane, now)
                self._arm(lane, now)
            else:
                lane.due = None
                self._empty.append((now + self.limits.window_ms + 1, lane))
        self._activate(route)

    def forgettable(self, now: int, limit: int) -> list[int]:
        """Lanes with nothing pending and nothing in their window; forgotten here by being returned."""
        gone: list[int] = []
        while self._empty and self._empty[0][0] <= now and len(gone) < limit:
            _, lane = self._empty.popleft()
            if lane.events or lane.in_flight or self._lanes.get(lane.id) is not lane:
                continue
            if lane.window.count(now, self.limits.window_ms) == 0 and lane.hold <= now:
                del self._lanes[lane.id]
                gone.append(lane.id)
        return gone

    # -- for people ----------------------------------------------------------------------------

    def routes(self, now: int) -> list[RouteView]:
        return [self.route(tenant_id, now) for tenant_id in self._routes]

    def route(self, tenant_id: int, now: int) -> RouteView:
        route = self._routes[tenant_id]
        at = route.free_at(now, self.limits.window_ms)
        return RouteView(tenant_id, route.state(), route.since, at if at > now else None, route.last_error)

    def busiest(self, limit: int, now: int) -> list[LaneView]:
        """Lanes with most pending events first."""
        lanes = sorted((lane for lane in self._lanes.values() if lane.events), key=lambda lane: -lane.events)
        return [self._view(lane, now) for lane in lanes[:limit]]

    def most_held(self, limit: int, now: int) -> list[LaneView]:
        """Lanes held longest into the future first."""
        views = (self._view(lane, now) for lane in self._lanes.values() if lane.events)
        held = [view for view in views if view.held_until_ms is not None]
        return sorted(held, key=lambda view: -(view.held_until_ms or 0))[:limit]

    def waiting_lanes(self) -> int:
        return sum(1 for lane in self._lanes.values() if lane.events)

    def held_lanes(self, now: int) -> int:
        return sum(1 for lane in self._lanes.values() if lane.events and self._free_at(lane, now) > now)

    def in_flight(self) -> int:
        return self._in_flight

    def _view(self, lane: Lane, now: int) -> LaneView:
        free_at = self._free_at(lane, now)
        if free_at <= now:
            return LaneView(lane.key, lane.events, None, "")
        return LaneView(lane.key, lane.events, free_at, lane.why if lane.hold >= free_at else "limit")

    # -- inside --------------------------------------------------------------------------------

    def _route(self, tenant_id: int, now: int) -> Route:
        route = self._routes.get(tenant_id)
        if route is None:
            route = self._routes[tenant_id] = Route(tenant_id, now, self.limits.max_body_bytes)
        return route

    def _free_at(self, lane: Lane, now: int) -> int:
        """When the lane's hold and window allow its next request."""
        limits = self.limits
        return max(lane.hold, lane.window.free_at(now, limits.device_per_window, limits.window_ms))

    def _arm(self, lane: Lane, now: int) -> None:
        """Queue the lane if it may send and has waited long enough, else wake it then."""
        if lane.in_flight or lane.queued or lane.reserved or lane.due is None or not lane.events:
            return
        at = max(lane.due, self._free_at(lane, now))
        if at > now:
            self._wake(lane, at)
            return
        route = self._route(lane.key[0], now)
        lane.queued = True
        route.ready.append(lane)
        self._activate(route)

    def _due_again(self, lane: Lane, now: int) -> None:
        """After a request: what was left over has waited; what came meanwhile waits for company from then."""
        limits = self.limits
        full = lane.events >= limits.max_events or lane.body_bytes >= limits.max_body_bytes
        if lane.leftover or full or lane.grew_at is None:
            lane.due = now
        else:
            lane.due = due_at(phase(lane.key), lane.grew_at, limits.linger_ms)

    def _put_back(self, request: Sequence[tuple[Lane, int]], now: int) -> None:
        route = self._route(request[0][0].key[0], now)
        for lane, _ in request:
            lane.reserved = True
        route.exact.append(tuple(request))
        self._activate(route)

    def _activate(self, route: Route) -> None:
        if not route.active and (route.ready or route.exact):
            route.active = True
            self._active.append(route)

    def _wake(self, what: Lane | Route, at: int) -> None:
        if what.wake_at is None or at < what.wake_at:
            what.wake_at = at
            heappush(self._timers, (at, next(self._tie), what))
