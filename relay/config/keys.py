"""THE table of keys: what may be set, within which bounds, to which effect, and whether a reload can apply it.

The loader, `relay check-config`, and the tests of config.example.toml and docs/configuration.md are driven
by it; nothing else lists keys. A key's default is read from `settings`. Every secret `x` has a second key
`x_file`, the file it is read from. `<id>` in a key stands for a tenant's number.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from relay.config import settings as s
from relay.config.addresses import HostName, ListenAddresses, Network, ProxyUrl, Url, WebOrigin
from relay.config.paths import FilePath, OutboxPath, ReadableFile
from relay.config.values import (
    Duration,
    Flag,
    Items,
    Kind,
    Number,
    OneOf,
    SecretText,
    Size,
    Text,
)
from relay.event.rules import MAX_DEVICE_ID_CHARACTERS, MAX_TENANT_ID, MIN_TENANT_ID, PLATFORMS

SECTIONS: dict[str, Any] = {
    "upstream": s.Upstream,
    "http": s.Http,
    "udp": s.Udp,
    "ops": s.OpsSettings,
    "defaults": s.Defaults,
    "outbox": s.OutboxSettings,
    "batch": s.Batch,
    "rate": s.Rate,
    "retry": s.Retry,
    "shutdown": s.Shutdown,
    "log": s.Log,
}
TENANT = "upstream.tenants.<id>."
MAX_TENANTS = 64

_SECOND_MS, _MINUTE_MS, _HOUR_MS, _DAY_MS = 1_000, 60_000, 3_600_000, 86_400_000
_KIB, _MIB, _GIB, _TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40


class Key(NamedTuple):
    """One key: `section.leaf`, or `upstream.tenants.<id>.leaf`."""

    name: str
    kind: Kind
    effect: str
    restart: bool = False
    """A change waits for the next start; else SIGHUP applies it."""
    required: bool = False

    @property
    def section(self) -> str:
        return self.name.partition(".")[0]

    @property
    def field(self) -> str:
        """Name of the value's field in its section of Settings."""
        leaf = self.name.rpartition(".")[2]
        return leaf if leaf.endswith(self.kind.suffix) else leaf + self.kind.suffix

    @property
    def of_tenant(self) -> bool:
        return self.name.startswith(TENANT)

    @property
    def of_secret(self) -> str | None:
        """The secret that this key names the file of."""
        secret = BY_NAME.get(self.name.removesuffix("_file"))
        return secret.name if secret and secret is not self else None

    @property
    def in_settings(self) -> bool:
        """Whether its value is a field of its section; the others are parts of a route, or files read into one."""
        return not (self.required or self.of_tenant or self.of_secret)

    @property
    def default(self) -> Any:
        """As in Settings, None where there is none."""
        if not self.in_settings:
            return None
        (found,) = (field for field in dataclasses.fields(SECTIONS[self.section]) if field.name == self.field)
        return found.default


