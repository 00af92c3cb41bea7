"""Report all faults of a configuration at once, each with its source, key, value and the allowed values.

A fault never contains the value of a secret or of an unknown key, which may be a mistyped secret.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class ConfigFault(NamedTuple):
    """One fault of the configuration."""

    source: str
    """Value source, see Settings.sources; "" without a source."""
    key: str
    value: str
    """The value as TOML, with secrets masked; "" if the message shows no value."""
    problem: str

    def __str__(self) -> str:
        source = f"{self.source}: " if self.source else ""
        value = f" = {self.value}" if self.value else ""
        return f"{source}{self.key}{value}: {self.problem}" if self.key else f"{source}{self.problem}"


class ConfigError(Exception):
    """The configuration has faults. The message contains one line per fault."""

    def __init__(self, faults: Sequence[ConfigFault]) -> None:
        super().__init__("\n".join(str(fault) for fault in faults))
        self.faults = tuple(faults)
