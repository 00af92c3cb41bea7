"""The relay's status: /status.json, readiness and gauges.

Rules:
- Each request reads the outbox and the schedule. Reading many device queues delays events, so that such a snapshot
  of the schedule serves all requests of one second.
- Monotonic times are converted to wall time for each response. Setting the clock after the start therefore
  corrects all times.
- The status contains no event bodies and no secrets. It contains the ids of a limited number of devices.

This module does not depend on `ingest` or `forward`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from relay import __version__
from relay.ops import explanations
from relay.ops.explanations import ConfiguredUpstream
from relay.ops.history import History
from relay.ops.last_hour import Kind
from relay.outbox import Outbox
from relay.policy.overview import EndpointView, QueueSummary, QueueView
from relay.policy.upstream_origin import HEALTHY, EndpointState
from relay.runtime.clock import Clock, rfc3339
from relay.runtime.metrics import Metrics

BUSIEST_DEVICES = LONGEST_PAUSED_DEVICES = 10
MAX_UPSTREAMS = 50
SNAPSHOT_MS = 1_000
"""Lifetime of a snapshot with many device queues."""
MANY_QUEUES = 1_000
"""Number of device queues that are read for each request. This takes less than a millisecond."""


class ScheduleView(Protocol):
    """The part of the schedule that the status reads. `now` is monotonic milliseconds."""

    def states(self) -> Mapping[EndpointState, int]: ...

    def endpoints(self, now: int, first: Collection[int | None], others: int) -> list[EndpointView]: ...

    def freed_endpoints(self, now: int) -> Mapping[int | None, EndpointView]: ...

    def queues(self, limit: int, now: int) -> QueueSummary: ...


class Facts(NamedTuple):
    """What the machine and the configuration determine."""

    host: str
    http: Sequence[str]
    udp: Sequence[str]
    """Addresses of the listeners for apps."""
    from_systemd: Sequence[str]
    """Names of the listeners whose sockets systemd passed."""
    max_age_ms: int
    window_ms: int
    device_per_window: int


class _Snapshot(NamedTuple):
    """The schedule at one moment."""

    at_ms: int
    states: Mapping[EndpointState, int]
    """Number of upstreams per state, including configured upstreams that are not used yet."""
    upstreams: Sequence[tuple[int | None, EndpointView]]
    """The listed upstreams with their tenant; None is the default upstream, which tenants share."""
    queues: QueueSummary


class Status:
    """The status for operators and monitoring."""

    def __init__(
        self,
        outbox: Outbox,
        schedule: ScheduleView,
        history: History,
        clock: Clock,
        *,
        facts: Callable[[], Facts],
        rejections: Callable[[], Mapping[str, int]],
        upstreams: Callable[[], Mapping[int | None, ConfiguredUpstream]],
        tenant_names: Callable[[], Mapping[int, str]],
        last_hour: Callable[[], Mapping[tuple[Kind, str], int]],
        disk_free_bytes: Callable[[], int | None],
        clock_skew_ms: Callable[[], int | None],
    ) -> None:
        """Each function returns a current value.

        - `facts`: the names and limits that apply.
        - `rejections`: the number of rejected events by reason.
        - `upstreams`: the configured upstream of each tenant that has one, and of all others (None).
        - `tenant_names`: the names of tenants for people.
        - `last_hour`: what happened to events within the last hour, by kind and reason.
        - `disk_free_bytes`: free bytes on the outbox's disk, None if unknown.
        - `clock_skew_ms`: the time by which this machine's clock is ahead of the upstream's, None while unknown.
        """
        self._outbox = outbox
        self._schedule = schedule
        self._history = history
        self._clock = clock
        self._facts = facts
        self._rejections = rejections
        self._upstreams = upstreams
        self._tenant_names = tenant_names
        self._last_hour = last_hour
        self._disk_free_bytes = disk_free_bytes
        self._clock_skew_ms = clock_skew_ms
        self._started_ms = clock.monotonic_ms()
        self._last_snapshot: _Snapshot | None = None

    def data(self) -> dict[str, Any]:
        """Return the data of /status.json. Times are RFC 3339 or null."""
        now = self._clock.monotonic_ms()
        gauges, ledger = self._outbox.gauges(), self._outbox.ledger()
        snapshot = self._snapshot(now)
        rates, facts = self._history.rates(), self._facts()
        return {
            "version": __version__,
            "host": facts.host,
            "listen": {"http": facts.http, "udp": facts.udp, "from_systemd": facts.from_systemd},
            "started_at": self._wall(self._started_ms, now),
            "now": self._wall(now, now),
            "uptime_seconds": (now - self._started_ms) // 1000,
            "summary": self._summary(snapshot)._asdict(),
            "rates": {
                "accepted_per_second": rates.accepted,
                "delivered_per_second": rates.delivered,
                "interval_seconds": rates.span_s,
            },
            "limits": {"window_seconds": facts.window_ms / 1000, "device_per_window": facts.device_per_window},
            "rejected": dict(self._rejections()),
            "ledger": ledger._asdict(),
            "outbox": {
                "bytes": gauges.bytes,
                "max_bytes": gauges.max_bytes,
                "disk_free_bytes": self._disk_free_bytes(),
                "oldest_age_seconds": gauges.oldest_age_ms / 1000,
                "oldest_dropped_in_seconds": max(0, facts.max_age_ms - gauges.oldest_age_ms) / 1000
                if ledger.pending
                else None,
                "full_in_seconds": self._history.full_in_s(),
                "writable": gauges.writable,
                "durability": self._outbox.durability,
                "owed_requests": gauges.owed,
                "problem": gauges.problem,
                "quarantined_events": gauges.quarantined,
                "devices": gauges.devices,
                "max_devices": gauges.max_devices,
            },
            "tenant_names": {str(tenant_id): name for tenant_id, name in self._tenant_names().items()},
            "replicas": [
                {
                    "name": replica.name,
                    "slots": replica.groups,
                    "pending": replica.events,
                    "beat_age_seconds": replica.beat_age_ms / 1000,
                    "self": replica.is_self,
                }
                for replica in gauges.replicas
            ],
            "upstreams": [self._endpoint(tenant_id, endpoint, now) for tenant_id, endpoint in snapshot.upstreams],
            "upstreams_left_out": sum(snapshot.states.values()) - len(snapshot.upstreams),
            "devices_waiting": snapshot.queues.waiting,
            "devices_held": snapshot.queues.paused,
            "devices": self._devices(snapshot, now),
            "dead_letters": {"count": gauges.dead_letters},
            "clock_skew_seconds": self._clock_skew_seconds(),
        }

    def _clock_skew_seconds(self) -> float | None:
        skew_ms = self._clock_skew_ms()
        return None if skew_ms is None else skew_ms / 1000

    def problem(self) -> str:
        """Return the reason why events cannot be stored now, or "". The upstream does not affect it."""
        gauges = self._outbox.gauges()
        return "" if gauges.writable else gauges.problem or "the outbox is not open yet"

    def export(self, metrics: Metrics) -> None:
        """Set the gauges of the outbox and the schedule before a scrape."""
        snapshot = self._snapshot(self._clock.monotonic_ms())
        gauges = self._outbox.gauges()
        metrics.outbox_events.set(self._outbox.ledger().pending)
        metrics.outbox_bytes.set(gauges.bytes)
        metrics.outbox_max_bytes.set(gauges.max_bytes)
        metrics.outbox_oldest_event_age_seconds.set(gauges.oldest_age_ms / 1000)
        metrics.outbox_writable.set(gauges.writable)
        metrics.outbox_replicas.set(len(gauges.replicas))
        metrics.outbox_owed.set(gauges.owed)
        metrics.outbox_replicated.set(self._outbox.durability == "replicated")
        metrics.devices.set(gauges.devices)
        metrics.max_devices.set(gauges.max_devices)
        metrics.dead_letters.set(gauges.dead_letters)
        metrics.events_quarantined.set(gauges.quarantined)
        metrics.devices_waiting.set(snapshot.queues.waiting)
        metrics.devices_paused.set(snapshot.queues.paused)
        metrics.clock_skew_seconds.set(self._clock_skew_seconds())
        for state in explanations.ENDPOINT_MESSAGES:
            metrics.upstream_state.labels(state).set(snapshot.states.get(state, 0))

    def _snapshot(self, now: int) -> _Snapshot:
        last = self._last_snapshot
        if last is None or last.queues.known <= MANY_QUEUES or now - last.at_ms >= SNAPSHOT_MS:
            last = self._last_snapshot = self._take_snapshot(now)
        return last

    def _take_snapshot(self, now: int) -> _Snapshot:
        own = [tenant_id for tenant_id in self._upstreams() if tenant_id is not None]
        states: Counter[EndpointState] = Counter(self._schedule.states())
        endpoints = self._schedule.endpoints(now, [None, *own], MAX_UPSTREAMS)
        used = {endpoint.tenant_id for endpoint in endpoints}
        unused: list[int | None] = [tenant_id for tenant_id in own if tenant_id not in used]
        if states.total() == len(own) - len(unused):  # No tenant uses the default upstream.
            unused.insert(0, None)
        freed = self._schedule.freed_endpoints(now)
        views = [(tenant_id, freed.get(tenant_id) or _unused(self._started_ms)) for tenant_id in unused]
        states.update(view.state for _, view in views)
        upstreams: list[tuple[int | None, EndpointView]] = [(endpoint.tenant_id, endpoint) for endpoint in endpoints]
        upstreams += views
        queues = self._schedule.queues(max(BUSIEST_DEVICES, LONGEST_PAUSED_DEVICES), now)
        return _Snapshot(now, states, self._shown(upstreams, own), queues)

    @staticmethod
    def _shown(
        upstreams: Sequence[tuple[int | None, EndpointView]], own: Collection[int]
    ) -> Sequence[tuple[int | None, EndpointView]]:
        """Return at most MAX_UPSTREAMS, because apps can invent tenants: configured first, then failing upstreams."""
        if len(upstreams) <= MAX_UPSTREAMS:
            return upstreams
        first = {None, *own}
        return sorted(upstreams, key=lambda each: (each[0] not in first, each[1].state in HEALTHY))[:MAX_UPSTREAMS]

    def _summary(self, snapshot: _Snapshot) -> explanations.Summary:
        queues = snapshot.queues
        conditions = explanations.Conditions(
            self._outbox.gauges(),
            self._outbox.ledger().pending,
            snapshot.states,
            queues.endpoint_states,
            Counter(endpoint.state for _, endpoint in snapshot.upstreams if endpoint.last_delivered_ms is None),
            queues.limited,
            self._only_tenants(snapshot),
            self._last_hour(),
        )
        tenants = {endpoint.state: tenant_id for tenant_id, endpoint in reversed(snapshot.upstreams)}
        return explanations.summary(
            conditions, lambda state: explanations.advice(state, self._upstream(tenants.get(state)))
        )

    def _only_tenants(self, snapshot: _Snapshot) -> Mapping[EndpointState, str]:
        """Return the tenants of upstreams that alone are in a state."""
        names = self._tenant_names()
        return {
            endpoint.state: explanations.tenant_text(tenant_id, names)
            for tenant_id, endpoint in snapshot.upstreams
            if tenant_id is not None and snapshot.states[endpoint.state] == 1
        }

    def _upstream(self, tenant_id: int | None) -> ConfiguredUpstream:
        configured = self._upstreams()
        return configured.get(tenant_id, configured[None])

    def _endpoint(self, tenant_id: int | None, endpoint: EndpointView, now: int) -> dict[str, Any]:
        upstream = self._upstream(tenant_id)
        return {
            "tenant": tenant_id,
            "url": upstream.url,
            "state": endpoint.state,
            "message": explanations.ENDPOINT_MESSAGES[endpoint.state],
            "advice": explanations.advice(endpoint.state, upstream),
            "since": self._wall(endpoint.since_ms, now),
            "next_attempt_at": self._wall(endpoint.next_attempt_ms, now),
            "last_delivered_at": self._wall(endpoint.last_delivered_ms, now),
            "last_error": endpoint.last_error.message if endpoint.last_error else "",
            "last_error_at": self._wall(endpoint.last_error.at_ms if endpoint.last_error else None, now),
            "requests_in_window": endpoint.requests,
            "shared_limit": endpoint.shared_limit,
        }

    def _devices(self, snapshot: _Snapshot, now: int) -> list[dict[str, Any]]:
        """Return the devices with most pending events, then the devices paused longest. Each appears once."""
        queues = (*snapshot.queues.busiest, *snapshot.queues.longest_paused)
        each = {queue.key: queue for queue in queues}.values()
        return [self._device(queue, now) for queue in each]

    def _device(self, queue: QueueView, now: int) -> dict[str, Any]:
        tenant_id, platform, device_id = queue.key
        reason = explanations.PAUSE_REASONS.get(queue.why, queue.why)
        return {
            "tenant": tenant_id,
            "platform": platform,
            "device_id": device_id,
            "pending": queue.events,
            "paused_until": self._wall(queue.paused_until_ms, now),
            "requests_in_window": queue.requests,
            "why": queue.why,
            "message": explanations.ENDPOINT_PAUSED if queue.is_endpoint_paused and not reason else reason,
        }

    def _wall(self, monotonic_ms: int | None, now: int) -> str | None:
        """Convert a monotonic time to RFC 3339 by the present wall clock. None stays None."""
        return None if monotonic_ms is None else rfc3339(self._clock.wall_ms() + monotonic_ms - now)


def _unused(since_ms: int) -> EndpointView:
    """Return the view of a configured upstream that no event has used since the start."""
    return EndpointView(0, "untested", since_ms, None, None, None)
