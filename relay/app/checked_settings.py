"""Check whether settings can be used on this machine, and return the limits of the schedule that they contain."""

from __future__ import annotations

from relay.config import ConfigError, ConfigFault, Settings
from relay.forward.upstream import transport_problem
from relay.outbox.factory import why_unusable
from relay.policy.limits import Limits


def usable(settings: Settings) -> Settings:
    """Return the settings. Raises ConfigError if their certificates and keys, or the outbox, cannot be used."""
    problems = {"upstream": transport_problem(settings.upstream), "outbox": why_unusable(settings.outbox)}
    faults = [ConfigFault("", name, "", problem) for name, problem in problems.items() if problem]
    if faults:
        raise ConfigError(faults)
    return settings


def limits(settings: Settings) -> Limits:
    """Return the limits of the schedule."""
    return Limits(
        linger_ms=settings.batch.linger_ms,
        max_events=settings.batch.max_events,
        max_body_bytes=settings.batch.max_bytes,
        mix_devices=settings.batch.mix_devices,
        window_ms=settings.rate.window_ms,
        device_per_window=settings.rate.device_per_window,
        ip_per_window=settings.rate.ip_per_window,
        retry_initial_ms=settings.retry.initial_ms,
        retry_max_ms=settings.retry.max_ms,
        max_in_flight=settings.upstream.max_in_flight,
    )
