"""Build Settings from the values of all sources, and report all faults at once.

The strongest source wins. A value that a stronger source overrides is checked too, because it becomes effective when
the stronger one is removed. RULES relates pairs of keys. All files are read in the calling thread: they are few and
their size is bounded.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from relay.config.addresses import Url, is_loopback
from relay.config.describe import query_secrets, shown_value
from relay.config.faults import ConfigError, ConfigFault
from relay.config.keys import KEYS, SECTIONS, default_path, lookup, tenant_key, tenant_of
from relay.config.paths import exists
from relay.config.settings import DEFAULT_TENANT_NAMES, EndpointSettings, Settings
from relay.config.sources import Given, collect, read_secret
from relay.config.values import Wrong, toml
from relay.runtime.address import overlap
from relay.runtime.secret import MASK, Secret

MAX_SHOWN_CHARS = 120
CONFIG_FILES = (Path("config.toml"), Path("/etc/relay/config.toml"), Path("/etc/event-relay/config.toml"))


class Rule(NamedTuple):
    """A required order of the values of two keys."""

    smaller: str
    larger: str
    why: str


RULES = (
    Rule("http.max_event", "http.max_body", "each allowed event must fit into a body"),
    Rule("http.max_event", "batch.max_bytes", "each allowed event must fit into a batch"),
    Rule("http.max_body", "outbox.max_size", "each allowed body must fit into the outbox"),
    Rule("retry.initial", "retry.max", "backoff grows from retry.initial to retry.max"),
    Rule("batch.linger", "outbox.max_age", "otherwise events are dropped for their age before they are sent"),
)


def load(config_file: Path | None, environ: Mapping[str, str]) -> Settings:
    """Return the effective settings, including secrets. Without a file, use environment and defaults only.

    Raises ConfigError with all faults.
    """
    resolved = _Resolved(config_file, environ)
    if resolved.faults:
        raise ConfigError(resolved.faults)
    return resolved.settings()


def load_for_client(config_file: Path | None, environ: Mapping[str, str]) -> Settings:
    """Return settings for a command that only calls a running relay; the user may have no access to its secrets.

    Faults of `upstream.*`, `outbox.url` and `ops.token` are ignored: URL and key are then empty, and the others are
    None. Raises ConfigError with all other faults.
    """
    resolved = _Resolved(config_file, environ)
    faults = [fault for fault in resolved.faults if not fault.key.startswith(("upstream.", "outbox.url", "ops.token"))]
    if faults:
        raise ConfigError(faults)
    return resolved.settings()


def with_changed_files(settings: Settings) -> Settings:
    """Return the settings with the current content of their secret files, and with no other change.

    This does not read the configuration file. Raises ConfigError with all files without a valid secret.
    """
    found: dict[str, Any] = {}
    faults: list[ConfigFault] = []
    for name, path in settings.secret_files.items():
        key, secret = lookup(name), read_secret(path)
        assert key is not None
        value = secret if isinstance(secret, Wrong) else key.kind.read(secret)
        if isinstance(value, Wrong):
            faults.append(ConfigFault(f"file {path}", name, "", value.why))
        found[name] = value
    if faults:
        raise ConfigError(faults)
    upstream = settings.upstream
    tenants = {
        tenant_id: replace(endpoint, api_key=found.get(tenant_key(tenant_id, "api_key"), endpoint.api_key))
        for tenant_id, endpoint in upstream.tenants.items()
    }
    default = replace(upstream.default, api_key=found.get("upstream.api_key", upstream.default.api_key))
    return replace(
        settings,
        upstream=replace(upstream, default=default, tenants=tenants, proxy=found.get("upstream.proxy", upstream.proxy)),
        ops=replace(settings.ops, token=found.get("ops.token", settings.ops.token)),
        outbox=replace(settings.outbox, url=found.get("outbox.url", settings.outbox.url)),
    )


def possible_secrets(config_file: Path | None, environ: Mapping[str, str]) -> list[Secret]:
    """Return all text that may be a secret, even in a faulty configuration.

    These are the secrets themselves, paths of missing secret files (perhaps a secret in the wrong key), and the values
    in the queries of URLs.
    """
    found: list[str] = []
    for given in collect(config_file, environ).given:
        raw = given.raw if isinstance(given.raw, str) else ""
        if given.key.kind.secret:
            found.append(raw)
        elif given.key.of_secret and (isinstance(given.key.kind.read(raw), Wrong) or not exists(Path(raw))):
            found += [raw, Path(raw).name]
        elif isinstance(given.key.kind, Url):
            found += query_secrets(raw)
    return [Secret(text) for text in dict.fromkeys(found) if text]


def find_config_file(given: Path | None, environ: Mapping[str, str]) -> Path | None:
    """Return `given` (--config), the file of RELAY_CONFIG, or the first accessible file of CONFIG_FILES, or None.

    The file of --config or RELAY_CONFIG may be missing. `load` then reports the fault.
    """
    if given is not None:
        return given
    if environ.get("RELAY_CONFIG"):
        return Path(environ["RELAY_CONFIG"])
    return next((path for path in CONFIG_FILES if exists(path)), None)


def _is_tenant_name(key: str) -> bool:
    return key.startswith("upstream.tenants.") and key.endswith(".name")


class _Resolved:
    """The strongest valid value of each key, and the faults. A key without a valid value has its default."""

    def __init__(self, config_file: Path | None, environ: Mapping[str, str]) -> None:
        collected = collect(config_file, environ)
        self.faults = collected.faults
        self._config_file = config_file
        self._is_file_readable = collected.is_file_readable
        self.values: dict[str, Any] = {key.name: key.default for key in KEYS if not key.of_tenant}
        self.sources = dict.fromkeys(self.values, "default")
        self._secret_files: dict[str, Path] = {}
        state = default_path(environ)
        if state is not None:
            self.values["outbox.path"] = state
            self.sources["outbox.path"] = "environment STATE_DIRECTORY"
        for given in collected.given:
            self._take(given)
        self._check()

    def settings(self) -> Settings:
        sections = {section: structure(**self._fields(section)) for section, structure in SECTIONS.items()}
        inherited = {
            tenant_key(tenant_id, leaf): f"upstream.{leaf}"
            for tenant_id in self._tenant_ids()
            for leaf in ("url", "api_key")
        }
        files = {**self._inherited_files(), **self._secret_files}
        names = {tenant_key(tenant_id, "name"): "default" for tenant_id in DEFAULT_TENANT_NAMES}
        return Settings(**sections, secret_files=files, sources=inherited | names | self.sources)

    def _inherited_files(self) -> dict[str, Path]:
        """Return the default key's file for each tenant without a key of its own."""
        default = self._secret_files.get("upstream.api_key")
        names = [tenant_key(tenant_id, "api_key") for tenant_id in self._tenant_ids()]
        return {} if default is None else {name: default for name in names if name not in self.values}

    def _tenant_ids(self) -> list[int]:
        """Return the tenants with a URL or key of their own."""
        names = [name for name in self.values if name.startswith("upstream.tenants.") and not _is_tenant_name(name)]
        return sorted(set(map(tenant_of, names)))

    def _tenant_names(self) -> dict[int, str]:
        given = {tenant_of(name): value for name, value in self.values.items() if _is_tenant_name(name)}
        return {**DEFAULT_TENANT_NAMES, **given}

    def _fields(self, section: str) -> dict[str, Any]:
        fields = {key.field: self.values[key.name] for key in KEYS if key.section == section and key.in_settings}
        if section == "upstream":
            default = EndpointSettings(self.values["upstream.url"] or "", self.values["upstream.api_key"] or Secret(""))
            fields |= {"default": default, "tenants": self._tenants(default), "tenant_names": self._tenant_names()}
        return fields

    def _tenants(self, default: EndpointSettings) -> dict[int, EndpointSettings]:
        return {
            tenant_id: EndpointSettings(
                self.values.get(tenant_key(tenant_id, "url"), default.url),
                self.values.get(tenant_key(tenant_id, "api_key"), default.api_key),
            )
            for tenant_id in self._tenant_ids()
        }

    def _take(self, given: Given) -> None:
        value = given.key.kind.read(given.raw)
        if isinstance(value, Wrong):
            hidden = given.key.kind.secret or given.key.of_secret or "@" in str(given.raw)
            shown = MASK if hidden else toml(shown_value(given.key, given.raw))
            problem = f"{value.why}; allowed: {given.key.kind.allowed}"
            self.faults.append(ConfigFault(given.source, given.name, _cut(shown), problem))
            return
        self.values[given.name] = value
        self.sources[given.name] = given.source
        self._secret_files.pop(given.name, None)
        if given.file is not None:
            self._secret_files[given.name] = given.file

    def _check(self) -> None:
        """Report missing values and values that contradict each other."""
        faulty = {fault.key for fault in self.faults}
        if self._is_file_readable:
            self._check_required(faulty)
        self._check_listeners()
        self._check_moved_outbox()
        for rule in RULES:
            if not faulty & {rule.smaller, rule.larger}:
                self._check_rule(rule)
        self._check_plain_http()
        if "upstream.allowed_tenants" not in faulty:
            self._check_allowed_tenants()
        if self.values["upstream.client_key_file"] and not self.values["upstream.client_cert_file"]:
            self._fault("upstream.client_key_file", "requires upstream.client_cert_file")
        ops = self.values["ops.listen"]
        if overlap(ops, self.values["http.listen"]):
            self._fault("ops.listen", 'has an address of http.listen; to serve both on http.listen, set it to ""')

    def _check_required(self, faulty: Set[str]) -> None:
        """Report missing values. Call it only for a readable file, because an unreadable one may contain them."""
        if self.values["upstream.url"] is None and "upstream.url" not in faulty:
            self._fault("upstream.url", "is required; set it in the configuration file or as RELAY__UPSTREAM__URL")
        if self.values["upstream.api_key"] is None and not faulty & {"upstream.api_key", "upstream.api_key_file"}:
            self._fault(
                "upstream.api_key",
                "is required; set it, or upstream.api_key_file, in the configuration file, "
                "as RELAY__UPSTREAM__API_KEY or RELAY__UPSTREAM__API_KEY_FILE, "
                "or as systemd credential upstream.api_key",
            )
        has_url = self.values["outbox.url"] is not None or faulty & {"outbox.url", "outbox.url_file"}
        if self.values["outbox.kind"] == "postgres" and not has_url:
            self._fault("outbox.url", 'is required with outbox.kind = "postgres"; set it, or outbox.url_file')

    def _check_listeners(self) -> None:
        if not any(self.values[name] for name in ("http.listen", "http.unix_socket", "udp.listen")):
            self._fault(
                "http.listen",
                "is empty, and so are http.unix_socket and udp.listen, so the relay cannot receive events: "
                "set at least one of them",
            )

    def _check_moved_outbox(self) -> None:
        """Report an outbox that exists only at the path used by earlier versions.

        These resolved every path against the working directory. A relay that started with a new, empty outbox would
        never send the events of the old one.
        """
        if self._config_file is None or self.sources["outbox.path"] != f"file {self._config_file}":
            return
        path, directory = self.values["outbox.path"], self._config_file.parent
        if not path.is_relative_to(directory):
            return
        earlier = Path.cwd() / path.relative_to(directory)
        if exists(earlier) and not exists(path):
            self._fault(
                "outbox.path",
                f"does not exist, but {_cut(str(earlier))} does: relative paths in a configuration file are relative "
                f"to that file ({_cut(str(directory.absolute()))}), no longer to the working directory; "
                "move the outbox, or write its absolute path",
            )

    def _check_rule(self, rule: Rule) -> None:
        smaller, larger = (lookup(name) for name in (rule.smaller, rule.larger))
        assert smaller is not None
        assert larger is not None
        if self.values[rule.smaller] > self.values[rule.larger]:
            limit = toml(larger.kind.plain(self.values[rule.larger]))
            self._fault(rule.smaller, f"is more than {rule.larger} = {limit} ({self.sources[rule.larger]}): {rule.why}")

    def _check_plain_http(self) -> None:
        if self.values["upstream.allow_http"]:
            return
        problem = "is plain http, which is allowed for loopback only: use https, or set upstream.allow_http = true"
        for name, value in self.values.items():
            is_route = name.startswith("upstream.") and name.endswith(".url")
            if is_route and value and value.startswith("http:") and not is_loopback(value):
                self._fault(name, problem)

    def _check_allowed_tenants(self) -> None:
        """Report configured tenants that apps may not use: no event would ever use such a value."""
        name = "upstream.allowed_tenants"
        allowed, default = self.values[name], self.values["defaults.tenant_id"]
        if not allowed:
            return
        missing = [str(tenant_id) for tenant_id in self._tenant_ids() if tenant_id not in allowed]
        if missing:
            self._fault(
                name, f"lacks tenants of upstream.tenants: add {_cut(', '.join(missing))}, or remove their keys"
            )
        if default is not None and default not in allowed:
            listed = _cut(toml(list(allowed)))
            self._fault("defaults.tenant_id", f"is not in {name} = {listed} ({self.sources[name]}): add it there")

    def _fault(self, name: str, problem: str) -> None:
        """Report a problem of the effective value of a key that is not a secret."""
        key, value = lookup(name), self.values[name]
        assert key is not None
        shown = "" if value is None else _cut(toml(shown_value(key, key.kind.plain(value))))
        self.faults.append(ConfigFault("" if value is None else self.sources[name], name, shown, problem))


def _cut(shown: str) -> str:
    return shown if len(shown) <= MAX_SHOWN_CHARS else f"{shown[:MAX_SHOWN_CHARS]}..."
