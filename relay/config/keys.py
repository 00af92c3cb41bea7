"""The table of configuration keys: type, bounds, effect, and whether a reload applies a change.

This is the only list of keys. The loader, `relay check-config`, and the test of config.example.toml use it. Defaults
are defined in `settings`. Every secret `x` has a second key `x_file`, the path of a file that contains the secret.
`<id>` in a key stands for a tenant's number.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from relay.config import settings as s
from relay.config.addresses import DatabaseUrl, HostName, ListenAddresses, Network, ProxyUrl, Url, WebOrigin
from relay.config.paths import FilePath, OutboxPath, ReadableFile
from relay.config.values import (
    Duration,
    Flag,
    Identifier,
    Items,
    Kind,
    Number,
    OneOf,
    SecretText,
    Size,
    Text,
)
from relay.event.rules import MAX_DEVICE_ID_CHARACTERS, MAX_TENANT_ID, MIN_TENANT_ID, PLATFORMS, EventDefaults

SECTIONS: dict[str, Any] = {
    "upstream": s.Upstream,
    "http": s.Http,
    "udp": s.Udp,
    "ops": s.OpsSettings,
    "defaults": EventDefaults,
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
    """Whether a change takes effect at the next start. SIGHUP applies all other changes."""
    required: bool = False

    @property
    def section(self) -> str:
        return self.name.partition(".")[0]

    @property
    def field(self) -> str:
        """Return the name of the field in the key's section of Settings."""
        leaf = self.name.rpartition(".")[2]
        return leaf if leaf.endswith(self.kind.suffix) else leaf + self.kind.suffix

    @property
    def of_tenant(self) -> bool:
        return self.name.startswith(TENANT)

    @property
    def of_secret(self) -> str | None:
        """Return the name of the secret if this key names its file, otherwise None."""
        secret = BY_NAME.get(self.name.removesuffix("_file"))
        return secret.name if secret and secret is not self else None

    @property
    def in_settings(self) -> bool:
        """Return whether the value is a field of the key's section.

        Other keys are parts of an endpoint, or name the file of a secret.
        """
        return not (self.required or self.of_tenant or self.of_secret)

    @property
    def default(self) -> Any:
        """Return the default as in Settings, or None without a default."""
        if not self.in_settings:
            return None
        (found,) = (field for field in dataclasses.fields(SECTIONS[self.section]) if field.name == self.field)
        return found.default


