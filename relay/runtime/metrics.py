"""Every metric name the relay exports, in one place; a leaf: the parts count, ops shows.

Rules: names and labels are `contract`, base units, under 300 series in all, and never a device,
an event id, an app or anything else an app chooses as a label. Counters are of this process's
life; the outbox's ledger (status.json) is of the outbox's life.

A Metrics owns its registry, so that two relays in one process (tests, the simulation) do not share.
"""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, disable_created_metrics
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from relay.runtime.longest_step import LongestStep

TRANSPORTS = ("http", "udp")
REJECT_REASONS = (
    "malformed",  # 400: not JSON, not UTF-8, truncated, an empty batch
    "invalid",  # 422: a field is missing or wrong
    "too_large",  # 413: body, event or inflated size over its limit
    "media_type",  # 415: Content-Type or Content-Encoding not served
    "forbidden",  # 403: Host or Origin not allowed
    "timeout",  # 408: the client was slower than http.request_timeout
    "full",  # 503: outbox or disk full
    "unavailable",  # 503: disk failing, or shutting down
)
DEAD_REASONS = ("refused", "too_large", "poison", "corrupt")
DROP_REASONS = ("age", "size", "discarded")
UDP_DROP_REASONS = ("kernel", "network", "truncated", "backlog")
CODES_MAX = 40
UPSTREAM_STATES = ("ok", "backing_off", "rate_limited", "unauthorized", "misconfigured")

# The library adds a `_created` series to each counter and histogram unless this switch of the process is off.
disable_created_metrics()  # type: ignore[no-untyped-call]  # the library has no annotation here


