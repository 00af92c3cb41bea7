"""The settings of the outbox that an operator can change while the relay runs, and the limits that follow from them."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from relay.config import OutboxSettings
from relay.outbox.engine.storage import SpaceLimits


class OutboxLimits(NamedTuple):
    settings: OutboxSettings
    space: SpaceLimits


def limited(old: OutboxSettings, new: OutboxSettings) -> OutboxSettings:
    """Return the old settings with the limits of the new ones."""
    return replace(
        old,
        max_size_bytes=new.max_size_bytes,
        max_devices=new.max_devices,
        max_age_ms=new.max_age_ms,
        when_full=new.when_full,
    )
