"""What an event is, and the only way in: bytes -> events, or every fault by path.

INTERFACE STUB: the names below are the interface; reading is to be built.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

LaneKey = tuple[int, str, str]
"""A device as the upstream tells devices apart: (tenant_id, platform, device_id)."""


class Event(NamedTuple):
    event_id: bytes
    """The UUID's 16 bytes; what dedupe compares."""
    lane_key: LaneKey
    body: bytes
    """The JSON object as it will be sent: as it came, with what was missing spliced in."""


class Refusal(NamedTuple):
    """Why bytes are not events."""

    reason: Literal["malformed", "invalid", "too_large"]
    """HTTP answers 400, 422, 413."""
    error: str
    errors: Mapping[str, Sequence[str]] = {}
    """With "invalid": every fault of every event, by path ("events.0.source.platform")."""


@dataclass(frozen=True, slots=True)
class Defaults:
    """Filled in where an event lacks them; empty ones are not."""

    tenant_id: int | None = None
    platform: str = ""
    device_id: str = ""
    app_version: str = ""
    os_version: str = ""
    device_model: str = ""


class Reader:
    """Reads what apps send. One per configuration; keeps nothing of what it read."""

    def __init__(
        self, defaults: Defaults, max_event_bytes: int, new_event_id: Callable[[], str], now: Callable[[], str]
    ) -> None: ...

    def read_json(self, body: bytes) -> list[Event] | Refusal:
        """One event object, {"events": [...]}, or a bare array."""
        raise NotImplementedError

    def read_lines(self, body: bytes) -> list[Event] | Refusal:
        """One event a line (NDJSON); empty lines are skipped."""
        raise NotImplementedError

    def read_datagram(self, body: bytes) -> list[Event] | Refusal:
        """What read_json reads, or one event a line; gzip is undone before, by the caller."""
        raise NotImplementedError
