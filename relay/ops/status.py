"""What the relay says about itself: /status.json, readiness, and the gauges that say the same.

Rules: everything is read at the moment of asking, from the outbox and the schedule; nothing is kept
but when the relay started, and the history. Monotonic times become wall times only here, with today's wall clock, so
that a clock which was set after the start does not leave dates of 1970 behind. Event bodies and
secrets never appear; device ids do, of a bounded number of devices.

It must not know how events come in or go out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

from relay import __version__
from relay.clock import Clock, rfc3339
from relay.metrics import UPSTREAM_STATES, Metrics
from relay.ops import words
from relay.ops.history import History
from relay.outbox import Outbox
from relay.policy.views import LaneView, RouteView

BUSIEST_DEVICES = 10
MOST_HELD_DEVICES = 10
MAX_UPSTREAMS = 50


class ScheduleView(Protocol):
    """What is shown of the schedule; `now` is monotonic milliseconds."""

    def routes(self, now: int) -> list[RouteView]: ...

    def busiest(self, limit: int, now: int) -> list[LaneView]: ...

    def most_held(self, limit: int, now: int) -> list[LaneView]: ...

    def waiting_lanes(self) -> int: ...

    def held_lanes(self, now: int) -> int: ...


class Status:
    """Reads outbox, schedule and clock for people and monitoring."""

    def __init__(
        self,
        outbox: Outbox,
        schedule: ScheduleView,
        history: History,
        clock: Clock,
        *,
        refusals: Callable[[], Mapping[str, int]],
        tenants: Callable[[], Collection[int]],
        disk_free_bytes: Callable[[], int | None],
        clock_skew_seconds: Callable[[], float],
    ) -> None:
        """`refusals`: what came and was not kept, by reason; `tenants`: those with a route of their own;
        `disk_free_bytes`: where the outbox lies, None if that cannot be told; `clock_skew_seconds`: how far
        this machine is ahead of the upstream, 0 until known."""
        self._outbox = outbox
        self._schedule = schedule
        self._history = history
        self._clock = clock
        self._refusals = refusals
        self._tenants = tenants
        self._disk_free_bytes = disk_free_bytes
        self._clock_skew_seconds = clock_skew_seconds
        self._started_ms = clock.monotonic_ms()

    def data(self) -> dict[str, Any]:
        """/status.json: the contract's fields, times as RFC 3339 or null."""
        now = self._clock.monotonic_ms()
        gauges, ledger = self._outbox.gauges(), self._outbox.ledger()
        routes, held = self._routes(now), self._schedule.held_lanes(now)
        rates = self._history.rates()
        return {
            "version": __version__,
            "started_at": self._wall(self._started_ms, now),
            "now": self._wall(now, now),
            "uptime_seconds": (now - self._started_ms) // 1000,
            "summary": words.summary(gauges, ledger.pending, held, [route.state for _, route in routes])._asdict(),
            "rates": {"accepted_per_second": rates.accepted, "delivered_per_second": rates.delivered},
            "refused": dict(self._refusals()),
            "ledger": ledger._asdict(),
            "outbox": {
                "bytes": gauges.bytes,
                "max_bytes": gauges.max_bytes,
                "disk_free_bytes": self._disk_free_bytes(),
                "oldest_age_seconds": gauges.oldest_age_ms / 1000,
                "writable": gauges.writable,
                "problem": gauges.problem,
            },
            "upstreams": [self._route(tenant_id, route, now) for tenant_id, route in self._shown(routes)],
            "upstreams_left_out": max(len(routes) - MAX_UPSTREAMS, 0),
            "devices_waiting": self._schedule.waiting_lanes(),
            "devices_held": held,
            "devices": self._devices(routes, now),
            "dead_letters": {"count": gauges.dead_letters},
            "clock_skew_seconds": self._clock_skew_seconds(),
        }

    def problem(self) -> str:
        """Why events cannot be stored now; "" if they can. The upstream has no say in it."""
        gauges = self._outbox.gauges()
        return "" if gauges.writable else gauges.problem or "the outbox is not open yet"

    def export(self, metrics: Metrics) -> None:
        """Set the gauges that a scrape reads from outbox and schedule."""
        now = self._clock.monotonic_ms()
        gauges = self._outbox.gauges()
        metrics.outbox_events.set(self._outbox.ledger().pending)
        metrics.outbox_bytes.set(gauges.bytes)
        metrics.outbox_max_bytes.set(gauges.max_bytes)
        metrics.outbox_oldest_event_age_seconds.set(gauges.oldest_age_ms / 1000)
        metrics.outbox_writable.set(gauges.writable)
        metrics.dead_letters.set(gauges.dead_letters)
        metrics.devices_waiting.set(self._schedule.waiting_lanes())
        metrics.devices_held.set(self._schedule.held_lanes(now))
        metrics.clock_skew_seconds.set(self._clock_skew_seconds())
        states: list[str] = [route.state for _, route in self._routes(now)]
        for state in UPSTREAM_STATES:
            metrics.upstream_state.labels(state).set(states.count(state))

    def _routes(self, now: int) -> list[tuple[int | None, RouteView]]:
        """By tenant: those in use, those configured; None, the default, while no tenant uses it."""
        used: dict[int | None, RouteView] = {route.tenant_id: route for route in self._schedule.routes(now)}
        own = self._tenants()
        unused: list[int | None] = [tenant_id for tenant_id in own if tenant_id not in used]
        if used.keys() <= set(own):
            unused.insert(0, None)
        return [*used.items(), *((tenant_id, RouteView(0, "ok", self._started_ms, None, "")) for tenant_id in unused)]

    def _shown(self, routes: Sequence[tuple[int | None, RouteView]]) -> Sequence[tuple[int | None, RouteView]]:
        """At most MAX_UPSTREAMS, as apps can make up tenants: those configured first, then those in trouble."""
        if len(routes) <= MAX_UPSTREAMS:
            return routes
        own = {None, *self._tenants()}
        return sorted(routes, key=lambda each: (each[0] not in own, each[1].state == "ok"))[:MAX_UPSTREAMS]

    def _route(self, tenant_id: int | None, route: RouteView, now: int) -> dict[str, Any]:
        meaning = words.ROUTE[route.state]
        return {
            "tenant": tenant_id,
            "state": route.state,
            "words": meaning.words,
            "to_do": meaning.to_do,
            "since": self._wall(route.since_ms, now),
            "next_attempt_at": self._wall(route.next_attempt_ms, now),
            "last_error": route.last_error,
        }

    def _devices(self, routes: Sequence[tuple[int | None, RouteView]], now: int) -> list[dict[str, Any]]:
        """The busiest, then the most held back that are not among them."""
        lanes = self._schedule.busiest(BUSIEST_DEVICES, now) + self._schedule.most_held(MOST_HELD_DEVICES, now)
        held = {tenant_id for tenant_id, route in routes if route.next_attempt_ms is not None}
        each = {lane.key: lane for lane in lanes}.values()
        return [self._device(lane, now, route_held=lane.key[0] in held) for lane in each]

    def _device(self, lane: LaneView, now: int, *, route_held: bool) -> dict[str, Any]:
        tenant_id, platform, device_id = lane.key
        said = words.LANE.get(lane.why, lane.why)
        return {
            "tenant": tenant_id,
            "platform": platform,
            "device_id": device_id,
            "pending": lane.events,
            "held_until": self._wall(lane.held_until_ms, now),
            "why": lane.why,
            "words": words.ROUTE_HELD if route_held and not said else said,
        }

    def _wall(self, monotonic_ms: int | None, now: int) -> str | None:
        """A monotonic time by today's wall clock; null stays null."""
        return None if monotonic_ms is None else rfc3339(self._clock.wall_ms() + monotonic_ms - now)
