"""Load, check and describe the configuration.

Precedence: default < file < RELAY__SECTION__KEY < RELAY__SECTION__KEY_FILE < systemd credential.
`keys` is the table of all keys. `sources` collects the configured values, `values`, `addresses` and `paths`
parse them, `load` builds Settings, and `describe` shows and compares Settings.

This package imports no large modules, because `relay healthcheck` must start fast.
"""

from relay.config.describe import changes, describe, diff, needs_restart, secrets, shown_url
from relay.config.faults import ConfigError, ConfigFault
from relay.config.keys import tenant_key
from relay.config.load import (
    find_config_file,
    load,
    load_for_client,
    possible_secrets,
    with_changed_files,
)
from relay.config.settings import (
    Batch,
    EndpointSettings,
    Http,
    Log,
    OpsSettings,
    OutboxSettings,
    Rate,
    Retry,
    Settings,
    Shutdown,
    Udp,
    Upstream,
)
from relay.config.values import toml

__all__ = [
    "Batch",
    "ConfigError",
    "ConfigFault",
    "EndpointSettings",
    "Http",
    "Log",
    "OpsSettings",
    "OutboxSettings",
    "Rate",
    "Retry",
    "Settings",
    "Shutdown",
    "Udp",
    "Upstream",
    "changes",
    "describe",
    "diff",
    "find_config_file",
    "load",
    "load_for_client",
    "needs_restart",
    "possible_secrets",
    "secrets",
    "shown_url",
    "tenant_key",
    "toml",
    "with_changed_files",
]
