"""Compose what the status shows: the configured upstreams and their sources, and the events of the last hour."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence

from relay.app import process
from relay.config import Settings, describe, shown_url, tenant_key
from relay.ops.explanations import ConfiguredUpstream
from relay.ops.history import History
from relay.ops.last_hour import Counts, LastHour
from relay.ops.status import Facts, ScheduleView, Status
from relay.outbox import Outbox
from relay.runtime.clock import Clock
from relay.runtime.metrics import Metrics


def create_status(
    outbox: Outbox,
    schedule: ScheduleView,
    history: History,
    last_hour: LastHour,
    clock: Clock,
    metrics: Metrics,
    *,
    settings: Callable[[], Settings],
    addresses: Callable[[], tuple[Sequence[str], Sequence[str], Sequence[str]]],
    clock_skew_ms: Callable[[], int | None],
) -> Status:
    """Return the status.

    `settings` returns the settings in effect, `addresses` those of HTTP and UDP for apps, and the names of the
    listeners whose sockets systemd passed.
    """
    return Status(
        outbox,
        schedule,
        history,
        clock,
        facts=lambda: _facts(settings(), *addresses()),
        rejections=metrics.rejections,
        upstreams=lambda: configured_upstreams(settings()),
        tenant_names=lambda: settings().upstream.tenant_names,
        last_hour=last_hour.counts,
        disk_free_bytes=lambda: process.free_bytes(settings().outbox.path),
        clock_skew_ms=clock_skew_ms,
    )


def _facts(settings: Settings, http: Sequence[str], udp: Sequence[str], systemd: Sequence[str]) -> Facts:
    rate, max_age_ms = settings.rate, settings.outbox.max_age_ms
    return Facts(platform.node(), http, udp, systemd, max_age_ms, rate.window_ms, rate.device_per_window)


def described(settings: Settings) -> dict[str, object]:
    """Return the value of each key with secrets masked, and its source."""
    return {
        name: {"value": value, "source": settings.sources.get(name, "")} for name, value in describe(settings).items()
    }


def create_last_hour(settings: Settings, clock: Clock, metrics: Metrics, outbox: Outbox) -> LastHour:
    """Return the counts of the last hour, from the metrics of this process."""

    def totals() -> Counts:
        return {
            **{("rejected", reason): count for reason, count in metrics.rejections().items()},
            **{("dead_lettered", reason): count for reason, count in metrics.dead_lettered().items()},
            **{("dropped", reason): count for reason, count in metrics.dropped().items()},
        }

    return LastHour(settings.outbox.path, clock, totals, outbox.ledger)


def configured_upstreams(settings: Settings) -> Mapping[int | None, ConfiguredUpstream]:
    """Return the upstream of each configured tenant, and of all others (None)."""
    upstream = settings.upstream
    tenants: dict[int | None, ConfiguredUpstream] = {
        tenant_id: _configured(settings, tenant_key(tenant_id, "url"), tenant_key(tenant_id, "api_key"), endpoint.url)
        for tenant_id, endpoint in upstream.tenants.items()
    }
    return {None: _configured(settings, "upstream.url", "upstream.api_key", upstream.default.url), **tenants}


def _configured(settings: Settings, url_key: str, api_key_key: str, url: str) -> ConfiguredUpstream:
    return ConfiguredUpstream(shown_url(url), *_origin(settings, url_key), *_origin(settings, api_key_key))


def _origin(settings: Settings, key: str) -> tuple[str, str]:
    """Return the key that sets the value, which is the default's for a tenant without its own, and its source."""
    source = settings.sources.get(key, "")
    return (source, settings.sources[source]) if source.startswith("upstream.") else (key, source)
