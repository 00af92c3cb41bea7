"""Settings of the sandbox, before and while it runs.

Each default is the documented behaviour of the upstream. `SandboxSettings` is immutable: a change creates a new object
(`msgspec.structs.replace`).
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

Count = Annotated[int, msgspec.Meta(ge=0)]
Positive = Annotated[int, msgspec.Meta(ge=1)]


class SandboxSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    host: str = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 0
    """0 selects a free port; `Sandbox.url` contains it."""
    path: str = "/v1/events"
    api_key: str = "sandbox-key"
    """Empty: no key is required."""

    window_ms: Positive = 60_000
    device_per_window: Count = 120
    """Requests of a device in a window; 0: no limit."""
    ip_per_window: Positive = 20
    ip_limit: Literal["fallback", "always", "off"] = "fallback"
    """Requests that the limit per address counts: those without a known device, all, or none."""
    device_of: Literal["first", "none"] = "first"
    """Device that a request counts for: the first event's, or none (then `fallback` counts all requests)."""
    announce_limits: bool = True
    """Whether responses have X-RateLimit-*, and a 429 has Retry-After."""

    validate: bool = True
    """False, for benchmarks: events are counted without parsing, and only the limit `always` applies."""
    inflate: bool = True
    """Whether gzip is decoded, as by a proxy in front. False: the application gets the encoded body."""
    max_body_bytes: Count = 1 << 20
    """Default of nginx; 0: no limit."""
    too_large: Literal["nginx", "laravel", "reset"] = "nginx"
    """nginx: 413 before the body is read; laravel: after; reset: the connection is reset instead."""
    dedupe: bool = True
    """Whether events with a known event_id are not stored again. They always count as duplicates."""
    latency_ms: Count = 0
    """Delay between commit and response."""
    keep_requests: bool = False
    """Whether headers and body of every request stay in memory, to compare bytes."""

    def __repr__(self) -> str:
        return f"SandboxSettings({self.host}:{self.port}{self.path})"