class Metrics:
    """The relay's counters, gauges and histograms; attribute names are the metric names."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._codes: set[str] = set()
        self._register_events()
        self._register_outbox()
        self._register_upstream()
        self._register_listeners()
        self._register_process()
        self._touch()

    def build_info(self, version: str, python: str, sqlite: str) -> None:
        self._build_info.labels(version, python, sqlite).set(1)

    def _register_events(self) -> None:
        counter = self._counter
        self.events_received = counter("events_received", "Events that arrived, before any check.", "transport")
        self.events_accepted = counter("events_accepted", "Events stored and answered so.", "transport")
        self.events_rejected = counter("events_rejected", "Events refused, by reason.", "transport", "reason")
        self.events_duplicate = counter(
            "events_duplicate", "Events answered 202 without being stored again: their id is known.", "transport"
        )
        self.event_id_conflicts = counter(
            "event_id_conflicts",
            "Events that were not stored although their bytes differ: their id is another event's.",
        )
        self.events_delivered = counter("events_delivered", "Events the upstream accepted.")
        self.events_dead_lettered = counter("events_dead_lettered", "Events moved to the dead letters.", "reason")
        self.events_dropped = counter("events_dropped", "Events dropped by a limit the operator set.", "reason")
        self.events_requeued = counter("events_requeued", "Dead letters appended to the outbox again.")
        self.dead_letters_discarded = counter(
            "dead_letters_discarded", "Dead letters forgotten because outbox.max_dead_letters was reached."
        )

    def _register_outbox(self) -> None:
        counter, gauge, histogram = self._counter, self._gauge, self._histogram
        self.outbox_events = gauge("outbox_events", "Events pending.")
        self.outbox_bytes = gauge("outbox_bytes", "Size of database and write-ahead log together.")
        self.outbox_max_bytes = gauge("outbox_max_bytes", "The limit of relay_outbox_bytes (outbox.max_size).")
        self.outbox_oldest_event_age_seconds = gauge(
            "outbox_oldest_event_age_seconds", "How long the oldest pending event has waited."
        )
        self.outbox_writable = gauge("outbox_writable", "1 if events can be stored now, else 0.")
        self.outbox_set_aside = counter(
            "outbox_set_aside", "Broken outbox files set aside at start; alert on any increase."
        )
        self.outbox_written_bytes = counter("outbox_written_bytes", "Bytes written to database and write-ahead log.")
        self.outbox_commits = counter("outbox_commits", "Commits, one fsync each with outbox.durability full.")
        self.outbox_commit_duration_seconds = histogram(
            "outbox_commit_duration_seconds",
            "Time of a commit, fsync included.",
            (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
        )
        self.dead_letters = gauge("dead_letters", "Dead letters kept.")
        self.events_quarantined = gauge(
            "events_quarantined", "Pending events of another machine that wait for `relay adopt`."
        )
        self.installation_changed = counter(
            "installation_changed", "Starts at which the installation turned out to be a copy from another machine."
        )

    def _register_upstream(self) -> None:
        counter, gauge, histogram = self._counter, self._gauge, self._histogram
        self.upstream_requests = counter("upstream_requests", "Requests by status code; `error` for no answer.", "code")
        self.upstream_request_duration_seconds = histogram(
            "upstream_request_duration_seconds",
            "Time of a request, from connecting to the end of the answer.",
            (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
        )
        self.upstream_batch_events = histogram(
            "upstream_batch_events", "Events in a request.", (1, 2, 5, 10, 25, 50, 100, 250, 500, 1000)
        )
        self.upstream_batch_bytes = histogram(
            "upstream_batch_bytes",
            "Bytes of a request's body before compression.",
            (512, 1024, 4096, 16384, 65536, 131072, 262144, 524288, 1048576),
        )
        self.upstream_state = gauge("upstream_state", "Routes in this state.", "state")
        self.upstream_in_flight = gauge("upstream_in_flight", "Requests awaiting their answer.")
        self.devices_waiting = gauge("devices_waiting", "Devices with pending events.")
        self.devices_paused = gauge("devices_held", "Devices that may not send yet: limit, hold or backoff.")

    def _register_listeners(self) -> None:
        counter, gauge = self._counter, self._gauge
        self.connections = gauge("connections", "Open connections of apps.")
        self.max_connections = gauge("max_connections", "The limit of relay_connections.")
        self.connections_rejected = counter(
            "connections_rejected",
            "Connections that received a 503: http.max_connections was reached, and none was idle.",
        )
        self.status_streams = gauge("status_streams", "Open status pages that are live.")
        self.status_max_streams = gauge("status_max_streams", "The limit of relay_status_streams; a fixed one.")
        self.udp_datagrams_dropped = counter(
            "udp_datagrams_dropped", "Datagrams lost before they were read as events.", "reason"
        )
        self.udp_receive_buffer_bytes = gauge("udp_receive_buffer_bytes", "What the kernel gave of udp.receive_buffer.")
        self.event_loop_longest_step_seconds = gauge(
            "event_loop_longest_step_seconds", "Longest reading step since the start, in CPU time of the thread."
        )
        self.longest_step = LongestStep(self.event_loop_longest_step_seconds)

    def _register_process(self) -> None:
        counter, gauge = self._counter, self._gauge
        self.clock_skew_seconds = OptionalGauge(
            "relay_clock_skew_seconds",
            "How far this machine's clock is ahead of the upstream's; absent while unknown.",
            self.registry,
        )
        self.config_last_reload_successful = gauge(
            "config_last_reload_successful", "1 if the last reload was applied, 0 if it was refused."
        )
        self.log_lines_suppressed = counter("log_lines_suppressed", "Log lines left out by rate limits of the log.")
        self.log_lines_lost = counter("log_lines_lost", "Log lines that stderr did not take: stalled, closed or full.")
        self._build_info = gauge("build_info", "Constant 1; the labels say what runs.", "version", "python", "sqlite")

    def code(self, status: int) -> str:
        """The label of a status code; past CODES_MAX ones "other": an upstream must not choose our series."""
        code = str(status)
        if code not in self._codes:
            if len(self._codes) >= CODES_MAX:
                return "other"
            self._codes.add(code)
        return code

    def answers(self) -> dict[str, int]:
        """How many requests the upstream answered, by code; "error" for no answer."""
        return _counts(self.upstream_requests, "code")

    def refusals(self) -> dict[str, int]:
        """Events and datagrams that came and were not kept, by reason; those reasons only that there were."""
        counts = {**_counts(self.events_rejected, "reason"), **_counts(self.udp_datagrams_dropped, "reason")}
        return {reason: count for reason, count in counts.items() if count}

    def _touch(self) -> None:
        """Export every fixed label from the start: a series that appears late hides its first increase."""
        for transport in TRANSPORTS:
            self.events_received.labels(transport)
            self.events_accepted.labels(transport)
            self.events_duplicate.labels(transport)
            for reason in REJECT_REASONS:
                self.events_rejected.labels(transport, reason)
        for metric, values in (
            (self.events_dead_lettered, DEAD_REASONS),
            (self.events_dropped, DROP_REASONS),
            (self.udp_datagrams_dropped, UDP_DROP_REASONS),
            (self.upstream_state, UPSTREAM_STATES),
        ):
            for value in values:
                metric.labels(value)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"relay_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"relay_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"relay_{name}", text, buckets=buckets, registry=self.registry)


class OptionalGauge(Collector):
    """A gauge without a sample while its value is unknown."""

    def __init__(self, name: str, text: str, registry: CollectorRegistry) -> None:
        self._name = name
        self._text = text
        self._value: float | None = None
        registry.register(self)

    def set(self, value: float | None) -> None:
        """Set the value; None: unknown."""
        self._value = value

    def collect(self) -> Iterable[Metric]:
        """Return the family, with one sample if the value is known."""
        return [GaugeMetricFamily(self._name, self._text, self._value)]


def _counts(counter: Counter, label: str) -> dict[str, int]:
    """Values by one label, summed over the others."""
    (family,) = counter.collect()
    counts: dict[str, int] = {}
    for sample in family.samples:
        if sample.name.endswith("_total"):
            counts[sample.labels[label]] = counts.get(sample.labels[label], 0) + int(sample.value)
    return counts