# fmt: off
KEYS: tuple[Key, ...] = (
    Key("upstream.url", Url(),
        "Full URL of the events endpoint; the key is sent to no other place.", required=True),
    Key("upstream.api_key", SecretText(),
        "The X-Events-Key; a file or a credential keeps it out of `ps` and backups.", required=True),
    Key("upstream.api_key_file", FilePath(),
        "File with the key; a change of it is noticed within 5 s without a signal."),
    Key("upstream.timeout", Duration(_SECOND_MS, 10 * _MINUTE_MS),
        "Longest time without progress of one request, and longest wait for its response; ten times as long in total. "
        "Then the relay resets the connection and sends the batch again."),
    Key("upstream.max_in_flight", Number(1, 256, "requests"),
        "Maximum number of concurrent requests, over all devices. A request without progress for 5 s does not count; "
        "at most eight times as many connections are open."),
    Key("upstream.compression", OneOf(("none", "gzip")),
        "Content-Encoding of requests; gzip only where the upstream is known to read it."),
    Key("upstream.proxy", ProxyUrl(userinfo=True, optional=True, path=False),
        "HTTP proxy to go through; proxy variables of the environment are not obeyed."),
    Key("upstream.proxy_file", FilePath(),
        "File with upstream.proxy, for a proxy that wants a password."),
    Key("upstream.ca_file", ReadableFile(),
        "Certificates (PEM) to trust instead of the system's."),
    Key("upstream.client_cert_file", ReadableFile(),
        "Client certificate (PEM) to present; its key may stand in it."),
    Key("upstream.client_key_file", ReadableFile(),
        "Private key (PEM) of upstream.client_cert_file."),
    Key("upstream.allow_http", Flag(),
        "Allows plain http to hosts other than loopback: anyone on the way can read key and events."),
    Key(f"{TENANT}url", Url(),
        "This tenant's endpoint: a route of its own that fails and recovers by itself."),
    Key(f"{TENANT}api_key", SecretText(),
        "This tenant's key, where it is not upstream.api_key."),
    Key(f"{TENANT}api_key_file", FilePath(),
        "File with this tenant's key; a change of it is noticed within 5 s."),
    Key("http.listen", ListenAddresses(),
        "Where apps post events; empty: no HTTP over TCP. localhost means both loopback addresses, [::] every "
        "interface over IPv4 and IPv6.", restart=True),
    Key("http.unix_socket", FilePath(max_bytes=107),
        "Path of a further listener; empty: none.", restart=True),
    Key("http.max_body", Size(_KIB, 64 * _MIB),
        "A request's body after decompression; a larger one gets 413.", restart=True),
    Key("http.max_event", Size(256, 16 * _MIB),
        "One event; a larger one gets 413, over UDP it is dropped and counted."),
    Key("http.request_timeout", Duration(100, 10 * _MINUTE_MS),
        "Head and body of one request; a slower client gets 408 and is closed.", restart=True),
    Key("http.max_connections", Number(1, 65_536, "connections"),
        "Open connections. Beyond it the longest idle one is closed; if none is idle, the new one receives a 503 and "
        "is counted.", restart=True),
    Key("http.allowed_hosts", Items(HostName()),
        "Further Host values that are answered; loopback names always are, others get 403.", restart=True),
    Key("http.allowed_origins", Items(WebOrigin()),
        "Browser origins that may post (CORS); others get 403.", restart=True),
    Key("udp.listen", ListenAddresses(),
        "Where apps send datagrams; empty: no UDP. Addresses are read as for http.listen.", restart=True),
    Key("udp.receive_buffer", Size(4 * _KIB, _GIB),
        "Asked of the kernel; what it gave is a metric, and what does not fit into it is lost.", restart=True),
    Key("udp.allowed_networks", Items(Network()),
        "Senders besides loopback that are heard; others are dropped and counted.", restart=True),
    Key("udp.ack", Flag(),
        "Sends one response per datagram, once its events are stored.", restart=True),
    Key("ops.listen", ListenAddresses(),
        "Own listener for status page, metrics and health; empty: they are on http.listen.", restart=True),
    Key("ops.token", SecretText(optional=True),
        "Bearer token for what changes state or shows event bodies; without one these answer loopback only."),
    Key("ops.token_file", FilePath(),
        "File with ops.token; a change of it is noticed within 5 s."),
    Key("defaults.tenant_id", Number(MIN_TENANT_ID, MAX_TENANT_ID, "id", optional=True),
        "Filled in where an event has no tenant_id; empty: such an event gets 422."),
    Key("defaults.platform", OneOf(("", *PLATFORMS)),
        "Filled in where an event has no source.platform; empty: such an event gets 422."),
    Key("defaults.device_id", Text(MAX_DEVICE_ID_CHARACTERS, blank=False),
        'Filled in where an event has no source.device_id; "auto": a UUID kept beside the outbox; '
        "empty: such an event gets 422."),
    Key("defaults.app_version", Text(),
        "Filled in where an event has no source.app_version; empty: nothing is."),
    Key("defaults.os_version", Text(),
        "Filled in where an event has no source.os_version; empty: nothing is."),
    Key("defaults.device_model", Text(),
        "Filled in where an event has no source.device_model; empty: nothing is."),
    Key("outbox.path", OutboxPath(optional=False),
        "The database; made with mode 0600. Under systemd the default is $STATE_DIRECTORY/outbox.db.", restart=True),
    Key("outbox.max_size", Size(_MIB, _TIB),
        "Database and write-ahead log together; beyond it outbox.when_full decides."),
    Key("outbox.max_age", Duration(_SECOND_MS, 3_650 * _DAY_MS),
        "Older events are dropped and counted."),
    Key("outbox.when_full", OneOf(("reject", "drop_oldest")),
        "reject: 503 to HTTP, counted drop on UDP; drop_oldest: the oldest events go, counted."),
    Key("outbox.durability", OneOf(("full", "normal")), restart=True,
        effect="full: fsync before the 202; normal: survives a crash, may lose the last moments in a power cut."),
    Key("outbox.identity", OneOf(("machine", "fixed")),
        "machine: an outbox from another machine is recognized and its pending events are quarantined; "
        "fixed: for volumes that move between machines.", restart=True),
    Key("outbox.adopt", Flag(),
        "Sends the pending events of an outbox from another machine at the next change of machine, without quarantine.",
        restart=True),
    Key("outbox.dedupe_window", Number(0, 10_000_000, "events"),
        "Latest event ids remembered, also across restarts; an older repeat is stored again.", restart=True),
    Key("outbox.max_dead_letters", Number(1, 1_000_000, "events"),
        "Dead letters kept; beyond it the oldest go, counted.", restart=True),
    Key("batch.linger", Duration(0, 10 * _MINUTE_MS),
        "The longest an event waits for company; shorter means more requests."),
    Key("batch.max_events", Number(1, 10_000, "events"),
        "Events in a request; a full batch leaves at once."),
    Key("batch.max_bytes", Size(_KIB, 64 * _MIB),
        "Bytes of a request's body before compression; a full batch leaves at once."),
    Key("batch.mix_devices", OneOf(("when_ip_limited", "never", "always")),
        "Whether one request may carry several devices of one tenant."),
    Key("rate.window", Duration(100, _HOUR_MS),
        "The span over which the upstream counts requests."),
    Key("rate.device_per_window", Number(1, 1_000_000, "requests"),
        "Requests for a device in any window, retries included; above the upstream's own limit it answers 429."),
    Key("rate.ip_per_window", Number(1, 1_000_000, "requests"),
        "Requests of a route in a window, assumed at first once an unknown shared limit is noticed."),
    Key("retry.initial", Duration(10, _HOUR_MS),
        "Upper end of the first backoff; it doubles with each failure, with full jitter."),
    Key("retry.max", Duration(10, _HOUR_MS),
        "Upper end of any backoff; nothing is ever given up but by outbox.max_age."),
    Key("shutdown.drain", Duration(0, 5 * _MINUTE_MS),
        "How long a stop waits for the last attempt at what is due; the rest stays in the outbox."),
    Key("log.level", OneOf(("debug", "info", "warning", "error")),
        "The least serious lines that are written."),
    Key("log.format", OneOf(("auto", "json", "console")),
        "auto: console on a terminal, else json.", restart=True),
)
# fmt: on

