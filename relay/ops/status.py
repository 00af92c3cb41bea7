"""What the relay says about itself: /status.json, readiness, and the gauges that say the same.

Rules: everything is read at the moment of asking, from the outbox and the schedule; but a look at many
lanes is kept for a second, however many ask, as events wait for it. Nothing else is kept but when the
relay started, and the history. Monotonic times become wall times only here, with today's wall clock, so
that a clock which was set after the start does not leave dates of 1970 behind. Event bodies and
secrets never appear; device ids do, of a bounded number of devices.

It must not know how events come in or go out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from relay import __version__
from relay.ops import explanations
from relay.ops.history import History
from relay.outbox import Outbox
from relay.policy.endpoint import EndpointState
from relay.policy.overview import EndpointView, QueueSummary, QueueView
from relay.runtime.clock import Clock, rfc3339
from relay.runtime.metrics import Metrics

BUSIEST_DEVICES = LONGEST_PAUSED_DEVICES = 10
MAX_UPSTREAMS = 50
SAME_MS = 1_000
"""How long one look at many lanes serves all who ask."""
MANY_QUEUES = 1_000
"""A look at so many takes less than a millisecond."""


class ScheduleView(Protocol):
    """What is shown of the schedule; `now` is monotonic milliseconds."""

    def states(self) -> Mapping[EndpointState, int]: ...

    def endpoints(self, now: int, first: Collection[int], others: int) -> list[EndpointView]: ...

    def queues(self, limit: int, now: int) -> QueueSummary: ...


class _Look(NamedTuple):
    """The schedule at one moment."""

    at_ms: int
    states: Mapping[EndpointState, int]
    """How many upstreams are in which; those configured count before they are used."""
    upstreams: Sequence[tuple[int | None, EndpointView]]
    """Those that are shown, by tenant; None is the default."""
    queues: QueueSummary
    paused_tenants: Collection[int]
    """Whose upstream is held, of the lanes that are shown."""


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
        clock_skew_ms: Callable[[], int | None],
    ) -> None:
        """`refusals`: what came and was not kept, by reason; `tenants`: those with a route of their own;
        `disk_free_bytes`: where the outbox lies, None if that cannot be told; `clock_skew_ms`: how far
        this machine's clock is ahead of the upstream's, None while that is unknown."""
        self._outbox = outbox
        self._schedule = schedule
        self._history = history
        self._clock = clock
        self._refusals = refusals
        self._tenants = tenants
        self._disk_free_bytes = disk_free_bytes
        self._clock_skew_ms = clock_skew_ms
        self._started_ms = clock.monotonic_ms()
        self._last_look: _Look | None = None

    def data(self) -> dict[str, Any]:
        """/status.json: the contract's fields, times as RFC 3339 or null."""
        now = self._clock.monotonic_ms()
        gauges, ledger = self._outbox.gauges(), self._outbox.ledger()
        look = self._look(now)
        rates = self._history.rates()
        return {
            "version": __version__,
            "started_at": self._wall(self._started_ms, now),
            "now": self._wall(now, now),
            "uptime_seconds": (now - self._started_ms) // 1000,
            "summary": explanations.summary(gauges, ledger.pending, look.queues.paused, look.states)._asdict(),
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
                "quarantined_events": gauges.quarantined,
            },
            "upstreams": [self._endpoint(tenant_id, endpoint, now) for tenant_id, endpoint in look.upstreams],
            "upstreams_left_out": sum(look.states.values()) - len(look.upstreams),
            "devices_waiting": look.queues.waiting,
            "devices_held": look.queues.paused,
            "devices": self._devices(look, now),
            "dead_letters": {"count": gauges.dead_letters},
            "clock_skew_seconds": self._clock_skew_seconds(),
        }

    def _clock_skew_seconds(self) -> float | None:
        skew_ms = self._clock_skew_ms()
        return None if skew_ms is None else skew_ms / 1000

    def problem(self) -> str:
        """Why events cannot be stored now; "" if they can. The upstream has no say in it."""
        gauges = self._outbox.gauges()
        return "" if gauges.writable else gauges.problem or "the outbox is not open yet"

    def export(self, metrics: Metrics) -> None:
        """Set the gauges that a scrape reads from outbox and schedule."""
        look = self._look(self._clock.monotonic_ms())
        gauges = self._outbox.gauges()
        metrics.outbox_events.set(self._outbox.ledger().pending)
        metrics.outbox_bytes.set(gauges.bytes)
        metrics.outbox_max_bytes.set(gauges.max_bytes)
        metrics.outbox_oldest_event_age_seconds.set(gauges.oldest_age_ms / 1000)
        metrics.outbox_writable.set(gauges.writable)
        metrics.dead_letters.set(gauges.dead_letters)
        metrics.events_quarantined.set(gauges.quarantined)
        metrics.devices_waiting.set(look.queues.waiting)
        metrics.devices_paused.set(look.queues.paused)
        metrics.clock_skew_seconds.set(self._clock_skew_seconds())
        for state in explanations.ROUTE:
            metrics.upstream_state.labels(state).set(look.states.get(state, 0))

    def _look(self, now: int) -> _Look:
        last = self._last_look
        if last is None or last.queues.known <= MANY_QUEUES or now - last.at_ms >= SAME_MS:
            last = self._last_look = self._look_anew(now)
        return last

    def _look_anew(self, now: int) -> _Look:
        own = self._tenants()
        states: Counter[EndpointState] = Counter(self._schedule.states())
        endpoints = self._schedule.endpoints(now, own, MAX_UPSTREAMS)
        used = {endpoint.tenant_id for endpoint in endpoints}
        unused: list[int | None] = [tenant_id for tenant_id in own if tenant_id not in used]
        if states.total() == len(own) - len(unused):  # no tenant uses the default
            unused.insert(0, None)
        states["ok"] += len(unused)
        upstreams: list[tuple[int | None, EndpointView]] = [(endpoint.tenant_id, endpoint) for endpoint in endpoints]
        upstreams += [(tenant_id, EndpointView(0, "ok", self._started_ms, None, "")) for tenant_id in unused]
        queues = self._schedule.queues(max(BUSIEST_DEVICES, LONGEST_PAUSED_DEVICES), now)
        tenants = {queue.key[0] for queue in (*queues.busiest, *queues.longest_paused)}
        paused = {
            endpoint.tenant_id
            for endpoint in self._schedule.endpoints(now, tenants, 0)
            if endpoint.next_attempt_ms is not None
        }
        return _Look(now, states, self._shown(upstreams, own), queues, paused)

    @staticmethod
    def _shown(
        upstreams: Sequence[tuple[int | None, EndpointView]], own: Collection[int]
    ) -> Sequence[tuple[int | None, EndpointView]]:
        """At most MAX_UPSTREAMS, as apps can make up tenants: those configured first, then those in trouble."""
        if len(upstreams) <= MAX_UPSTREAMS:
            return upstreams
        first = {None, *own}
        return sorted(upstreams, key=lambda each: (each[0] not in first, each[1].state == "ok"))[:MAX_UPSTREAMS]

    def _endpoint(self, tenant_id: int | None, endpoint: EndpointView, now: int) -> dict[str, Any]:
        meaning = explanations.ROUTE[endpoint.state]
        return {
            "tenant": tenant_id,
            "state": endpoint.state,
            "words": meaning.words,
            "to_do": meaning.to_do,
            "since": self._wall(endpoint.since_ms, now),
            "next_attempt_at": self._wall(endpoint.next_attempt_ms, now),
            "last_error": endpoint.last_error,
        }

    def _devices(self, look: _Look, now: int) -> list[dict[str, Any]]:
        """The busiest, then the most held back that are not among them."""
        queues = (*look.queues.busiest, *look.queues.longest_paused)
        each = {queue.key: queue for queue in queues}.values()
        return [self._device(queue, now, endpoint_paused=queue.key[0] in look.paused_tenants) for queue in each]

    def _device(self, queue: QueueView, now: int, *, endpoint_paused: bool) -> dict[str, Any]:
        tenant_id, platform, device_id = queue.key
        said = explanations.LANE.get(queue.why, queue.why)
        return {
            "tenant": tenant_id,
            "platform": platform,
            "device_id": device_id,
            "pending": queue.events,
            "held_until": self._wall(queue.paused_until_ms, now),
            "why": queue.why,
            "words": explanations.ENDPOINT_PAUSED if endpoint_paused and not said else said,
        }

    def _wall(self, monotonic_ms: int | None, now: int) -> str | None:
        """A monotonic time by today's wall clock; null stays null."""
        return None if monotonic_ms is None else rfc3339(self._clock.wall_ms() + monotonic_ms - now)