# fmt: off
KEYS: tuple[Key, ...] = (
    Key("upstream.url", Url(),
        "Full URL of the events endpoint. The relay sends the key to no other URL.", required=True),
    Key("upstream.api_key", SecretText(),
        "Value of the header X-Events-Key. Prefer a file or a systemd credential.", required=True),
    Key("upstream.api_key_file", FilePath(),
        "File that contains the key."),
    Key("upstream.timeout", Duration(_SECOND_MS, 10 * _MINUTE_MS),
        "Longest time without progress of one request, and longest wait for its response; ten times as long "
        "in total. Then the relay sends the batch again."),
    Key("upstream.max_in_flight", Number(1, 256, "requests"),
        "Maximum number of concurrent requests, over all devices. A request without progress for 5 s, or for twice "
        "the usual response time, does not count; at most eight times as many connections are open."),
    Key("upstream.compression", OneOf(("none", "gzip")),
        "Content-Encoding of requests. Use gzip only if the upstream supports it."),
    Key("upstream.proxy", ProxyUrl(userinfo=True, optional=True, path=False),
        "HTTP proxy for upstream requests. Proxy variables of the environment are ignored."),
    Key("upstream.proxy_file", FilePath(),
        "File that contains upstream.proxy, for a proxy with a password."),
    Key("upstream.ca_file", ReadableFile(),
        "Authorities (PEM) to trust instead of the system's."),
    Key("upstream.client_cert_file", ReadableFile(),
        "Client certificate (PEM). The file may also contain its private key."),
    Key("upstream.client_key_file", ReadableFile(),
        "Private key (PEM) of upstream.client_cert_file."),
    Key("upstream.allow_http", Flag(),
        "Allows plain http to hosts other than loopback. The network can then read the key and the events."),
    Key("upstream.allowed_tenants", Items(Number(MIN_TENANT_ID, MAX_TENANT_ID, "id")),
        "Tenants that apps may use; [] for any. Events of other tenants receive 422 over HTTP and are dropped over "
        "UDP. Stored events are still sent. Must contain defaults.tenant_id and the "
        "tenants of upstream.tenants."),
    Key(f"{TENANT}url", Url(),
        "URL of this tenant's endpoint. Its failures do not affect other tenants."),
    Key(f"{TENANT}api_key", SecretText(),
        "Key of this tenant. Without it, the relay uses upstream.api_key."),
    Key(f"{TENANT}api_key_file", FilePath(),
        "File that contains this tenant's key."),
    Key(f"{TENANT}name", Text(64),
        'Name of this tenant for people. Tenant 1 is "Parlor" and 2 is "PlayTV" by default.'),
    Key("http.listen", ListenAddresses(),
        'Addresses on which apps post events; "" for no HTTP over TCP.', restart=True),
    Key("http.unix_socket", FilePath(max_bytes=107),
        'Path of a unix socket on which apps post events; "" for none.', restart=True),
    Key("http.max_body", Size(_KIB, 64 * _MIB),
        "Maximum size of a request body after decompression. A larger body receives 413.", restart=True),
    Key("http.max_event", Size(256, 16 * _MIB),
        "Maximum size of an event. Over HTTP, a larger event receives 413; over UDP, it is dropped and counted."),
    Key("http.request_timeout", Duration(100, 10 * _MINUTE_MS),
        "Maximum time to receive a request. A slower client receives 408, and its connection is closed.",
        restart=True),
    Key("http.max_connections", Number(1, 65_536, "connections"),
        "Maximum number of open connections. Beyond it the relay closes the longest idle one, or rejects the "
        "new one with 503.", restart=True),
    Key("http.allowed_hosts", Items(HostName()),
        "Further allowed values of the header Host. Loopback names are always allowed; all others receive 403.",
        restart=True),
    Key("http.allowed_origins", Items(WebOrigin()),
        "Browser origins that may post events (CORS). All others receive 403.", restart=True),
    Key("udp.listen", ListenAddresses(),
        'Addresses on which apps send datagrams, as for http.listen; "" for no UDP.', restart=True),
    Key("udp.receive_buffer", Size(4 * _KIB, _GIB),
        "Receive buffer to request from the kernel. Datagrams that do not fit are lost and counted.", restart=True),
    Key("udp.allowed_networks", Items(Network()),
        "Networks of allowed senders besides loopback. Datagrams of other senders are dropped and counted.",
        restart=True),
    Key("udp.ack", Flag(),
        "Sends one response per datagram after its events are stored.", restart=True),
    Key("ops.listen", ListenAddresses(),
        'Addresses of a separate listener for status page, metrics and health; "" to serve them on http.listen.',
        restart=True),
    Key("ops.token", SecretText(optional=True),
        "Bearer token for operations that change state or show event bodies. Without a token, only clients on this "
        "machine may use them."),
    Key("ops.token_file", FilePath(),
        "File that contains ops.token."),
    Key("defaults.tenant_id", Number(MIN_TENANT_ID, MAX_TENANT_ID, "id", optional=True),
        'tenant_id for events without one; "" to reject them with 422.'),
    Key("defaults.platform", OneOf(("", *PLATFORMS)),
        'source.platform for events without one; "" to reject them with 422.'),
    Key("defaults.device_id", Text(MAX_DEVICE_ID_CHARACTERS, blank=False),
        'source.device_id for events without one; "auto" for a UUID that is stored beside the outbox; "" to reject '
        "them with 422."),
    Key("defaults.app_version", Text(),
        'source.app_version for events without one; "" to add none.'),
    Key("defaults.os_version", Text(),
        'source.os_version for events without one; "" to add none.'),
    Key("defaults.device_model", Text(),
        'source.device_model for events without one; "" to add none.'),
    Key("outbox.path", OutboxPath(optional=False),
        "Path of the database, which has mode 0600. Under systemd the default is $STATE_DIRECTORY/outbox.db.",
        restart=True),
    Key("outbox.kind", OneOf(("sqlite", "postgres")),
        "sqlite: one relay, on a local disk; postgres: several relays share the database outbox.url.", restart=True),
    Key("outbox.url", DatabaseUrl(),
        "PostgreSQL database of outbox.kind = postgres. Prefer a file or a systemd credential.", restart=True),
    Key("outbox.url_file", FilePath(),
        "File that contains outbox.url.", restart=True),
    Key("outbox.schema", Identifier(),
        "Schema of the relays' tables in the database. Relays with the same schema share one outbox.", restart=True),
    Key("outbox.lease", Duration(_SECOND_MS, 10 * _MINUTE_MS),
        "Time after the last contact with the database for which a relay sends. The others take over its devices "
        "after 1.25 times this time. The same for all relays of a database.", restart=True),
    Key("outbox.timeout", Duration(_SECOND_MS, 10 * _MINUTE_MS),
        "Maximum duration of a statement in the database. While the database does not respond for this time, events "
        "receive 503.", restart=True),
    Key("outbox.require_replicated", Flag(),
        "Rejects events with 503 unless a synchronous standby of the database confirms each commit.", restart=True),
    Key("outbox.replica_name", Text(48),
        'Name of this relay in the database and in the status; "" for the host name.', restart=True),
    Key("outbox.max_size", Size(_MIB, _TIB),
        "Maximum size of database and write-ahead log together. At the limit, outbox.when_full applies."),
    Key("outbox.max_devices", Number(1, 10_000_000, "devices"),
        "Maximum number of devices that the relay remembers. At the limit, events of a further device receive 503 "
        "until a device without pending events is forgotten."),
    Key("outbox.max_age", Duration(_SECOND_MS, 3_650 * _DAY_MS),
        "Maximum age of a pending event. Older events are dropped and counted."),
    Key("outbox.when_full", OneOf(("reject", "drop_oldest")),
        "reject: new events receive 503 over HTTP and are dropped over UDP; drop_oldest: the oldest events "
        "are dropped."),
    Key("outbox.durability", OneOf(("full", "normal")), restart=True,
        effect="full: fsync before the 202; normal: no loss when the relay crashes, but a power cut may lose the last "
        "events."),
    Key("outbox.identity", OneOf(("machine", "fixed")),
        "machine: the relay quarantines pending events that another machine stored; fixed: for volumes that move "
        "between machines.", restart=True),
    Key("outbox.adopt", Flag(),
        "At a change of machine, sends the pending events of the other machine instead of quarantining them.",
        restart=True),
    Key("outbox.dedupe_window", Number(0, 10_000_000, "events"),
        "Number of recently stored event ids to remember. A repeat of an older event is stored again.", restart=True),
    Key("outbox.max_dead_letters", Number(1, 1_000_000, "events"),
        "Maximum number of dead letters. Beyond it the device with the most loses its oldest, which is counted.",
        restart=True),
    Key("batch.linger", Duration(0, 10 * _MINUTE_MS),
        "Maximum time an event waits for more events of its batch. A shorter time means more requests."),
    Key("batch.max_events", Number(1, 10_000, "events"),
        "Maximum number of events in a request. A full batch is sent at once."),
    Key("batch.max_bytes", Size(_KIB, 64 * _MIB),
        "Maximum size of a request body before compression. A full batch is sent at once."),
    Key("batch.mix_devices", OneOf(("when_ip_limited", "never", "always")),
        "Whether a request may contain events of several devices of a tenant: under a shared limit or while more "
        "devices are due than request slots are free, never, or always. Always, devices linger together."),
    Key("rate.window", Duration(100, _HOUR_MS),
        "Period over which the upstream counts requests."),
    Key("rate.device_per_window", Number(1, 1_000_000, "requests"),
        "Maximum number of requests for a device in any window, retries included."),
    Key("rate.ip_per_window", Number(1, 1_000_000, "requests"),
        "First estimate of an unknown shared limit, in requests per window."),
    Key("retry.initial", Duration(10, _HOUR_MS),
        "Upper bound of the first backoff. It doubles with each failure; the backoff has full jitter."),
    Key("retry.max", Duration(10, _HOUR_MS),
        "Upper bound of every backoff; 15 s while no request leaves the machine."
        " Only outbox.max_age ends the retries."),
    Key("shutdown.drain", Duration(0, 5 * _MINUTE_MS),
        "Maximum time to send pending events at a stop. All others stay in the outbox."),
    Key("log.level", OneOf(("debug", "info", "warning", "error")),
        "Minimum level of the log lines."),
    Key("log.format", OneOf(("auto", "json", "console")),
        "auto: console on a terminal, otherwise json. In the systemd journal lines have priorities.", restart=True),
)
# fmt: on

