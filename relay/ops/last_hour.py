"""Count what happened to events within the last hour: rejected, dead-lettered and dropped ones, by reason.

Rules:
- The counts are read from running totals and added to buckets of one minute. A bucket counts for an hour after its end.
- Losses (dead-lettered and dropped events) survive a restart in a file beside the outbox. It is written after a loss,
  at most once per minute, because the disk may be flash memory. A kill in that minute loses only the reason: the
  ledger of the outbox shows how many events were lost since the file was written.
- Across a reboot the wall clock measures the time in between. If it stood still or went back, no time has passed.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import msgspec
import structlog

from relay.outbox import Ledger
from relay.runtime.clock import Clock
from relay.runtime.durable_file import replace_text

_log = structlog.get_logger("relay.ops.last_hour")

HOUR_MS = 3_600_000
BUCKET_MS = 60_000
_LOOK_S = 5.0
_MAX_BYTES = 1 << 20

Kind: TypeAlias = Literal["rejected", "dead_lettered", "dropped"]
Counts: TypeAlias = Mapping[tuple[Kind, str], int]
"""Number of events by kind and reason. The reason is "" if a kill lost it."""
_LOSSES: tuple[Kind, ...] = ("dead_lettered", "dropped")


class _Bucket(NamedTuple):
    began_at: int
    counts: Counter[tuple[Kind, str]]


class _Stored(msgspec.Struct):
    boot_id: str
    monotonic_ms: int
    wall_ms: int
    dead_lettered: int
    dropped: int
    """Totals of the ledger when the file was written."""
    buckets: list[tuple[int, list[tuple[Kind, str, int]]]]
    """Monotonic begin, and the losses by kind and reason."""


class LastHour:
    """The counts of the last hour. `counts` returns them, `keep` stores the losses."""

    def __init__(self, path: Path, clock: Clock, totals: Callable[[], Counts], ledger: Callable[[], Ledger]) -> None:
        """`totals` returns running totals since the start of the process. `path`: the outbox."""
        self.path = path.with_name(path.name + "-losses")
        self._clock = clock
        self._totals = totals
        self._ledger = ledger
        self._before: Counts = {}
        self._buckets: deque[_Bucket] = deque()
        self._stored: tuple[int, int] | None = None  # Losses in the ledger when the file was written or read.

    def counts(self) -> Counter[tuple[Kind, str]]:
        """Return the events of the last hour by kind and reason."""
        now = self._clock.monotonic_ms()
        totals = self._totals()
        increase = Counter({key: count - self._before.get(key, 0) for key, count in totals.items()})
        self._before = totals
        self._add(+increase, now)
        while self._buckets and self._buckets[0].began_at + BUCKET_MS <= now - HOUR_MS:
            self._buckets.popleft()
        return sum((bucket.counts for bucket in self._buckets), Counter[tuple[Kind, str]]())

    def load(self) -> None:
        """Restore the losses that an earlier process stored. Call it once, after the outbox was opened."""
        stored = self._read()
        ledger = self._ledger()
        self._stored = (ledger.dead_lettered, ledger.dropped)
        if stored is None:
            return
        now = self._clock.monotonic_ms()
        shift_ms = 0
        if stored.boot_id != self._clock.boot_id or stored.monotonic_ms > now:
            shift_ms = now - max(0, self._clock.wall_ms() - stored.wall_ms) - stored.monotonic_ms
        for began_at, losses in stored.buckets:
            self._add(Counter({(kind, reason): count for kind, reason, count in losses}), began_at + shift_ms)
        since = Counter[tuple[Kind, str]](
            {
                ("dead_lettered", ""): ledger.dead_lettered - stored.dead_lettered,
                ("dropped", ""): ledger.dropped - stored.dropped,
            }
        )
        self._add(+since, stored.monotonic_ms + shift_ms)

    async def keep(self) -> None:
        """Store new losses, at most once per minute. Never returns."""
        while True:
            await asyncio.sleep(_LOOK_S)
            if await self.save():
                await asyncio.sleep(BUCKET_MS / 1000)

    async def save(self) -> bool:
        """Store the losses if there are new ones. Return whether the file was written."""
        self.counts()
        ledger = self._ledger()
        losses = (ledger.dead_lettered, ledger.dropped)
        if losses == self._stored:
            return False
        content = msgspec.json.encode(self._content(ledger)).decode()
        try:
            await asyncio.to_thread(replace_text, self.path, content)
        except OSError as error:
            _log.debug("losses of the last hour cannot be stored now", error=str(error))
            return False
        self._stored = losses
        return True

    def _content(self, ledger: Ledger) -> _Stored:
        buckets = [
            (bucket.began_at, [(kind, reason, n) for (kind, reason), n in bucket.counts.items() if kind in _LOSSES])
            for bucket in self._buckets
        ]
        clock = self._clock
        return _Stored(
            clock.boot_id, clock.monotonic_ms(), clock.wall_ms(), ledger.dead_lettered, ledger.dropped, buckets
        )

    def _add(self, counts: Counter[tuple[Kind, str]], at: int) -> None:
        if not counts:
            return
        if self._buckets and at < self._buckets[-1].began_at + BUCKET_MS:
            self._buckets[-1].counts.update(counts)
        else:
            self._buckets.append(_Bucket(at, counts))

    def _read(self) -> _Stored | None:
        try:
            with self.path.open("rb") as file:
                return msgspec.json.decode(file.read(_MAX_BYTES), type=_Stored)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            _log.warning("stored losses of the last hour cannot be read", error=str(error))
            return None
