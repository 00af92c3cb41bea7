"""Load, check and describe the configuration.

Precedence: default < file < RELAY__SECTION__KEY < RELAY__SECTION__KEY_FILE < systemd credential.
`keys` is the table of all keys. `sources` collects the configured values, `values`, `addresses` and `paths`
parse them, `load` builds Settings, and `describe` shows and compares Settings.

This package imports no large modules, because `relay healthcheck` must start fast.
"""

from relay.config.describe import changes, describe, diff, needs_restart, secrets
from relay.config.faults import ConfigError, ConfigFault
from relay.config.load import (
    LoadedConfig,
    find_config_file,
    load,
    load_for_client,
    load_with_sources,
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
    "LoadedConfig",
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
    "load_with_sources",
    "needs_restart",
    "possible_secrets",
    "secrets",
    "toml",
    "with_changed_files",
]