BY_NAME: Mapping[str, Key] = {key.name: key for key in KEYS}


def lookup(name: str) -> Key | None:
    """Return the key of a full name, which may contain a tenant's number, or None."""
    match = re.fullmatch(r"upstream\.tenants\.(0|[1-9][0-9]{0,18})\.([a-z_]+)", name)
    if match is None:
        return BY_NAME.get(name) if "<" not in name else None
    return BY_NAME.get(TENANT + match[2]) if int(match[1]) <= MAX_TENANT_ID else None


def tenant_of(name: str) -> int:
    """Return the tenant's number in the full name of a tenant's key."""
    return int(name.split(".")[2])


def tenant_key(tenant_id: int, leaf: str) -> str:
    return TENANT.replace("<id>", str(tenant_id)) + leaf


def near(name: str) -> str | None:
    """Return the known key most similar to a mistyped name, with the tenant's number of the name, or None."""
    from difflib import get_close_matches  # noqa: PLC0415 - slow to import, needed for mistakes only

    match = re.match(r"upstream\.tenants\.(0|[1-9]\d*)\.", name)
    known = [key.name.replace("<id>", match[1]) if match else key.name for key in KEYS]
    same_leaf = [key for key in known if key.rpartition(".")[2] == name.rpartition(".")[2]]
    close = get_close_matches(name, known, n=1, cutoff=0.85) or same_leaf or get_close_matches(name, known, n=1)
    return close[0] if close else None


def default_path(environ: Mapping[str, str]) -> Path | None:
    """Return the path of the outbox in the unit's first state directory under systemd, or None."""
    directory = environ.get("STATE_DIRECTORY", "").partition(":")[0]
    return Path(directory) / "outbox.db" if directory else None
