"""Define the settings of all packages: typed, complete, checked, in base units.

These classes are the only place that defines defaults; the table in `keys` reads them. Each field has the name of its
key with the unit appended (`batch.linger` -> `Batch.linger_ms`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from relay.event.rules import EventDefaults
from relay.runtime.address import Listen
from relay.runtime.secret import Secret

DEFAULT_TENANT_NAMES: Mapping[int, str] = {1: "Parlor", 2: "PlayTV"}


@dataclass(frozen=True, slots=True)
class EndpointSettings:
    """URL and key of a tenant's upstream."""

    url: str
    api_key: Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    default: EndpointSettings
    tenants: Mapping[int, EndpointSettings]
    """Endpoints of tenants with keys of their own. Missing values are those of `default`."""
    tenant_names: Mapping[int, str] = field(default_factory=lambda: DEFAULT_TENANT_NAMES)
    """Names for people, by tenant."""
    timeout_ms: int = 30_000
    max_in_flight: int = 8
    compression: Literal["none", "gzip"] = "none"
    proxy: str = field(default="", repr=False)
    """URL of the proxy. It may contain a password, so it is never printed and is masked in the log."""
    ca_file: str = ""
    client_cert_file: str = ""
    client_key_file: str = ""
    allow_http: bool = False
    allowed_tenants: Sequence[int] = ()
    """Tenants of accepted events. Empty: any."""

    def endpoint(self, tenant_id: int) -> EndpointSettings:
        return self.tenants.get(tenant_id, self.default)


@dataclass(frozen=True, slots=True, kw_only=True)
class Http:
    listen: Listen = ("127.0.0.1:8080", "[::1]:8080")
    unix_socket: str = ""
    max_body_bytes: int = 1 << 20
    max_event_bytes: int = 64 << 10
    request_timeout_ms: int = 10_000
    max_connections: int = 512
    allowed_hosts: Sequence[str] = ()
    """Allowed Host values in lower case, with or without a port. Loopback names are always allowed."""
    allowed_origins: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Udp:
    listen: Listen = ("127.0.0.1:8125", "[::1]:8125")
    receive_buffer_bytes: int = 4 << 20
    allowed_networks: Sequence[str] = ()
    """Networks in CIDR notation. Loopback is always allowed."""
    ack: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class OpsSettings:
    listen: Listen = ""
    token: Secret | None = None
    """Bearer token for operations, if configured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxSettings:
    path: Path = Path("data/outbox.db")
    kind: Literal["sqlite", "postgres"] = "sqlite"
    url: Secret | None = None
    """URL of the PostgreSQL database. It may contain a password."""
    schema: str = "relay"
    lease_ms: int = 10_000
    timeout_ms: int = 10_000
    require_replicated: bool = False
    replica_name: str = ""
    identity: Literal["machine", "fixed"] = "machine"
    adopt: bool = False
    max_size_bytes: int = 512 << 20
    max_devices: int = 50_000
    max_age_ms: int = 7 * 86_400_000
    when_full: Literal["reject", "drop_oldest"] = "reject"
    durability: Literal["full", "normal"] = "full"
    dedupe_window: int = 100_000
    max_dead_letters: int = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    linger_ms: int = 5_000
    max_events: int = 500
    max_bytes: int = 512 << 10
    mix_devices: Literal["when_ip_limited", "never", "always"] = "when_ip_limited"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    window_ms: int = 60_000
    device_per_window: int = 120
    ip_per_window: int = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    initial_ms: int = 1_000
    max_ms: int = 300_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Shutdown:
    drain_ms: int = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "console"] = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    upstream: Upstream
    secret_files: Mapping[str, Path] = field(default_factory=dict)
    """File from which each effective secret was read, by key. A tenant without its own key has the default's file."""
    sources: Mapping[str, str] = field(default_factory=dict, compare=False)
    """Value source by key, including the keys of configured tenants: "default", "defaults file PATH", "file PATH",
    "environment NAME", "file PATH named by NAME" or "credential NAME"; "upstream.url" or "upstream.api_key" for a
    tenant without its own."""
    http: Http = field(default_factory=Http)
    udp: Udp = field(default_factory=Udp)
    ops: OpsSettings = field(default_factory=OpsSettings)
    defaults: EventDefaults = field(default_factory=EventDefaults)
    """The service replaces the device id "auto" with a UUID stored beside the outbox."""
    outbox: OutboxSettings = field(default_factory=OutboxSettings)
    batch: Batch = field(default_factory=Batch)
    rate: Rate = field(default_factory=Rate)
    retry: Retry = field(default_factory=Retry)
    shutdown: Shutdown = field(default_factory=Shutdown)
    log: Log = field(default_factory=Log)
