"""How a wrong configuration is told: every fault at once, each with its source, key, value and what is allowed.

The value of a secret, or of a key nobody knows (a mistyped secret, perhaps), never gets into a fault.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class ConfigFault(NamedTuple):
    """One thing that is wrong."""

    source: str
    """Where it stands: "file PATH", "environment NAME", "credential NAME"; "" if it stands nowhere."""
    key: str
    value: str
    """As TOML, masked where secret; "" where there is none to show."""
    problem: str

    def __str__(self) -> str:
        source = f"{self.source}: " if self.source else ""
        value = f" = {self.value}" if self.value else ""
        return f"{source}{self.key}{value}: {self.problem}" if self.key else f"{source}{self.problem}"


class ConfigError(Exception):
    """The configuration is wrong; the message has a line for each fault."""

    def __init__(self, faults: Sequence[ConfigFault]) -> None:
        super().__init__("\n".join(str(fault) for fault in faults))
        self.faults = tuple(faults)
