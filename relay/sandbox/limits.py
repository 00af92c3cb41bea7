"""The upstream's rate limiter: a fixed window that opens at the first request.

Rules, from the framework's RateLimiter and ThrottleRequests: a key's window opens at its first request and lasts
`window_ms`; a rejected request does not count. So twice the limit can pass within one window's length, across a
boundary. A request counts for its device, or for its address if the device is unknown (`ip_limit`). Pure: `now_ms` is
an argument.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import NamedTuple

from relay.sandbox.settings import SandboxSettings


class Admission(NamedTuple):
    """The limiter's result for one request."""

    allowed: bool
    limit: int
    remaining: int
    retry_after_s: int
    """Whole seconds as the framework computes them, from truncated clocks: may be 0 before the window ends."""


class FixedWindow:
    """At most `limit` requests of a key in its window. Never forgets a key: a sandbox is short-lived."""

    def __init__(self, limit: int, window_ms: int) -> None:
        self.limit = limit
        self.window_ms = window_ms
        self._windows: dict[Hashable, tuple[int, int]] = {}

    def admit(self, key: Hashable, now_ms: int) -> Admission:
        """Count a request of `key`, or reject it without counting."""
        opened_ms, hits = self._windows.get(key, (now_ms, 0))
        if now_ms >= opened_ms + self.window_ms:
            opened_ms, hits = now_ms, 0
        if hits >= self.limit:
            retry_after_s = (opened_ms + self.window_ms) // 1000 - now_ms // 1000
            return Admission(False, self.limit, 0, max(0, retry_after_s))
        self._windows[key] = (opened_ms, hits + 1)
        return Admission(True, self.limit, self.limit - hits - 1, 0)


class SandboxLimits:
    """The limits per device and per address."""

    def __init__(self, settings: SandboxSettings) -> None:
        self._ip_limit = settings.ip_limit
        self._of_device = FixedWindow(settings.device_per_window, settings.window_ms)
        self._of_ip = FixedWindow(settings.ip_per_window, settings.window_ms)

    def admit(self, device: Hashable | None, peer: str, now_ms: int) -> Admission | None:
        """Return the tightest applicable limit, or None. The first rejection ends the counting.

        `device` is None if it is unknown.
        """
        tightest: Admission | None = None
        if device is not None and self._of_device.limit:
            tightest = self._of_device.admit(device, now_ms)
            if not tightest.allowed:
                return tightest
        if self._ip_limit == "always" or (self._ip_limit == "fallback" and device is None):
            by_ip = self._of_ip.admit(peer, now_ms)
            if tightest is None or by_ip.remaining < tightest.remaining or not by_ip.allowed:
                return by_ip
        return tightest


def headers(admission: Admission, wall_ms: int) -> list[tuple[str, str]]:
    """Return X-RateLimit-* of a response; a rejection adds Retry-After and X-RateLimit-Reset (Unix time)."""
    named = [("X-RateLimit-Limit", str(admission.limit)), ("X-RateLimit-Remaining", str(admission.remaining))]
    if not admission.allowed:
        named.append(("Retry-After", str(admission.retry_after_s)))
        named.append(("X-RateLimit-Reset", str(wall_ms // 1000 + admission.retry_after_s)))
    return named
