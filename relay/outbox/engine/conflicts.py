"""Events that were not stored because their id stands for other bytes.

An app that sends an event again sends the same bytes. Other bytes with a known id mean a bug in an app: it generates
ids badly, or changes an event after it was sent. The relay does not store the second event, as it does not store a
repetition. So it counts the event separately, and logs both devices.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

import structlog

from relay.event.reader import DeviceKey, Event
from relay.runtime.clock import Clock
from relay.runtime.log import Gate
from relay.runtime.metrics import Metrics

_LOG_INTERVAL_MS = 10_000

_log = structlog.get_logger("relay.outbox")


class Conflict(NamedTuple):
    event: Event
    """Not stored."""
    stored: DeviceKey | None
    """The device of the event that was stored with this id; None if the relay has forgotten the device."""


class Conflicts:
    """Count conflicts, and log one in ten seconds at most."""

    def __init__(self, clock: Clock, metrics: Metrics) -> None:
        self._clock = clock
        self._metrics = metrics
        self._gate = Gate(metrics.log_lines_suppressed, per_ms=_LOG_INTERVAL_MS)

    def report(self, conflicts: Sequence[Conflict]) -> None:
        self._metrics.event_id_conflicts.inc(len(conflicts))
        for event, stored in conflicts[:1]:
            held = self._gate.admit("conflict", self._clock.monotonic_ms())
            if held is not None:
                _log.warning(
                    "event not stored: its event_id belongs to an event with other bytes; "
                    "generate a new UUID for each event, and send an event again unchanged",
                    event_id=str(UUID(bytes=event.event_id)),
                    device=_shown(event.device_key),
                    stored_device="no longer known" if stored is None else _shown(stored),
                    suppressed=held,
                )


def _shown(key: DeviceKey) -> str:
    return "/".join(map(str, key))
