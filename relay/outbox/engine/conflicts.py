"""Events that were not stored because an event with the same id and other bytes is stored.

An app that sends an event again sends the same bytes. Other bytes with a stored id mean a bug in an
app: it does not generate unique ids, or it changes an event after sending it. The relay does not
store the second event, counts it as a conflict, and logs both devices.
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
    """The event that was not stored."""
    stored: DeviceKey | None
    """The device of the stored event with this id; None if the relay has forgotten the device."""


class Conflicts:
    """Count conflicts, and log at most one in ten seconds."""

    def __init__(self, clock: Clock, metrics: Metrics) -> None:
        self._clock = clock
        self._metrics = metrics
        self._gate = Gate(metrics.log_lines_suppressed, per_ms=_LOG_INTERVAL_MS)

    def report(self, conflicts: Sequence[Conflict]) -> None:
        self._metrics.event_id_conflicts.inc(len(conflicts))
        for event, stored in conflicts[:1]:
            suppressed = self._gate.admit("conflict", self._clock.monotonic_ms())
            if suppressed is not None:
                _log.warning(
                    "event not stored: its event_id belongs to an event with other bytes; "
                    "generate a new UUID for each event, and send an event again unchanged",
                    event_id=str(UUID(bytes=event.event_id)),
                    device=_shown(event.device_key),
                    stored_device="no longer known" if stored is None else _shown(stored),
                    suppressed=suppressed,
                )


def _shown(key: DeviceKey) -> str:
    return "/".join(map(str, key))
