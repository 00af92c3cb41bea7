"""Which of the operator's settings of the outbox can change while it runs. Pure."""

from __future__ import annotations

from dataclasses import replace

from relay.config import OutboxSettings


def limited(old: OutboxSettings, new: OutboxSettings) -> OutboxSettings:
    """The old settings with the new limits."""
    return replace(old, max_size_bytes=new.max_size_bytes, max_age_ms=new.max_age_ms, when_full=new.when_full)
