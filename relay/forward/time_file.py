"""Store the learned true time in a file beside the outbox, for a restart within the same boot.

The file is one JSON object with the boot id, the monotonic time of the write in milliseconds, and for each upstream
origin the bounds of true minus monotonic time.

Rules:
- A file of another boot is ignored, because monotonic time starts again with each boot.
- The file is written only after a significant change, because the disk may be flash memory.
- If the file cannot be read or written, the relay learns the true time again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import structlog

from relay.policy.true_time import OffsetBounds
from relay.runtime.clock import Clock
from relay.runtime.durable_file import replace_text

_log = structlog.get_logger("relay.forward.time_file")

_LOOK_S = 1.0
_RETRY_S = 60.0
_MOVED_MS = 5_000
"""Minimum change of the true time that is written. No timestamp depends on a smaller change."""
_MAX_BYTES = 1 << 20


class _Content(msgspec.Struct):
    boot_id: str
    monotonic_ms: int
    origins: dict[str, tuple[int, int]]


class TimeFile:
    """The file with the learned true time."""

    def __init__(self, outbox: Path, clock: Clock, known: Callable[[], Mapping[str, OffsetBounds]]) -> None:
        """`outbox` is the path of the outbox; `known` returns the current bounds by upstream origin."""
        self.path = outbox.with_name(outbox.name + "-time")
        self._clock = clock
        self._known = known
        self._stored: Mapping[str, OffsetBounds] = {}

    def load(self) -> Mapping[str, OffsetBounds]:
        """Return the bounds that an earlier process of this boot learned, by upstream origin."""
        try:
            with self.path.open("rb") as file:
                content = msgspec.json.decode(file.read(_MAX_BYTES), type=_Content)
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            _log.warning("stored true time cannot be read, the relay learns it again", error=str(error))
            return {}
        if content.boot_id != self._clock.boot_id or content.monotonic_ms > self._clock.monotonic_ms():
            return {}
        bounds = {origin: OffsetBounds(*pair) for origin, pair in content.origins.items()}
        self._stored = {origin: ahead for origin, ahead in bounds.items() if ahead.least <= ahead.most}
        return self._stored

    async def keep(self) -> None:
        """Write each significant change. Never returns."""
        delay_s = _LOOK_S
        while True:
            await asyncio.sleep(delay_s)
            delay_s = _LOOK_S if await self.save() else _RETRY_S

    async def save(self) -> bool:
        """Write the bounds if they changed significantly. Return False if the write failed."""
        known = dict(self._known())
        if not _differs(known, self._stored):
            return True
        origins = {origin: (ahead.least, ahead.most) for origin, ahead in known.items()}
        content = _Content(self._clock.boot_id, self._clock.monotonic_ms(), origins)
        try:
            await asyncio.to_thread(replace_text, self.path, msgspec.json.encode(content).decode())
        except OSError as error:
            _log.warning("true time cannot be stored, a restart learns it again", error=str(error))
            return False
        self._stored = known
        return True


def _differs(known: Mapping[str, OffsetBounds], stored: Mapping[str, OffsetBounds]) -> bool:
    return known.keys() != stored.keys() or any(
        abs(ahead.middle - stored[origin].middle) > _MOVED_MS for origin, ahead in known.items()
    )
