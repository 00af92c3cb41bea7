"""What a sandbox can be told before and while it runs.

Rules: every value has a default that is the documented upstream; a test or a person changes only what
they are about. `SandboxSettings` is immutable: a change makes another one (`msgspec.structs.replace`).
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

Count = Annotated[int, msgspec.Meta(ge=0)]
Positive = Annotated[int, msgspec.Meta(ge=1)]


class SandboxSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    host: str = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 0
    """0: any free port; `Sandbox.url` names it."""
    path: str = "/v1/events"
    api_key: str = "sandbox-key"
    """Empty: none is asked for."""

    window_ms: Positive = 60_000
    device_per_window: Count = 120
    """Requests of a device in a window; 0: no limit."""
    ip_per_window: Positive = 20
    ip_limit: Literal["fallback", "always", "off"] = "fallback"
    """Whether the limit per address counts only requests whose device cannot be told, or all, or none."""
    device_of: Literal["first", "none"] = "first"
    """Which device a request counts for: that of its first event, or none (then `fallback` counts all)."""
    announce_limits: bool = True
    """X-RateLimit-* on every answer and Retry-After on a 429; off: only the status says so."""

    validate: bool = True
    """Off, for benchmarks: bodies are not parsed; events are only counted, and no limit applies but `always`."""
    inflate: bool = True
    """Undo `Content-Encoding: gzip`, as a proxy in front may; off: the application gets what it cannot decode."""
    max_body_bytes: Count = 1 << 20
    """nginx's default; 0: no limit."""
    too_large: Literal["nginx", "laravel", "reset"] = "nginx"
    """nginx: 413 before the body is read; laravel: after; reset: the connection is reset instead."""
    dedupe: bool = True
    """Whether an event_id that is known is left out of what is stored; it counts as a duplicate either way."""
    latency_ms: Count = 0
    """Between commit and answer."""
    keep_requests: bool = False
    """Keep headers and body of every request: for comparing bytes. Needs the memory of all of them."""

    def __repr__(self) -> str:
        return f"SandboxSettings({self.host}:{self.port}{self.path})"
