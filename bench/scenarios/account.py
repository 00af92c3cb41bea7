"""Which pages of the outbox the events write: an account by kind of page, as frames and as copies of checkpoints.

The outbox runs in this process with commits of a fixed number of events, so that the figures do not depend on the
speed of the machine. With each commit, one device's events are claimed, and a claim of an earlier commit is settled.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from uuid import UUID

from relay.config import OutboxSettings
from relay.event.reader import DeviceKey, Event
from relay.outbox import AppendResult, Backlog, ClaimPart, RestoredState, Settled
from relay.outbox.factory import create_outbox
from relay.outbox.sqlite.connection import PAGE_BYTES
from relay.outbox.sqlite.wal import FRAME_BYTES, HEADER_BYTES
from relay.runtime.clock import SystemClock
from relay.runtime.metrics import Metrics
from relay.runtime.tasks import Tasks

from bench.events import event, new_run, templates
from bench.report import Row, at_most
from bench.setup import Bench

_DEVICES = 1_000
_EVENTS = 50
"""Events per commit, as many as 64 connections cause."""
_IN_FLIGHT = 10
"""Commits between the claim and the settlement of a request."""
_WARM_COMMITS = 2 * _DEVICES
_SIZES = (400, 426)
_WINDOW = bytes(16)
_MAP_INTERVAL = PAGE_BYTES // 5 + 1
_LEAF, _INNER = 13, 5
_TABLES = {7: "events", 5: "ids of deleted rows", 16: "device rows", 18: "ledger"}
"""By number of columns."""


def account(bench: Bench) -> Iterator[Row]:
    for event_bytes in _SIZES:
        directory = bench.new_directory()
        yield from asyncio.run(_measured(directory / "outbox.db", event_bytes, int(bench.size(1_000, 4_000))))


class _Frames:
    """The frames of a write-ahead log that it did not see before. It must look at least once before each restart."""

    def __init__(self, path: Path) -> None:
        self.written: Counter[str] = Counter()
        self.copied: Counter[str] = Counter()
        self._path = path
        self._salts, self._seen = b"", 0
        self._pages: dict[int, str] = {}

    def look(self) -> None:
        with self._path.open("rb") as file:
            salts = file.read(HEADER_BYTES)[16:24]
            if salts != self._salts:
                self.copied.update(self._pages.values())
                self._salts, self._seen, self._pages = salts, 0, {}
            file.seek(HEADER_BYTES + self._seen * FRAME_BYTES)
            while len(frame := file.read(FRAME_BYTES)) == FRAME_BYTES and frame[8:16] == salts:
                number, page = int.from_bytes(frame[:4]), frame[24:]
                self._pages[number] = _kind(number, page)
                self.written[self._pages[number]] += 1
                self._seen += 1


def _kind(number: int, page: bytes) -> str:
    """Return the kind of a page (https://www.sqlite.org/fileformat2.html#b_tree_pages)."""
    if number == 1 or (number - 2) % _MAP_INTERVAL == 0:
        return "first page" if number == 1 else "pointer map"
    if page[0] == _INNER:
        return "inner pages"
    if page[0] != _LEAF or not int.from_bytes(page[3:5]):
        return "free and overflow pages"
    cell = int.from_bytes(page[8:10])
    _, at = _varint(page, cell)
    _, at = _varint(page, at)
    head_bytes, column = _varint(page, at)
    columns, end = 0, at + head_bytes
    while column < end:
        _, column = _varint(page, column)
        columns += 1
    return _TABLES.get(columns, "other tables")


def _varint(page: bytes, at: int) -> tuple[int, int]:
    value = 0
    while page[at] & 0x80:
        value, at = value << 7 | page[at] & 0x7F, at + 1
    return value << 7 | page[at], at + 1


class _Holder:
    def __init__(self) -> None:
        self.queues: dict[DeviceKey, int] = {}

    def pending(self, backlogs: Sequence[Backlog]) -> None:
        self.queues.update((key, queue_id) for queue_id, key, _, _ in backlogs)

    def granted(self, restored: RestoredState) -> None: ...

    def owed(self, queue_id: int, requests: int) -> bytes:
        raise NotImplementedError


async def _measured(path: Path, event_bytes: int, commits: int) -> list[Row]:
    holder, frames = _Holder(), _Frames(path.with_name(path.name + "-wal"))
    outbox = create_outbox(OutboxSettings(path=path, durability="normal"), SystemClock(), Metrics(), Tasks())
    await outbox.open()
    await outbox.load(holder)
    run, keys = new_run(), [(2, "tv", f"device-{number}") for number in range(_DEVICES)]
    made, pending = templates(run, _DEVICES, event_bytes), Counter[int]()
    claimed = deque[int]()

    def appended(number: int) -> asyncio.Future[AppendResult]:
        body = event(made[number % _DEVICES], number)
        return outbox.append([Event(UUID(f"{run}-0000-4000-8000-{number:012x}").bytes, keys[number % _DEVICES], body)])

    async def step(commit: int) -> None:
        numbers = range(commit * _EVENTS, (commit + 1) * _EVENTS)
        device, calls = commit * 7 % _DEVICES, list(map(appended, numbers))
        if len(claimed) > _IN_FLIGHT:
            settled = Settled(holder.queues[keys[claimed.popleft()]], delivered=True, dead={}, window=_WINDOW)
            calls.append(asyncio.ensure_future(outbox.settle([settled])))  # type: ignore[arg-type]
        if events := pending.pop(device, 0):
            part = ClaimPart(holder.queues[keys[device]], events, _WINDOW)
            calls.append(asyncio.ensure_future(outbox.claim([part])))  # type: ignore[arg-type]
            claimed.append(device)
        await asyncio.gather(*calls)
        pending.update(number % _DEVICES for number in numbers)
        frames.look()

    for commit in range(_WARM_COMMITS):
        await step(commit)
    written, copied = frames.written.copy(), frames.copied.copy()
    for commit in range(_WARM_COMMITS, _WARM_COMMITS + commits):
        await step(commit)
    await outbox.close()
    return list(_rows(event_bytes, commits, frames.written - written, frames.copied - copied))


def _rows(event_bytes: int, commits: int, written: Counter[str], copied: Counter[str]) -> Iterator[Row]:
    events = commits * _EVENTS
    what = f"bytes written per {event_bytes}-byte event, {_EVENTS} a commit, {_DEVICES:,} devices"
    total = written.total() * FRAME_BYTES + copied.total() * PAGE_BYTES
    yield Row(what, total / events, "B", at_most(1_200), note=f"{written.total() / commits:.1f} frames a commit")
    for kind, frames in written.most_common():
        copied_bytes = copied[kind] * PAGE_BYTES / events
        note = f"{frames / commits:.2f} frames a commit, {copied_bytes:.0f} B copied by checkpoints"
        yield Row(f"  {kind}", frames * FRAME_BYTES / events + copied_bytes, "B", note=note)
