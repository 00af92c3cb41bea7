"""Register every metric that the relay exports. Other packages update the metrics; `ops` exposes them.

Rules: names and labels are part of the contract. Units are base units. There are at most 300 series, so a
label never contains a device, an event id or another value that an app chooses. Counters start at zero with
the process; the ledger in status.json covers the life of the outbox.

Each Metrics has its own registry, because tests and the simulation run several relays in one process.
"""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from relay.runtime.event_feed import EventFeed
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
    "max_devices",  # 503: a further device beyond outbox.max_devices
    "unavailable",  # 503: disk failing, or shutting down
)
DEAD_REASONS = ("refused", "too_large", "poison", "corrupt")
DROP_REASONS = ("age", "size", "discarded")
UDP_DROP_REASONS = ("kernel", "network", "truncated", "backlog")
CODES_MAX = 40
UPSTREAM_STATES = ("untested", "ok", "backing_off", "rate_limited", "unauthorized", "misconfigured")

# The library adds a `_created` series to each counter and histogram unless this switch of the process is off.
disable_created_metrics()  # type: ignore[no-untyped-call]  # the library has no annotation here


class Metrics:
    """The relay's counters, gauges and histograms. Attribute names are the metric names without `relay_`.

    `feed` reports single events, which metrics only count.
    """

    def __init__(self) -> None:
        self.feed = EventFeed()
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
        self.events_received = counter("events_received", "Events received, before any check.", "transport")
        self.events_accepted = counter("events_accepted", "Events stored and acknowledged.", "transport")
        self.events_rejected = counter("events_rejected", "Events rejected, by reason.", "transport", "reason")
        self.events_duplicate = counter(
            "events_duplicate", "Events acknowledged but not stored again: a known event_id.", "transport"
        )
        self.event_id_conflicts = counter(
            "event_id_conflicts",
            "Events not stored because an event with other bytes has the same event_id.",
        )
        self.events_delivered = counter("events_delivered", "Events accepted by the upstream.")
        self.events_reordered = counter(
            "events_reordered", "Delivered events of which a later one of the same device was delivered before."
        )
        self.events_dead_lettered = counter("events_dead_lettered", "Events moved to the dead letters.", "reason")
        self.events_dropped = counter(
            "events_dropped", "Events dropped by a configured limit or by an operator.", "reason"
        )
        self.events_requeued = counter("events_requeued", "Dead letters appended to the outbox again.")
        self.dead_letters_discarded = counter(
            "dead_letters_discarded", "Dead letters deleted because outbox.max_dead_letters was reached."
        )

    def _register_outbox(self) -> None:
        counter, gauge, histogram = self._counter, self._gauge, self._histogram
        self.outbox_events = gauge("outbox_events", "Pending events.")
        self.outbox_bytes = gauge("outbox_bytes", "Size of database and write-ahead log together.")
        self.outbox_max_bytes = gauge("outbox_max_bytes", "The limit of relay_outbox_bytes (outbox.max_size).")
        self.devices = gauge("devices", "Devices that the relay remembers.")
        self.max_devices = gauge("max_devices", "The limit of relay_devices (outbox.max_devices).")
        self.outbox_oldest_event_age_seconds = gauge(
            "outbox_oldest_event_age_seconds", "Age of the oldest pending event."
        )
        self.outbox_writable = gauge("outbox_writable", "1 if events can be stored now, otherwise 0.")
        self.outbox_replicas = gauge("outbox_replicas", "Relays that share the outbox; 0 if it is not shared.")
        self.outbox_owed = gauge(
            "outbox_owed", "Requests of relays that lost their lease which may still arrive; they occupy rate slots."
        )
        self.outbox_replicated = gauge(
            "outbox_replicated", "1 if a synchronous standby confirms each commit, otherwise 0."
        )
        self.outbox_takeovers = counter("outbox_takeovers", "Relays that were silent and lost their lease to this one.")
        self.outbox_set_aside = counter(
            "outbox_set_aside", "Broken outbox files quarantined at start; alert on any increase."
        )
        self.outbox_written_bytes = counter("outbox_written_bytes", "Bytes written to database and write-ahead log.")
        self.outbox_commits = counter("outbox_commits", "Commits; one fsync each with outbox.durability full.")
        self.outbox_commit_duration_seconds = histogram(
            "outbox_commit_duration_seconds",
            "Duration of a commit, fsync included.",
            (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
        )
        self.dead_letters = gauge("dead_letters", "Stored dead letters.")
        self.events_quarantined = gauge(
            "events_quarantined", "Quarantined events of another machine; `relay adopt` sends them."
        )
        self.installation_changed = counter(
            "installation_changed", "Starts that found an installation copied from another machine."
        )

    def _register_upstream(self) -> None:
        counter, gauge, histogram = self._counter, self._gauge, self._histogram
        self.upstream_requests = counter(
            "upstream_requests", "Requests by status code; `error` for no response.", "code"
        )
        self.upstream_request_duration_seconds = histogram(
            "upstream_request_duration_seconds",
            "Duration of a request, from connecting to the end of the response.",
            (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
        )
        self.upstream_batch_events = histogram(
            "upstream_batch_events", "Events in a request.", (1, 2, 5, 10, 25, 50, 100, 250, 500, 1000)
        )
        self.upstream_batch_bytes = histogram(
            "upstream_batch_bytes",
            "Bytes of a request body before compression.",
            (512, 1024, 4096, 16384, 65536, 131072, 262144, 524288, 1048576),
        )
        self.upstream_state = gauge("upstream_state", "Endpoints in this state.", "state")
        self.upstream_in_flight = gauge("upstream_in_flight", "Requests without a response yet.")
        self.devices_waiting = gauge("devices_waiting", "Devices with pending events.")
        self.devices_paused = gauge("devices_held", "Devices paused by a limit, a server or backoff.")

    def _register_listeners(self) -> None:
        counter, gauge = self._counter, self._gauge
        self.connections = gauge("connections", "Open connections of apps.")
        self.max_connections = gauge("max_connections", "The limit of relay_connections.")
        self.connections_rejected = counter(
            "connections_rejected",
            "Connections rejected with 503: http.max_connections was reached, and none was idle.",
        )
        self.status_streams = gauge("status_streams", "Open streams of live status pages and followed events.")
        self.status_max_streams = gauge("status_max_streams", "The fixed limit of relay_status_streams.")
        self.udp_datagrams_dropped = counter(
            "udp_datagrams_dropped", "Datagrams lost before they were read as events.", "reason"
        )
        self.udp_receive_buffer_bytes = gauge(
            "udp_receive_buffer_bytes", "Receive buffer granted by the kernel (udp.receive_buffer)."
        )
        self.event_loop_longest_step_seconds = gauge(
            "event_loop_longest_step_seconds",
            "Longest step of reading a body or datagrams since the start, in CPU time of the thread.",
        )
        self.longest_step = LongestStep(self.event_loop_longest_step_seconds)

    def _register_process(self) -> None:
        counter, gauge = self._counter, self._gauge
        ProcessCollector(registry=self.registry)  # `process_*`, where the system has /proc
        self.clock_skew_seconds = OptionalGauge(
            "relay_clock_skew_seconds",
            "Time by which this machine's clock is ahead of the upstream's; absent while unknown.",
            self.registry,
        )
        self.config_last_reload_successful = gauge(
            "config_last_reload_successful", "1 if the last reload was applied, 0 if it was rejected."
        )
        self.log_lines_suppressed = counter("log_lines_suppressed", "Log lines suppressed by the log's rate limits.")
        self.log_lines_lost = counter("log_lines_lost", "Log lines lost because stderr was stalled, closed or full.")
        self._build_info = gauge(
            "build_info", "Constant 1; the labels contain the versions.", "version", "python", "sqlite"
        )

    def code(self, status: int) -> str:
        """Return the label of a status code. Beyond CODES_MAX different codes it is "other", to bound the series."""
        code = str(status)
        if code not in self._codes:
            if len(self._codes) >= CODES_MAX:
                return "other"
            self._codes.add(code)
        return code

    def responses(self) -> dict[str, int]:
        """Return the number of requests by status code; "error" counts requests without a response."""
        return _counts(self.upstream_requests, "code")

    def dead_lettered(self) -> dict[str, int]:
        """Return the number of events moved to the dead letters, by reason."""
        return _counts(self.events_dead_lettered, "reason")

    def dropped(self) -> dict[str, int]:
        """Return the number of dropped events, by reason."""
        return _counts(self.events_dropped, "reason")

    def rejections(self) -> dict[str, int]:
        """Return the number of events and datagrams received but not stored, by reason, without zeros."""
        counts = {**_counts(self.events_rejected, "reason"), **_counts(self.udp_datagrams_dropped, "reason")}
        return {reason: count for reason, count in counts.items() if count}

    def _touch(self) -> None:
        """Export every fixed label value from the start, because a new series hides its first increase."""
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
        """Set the value; None means unknown."""
        self._value = value

    def collect(self) -> Iterable[Metric]:
        """Return the metric family, with one sample if the value is known."""
        return [GaugeMetricFamily(self._name, self._text, self._value)]


def _counts(counter: Counter, label: str) -> dict[str, int]:
    """Return the values of a counter by one label, summed over the other labels."""
    (family,) = counter.collect()
    counts: dict[str, int] = {}
    for sample in family.samples:
        if sample.name.endswith("_total"):
            counts[sample.labels[label]] = counts.get(sample.labels[label], 0) + int(sample.value)
    return counts