BY_NAME: Mapping[str, Key] = {key.name: key for key in KEYS}


def lookup(name: str) -> Key | None:
    """The key a full name, with a tenant's number in it, stands for."""
    match = re.fullmatch(r"upstream\.tenants\.(0|[1-9][0-9]{0,18})\.([a-z_]+)", name)
    if match is None:
        return BY_NAME.get(name) if "<" not in name else None
    return BY_NAME.get(TENANT + match[2]) if int(match[1]) <= MAX_TENANT_ID else None


def tenant_of(name: str) -> int:
    """The tenant's number in the full name of a tenant's key."""
    return int(name.split(".")[2])


def tenant_key(tenant_id: int, leaf: str) -> str:
    return TENANT.replace("<id>", str(tenant_id)) + leaf


def near(name: str) -> str | None:
    """The known key that a mistyped name is most like, with the tenant's number that was given."""
    from difflib import get_close_matches  # noqa: PLC0415 - slow to import, and needed for mistakes only

    match = re.match(r"upstream\.tenants\.(0|[1-9]\d*)\.", name)
    known = [key.name.replace("<id>", match[1]) if match else key.name for key in KEYS]
    same_leaf = [key for key in known if key.rpartition(".")[2] == name.rpartition(".")[2]]
    close = get_close_matches(name, known, n=1, cutoff=0.85) or same_leaf or get_close_matches(name, known, n=1)
    return close[0] if close else None


def default_path(environ: Mapping[str, str]) -> Path | None:
    """Where systemd wants this service's outbox: the first of the unit's state directories."""
    directory = environ.get("STATE_DIRECTORY", "").partition(":")[0]
    return Path(directory) / "outbox.db" if directory else None
