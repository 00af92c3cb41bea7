"""The configured rates, sizes and delays that the policies use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Values of the configuration: `batch.*`, `rate.*`, `retry.*` and `upstream.max_in_flight`."""

    linger_ms: int
    max_events: int
    max_body_bytes: int
    mix_devices: Literal["when_ip_limited", "never", "always"]
    window_ms: int
    device_per_window: int
    ip_per_window: int
    retry_initial_ms: int
    retry_max_ms: int
    max_in_flight: int
