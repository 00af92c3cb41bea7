"""Test outboxes of each kind, with a common interface to open, kill, restart and damage them."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from relay.config import OutboxSettings
from relay.event.reader import DeviceKey, Event
from relay.outbox import Backlog, Claimed, ClaimPart, Dead, Ledger, MayForget, Outbox, RestoredState, Settled
from relay.outbox.factory import OutboxEngine, create_outbox
from relay.outbox.postgres.outbox import SharedOutbox
from relay.runtime.machine import MachineIds
from relay.runtime.metrics import Metrics
from relay.runtime.tasks import Tasks

from tests.support.dictionary_storage import DictionaryStorage
from tests.support.memory_database import MemoryDatabase, MemoryStore
from tests.support.memory_outbox import MemoryOutbox

TV: DeviceKey = (1, "tv", "tv-1")
PHONE: DeviceKey = (1, "ios", "phone-1")
TABLET: DeviceKey = (1, "android", "tablet")
REFUSED = Dead("refused", 422, "no such subject")
DAY_MS = 86_400_000


@dataclass
class FakeClock:
    """A clock that only advances by calls of `advance` and `reboot`."""

    boot_id: str = "boot-1"
    monotonic: int = 5_000
    wall: int = 1_795_000_000_000
    events: int = 0

    def monotonic_ms(self) -> int:
        return self.monotonic

    def wall_ms(self) -> int:
        return self.wall

    def chance(self) -> float:
        return 0.5

    def new_event_id(self) -> str:
        """Return the salt of a machine's identity. Events have their own ids."""
        return "00000000-0000-4000-8000-000000000001"

    def advance(self, ms: int) -> None:
        self.monotonic += ms
        self.wall += ms

    def reboot(self, off_ms: int) -> None:
        """Turn the machine off and on. The wall clock has a battery."""
        self.boot_id += "'"
        self.monotonic = 100
        self.wall += off_ms


def event(number: int, key: DeviceKey = TV, body_bytes: int = 0, *, has_inserted_time: bool = False) -> Event:
    """Return an event. The same number gives the same event_id."""
    tenant_id, platform, device_id = key
    body = b'{"n":%d,"tenant_id":%d,"source":{"platform":"%s","device_id":"%s"}}' % (
        number,
        tenant_id,
        platform.encode(),
        device_id.encode(),
    )
    return Event(event_id(number), key, body.ljust(body_bytes), has_inserted_time)


def event_id(number: int) -> bytes:
    return (1 << 96 | number).to_bytes(16)


def events(numbers: Iterable[int], key: DeviceKey = TV, body_bytes: int = 0) -> list[Event]:
    return [event(number, key, body_bytes) for number in numbers]


def bodies(numbers: Iterable[int], key: DeviceKey = TV, body_bytes: int = 0) -> list[bytes]:
    return [event(number, key, body_bytes).body for number in numbers]


@dataclass
class Box(ABC):
    """One outbox, and the holder of its device queues, which records what the outbox reports."""

    settings: OutboxSettings
    clock: FakeClock = field(default_factory=FakeClock)
    metrics: Metrics = field(default_factory=Metrics)
    backlog: dict[DeviceKey, tuple[int, int]] = field(default_factory=dict)
    """By device: the last reported (events, bytes) of its queue."""
    queues: dict[DeviceKey, int] = field(default_factory=dict)
    free_window: bytes = b"free"
    numbers_queues: bool = True
    """Whether queue ids are assigned in order."""
    owed_requests: dict[int, int] = field(default_factory=dict)
    loaded: RestoredState = field(default_factory=lambda: RestoredState((), ()))

    may_forget: MayForget | None = None

    def __post_init__(self) -> None:
        self.outbox = self.make()
        self.loaded_outbox: Outbox | None = None

    @abstractmethod
    def make(self) -> Outbox: ...

    def shift_after_reboot(self) -> int | None:
        """Return the shift of the rate windows of an earlier boot."""
        return None

    @abstractmethod
    def corrupt(self, number: int) -> None:
        """Change a byte of a stored body of a closed outbox."""

    @abstractmethod
    def on_disk(self) -> Ledger:
        """Return the ledger on disk, with the number of pending events counted."""

    @abstractmethod
    async def kill(self) -> Box:
        """Return the closed outbox that a kill -9 at this moment leaves."""

    async def start(self) -> Box:
        await self.outbox.open(self.may_forget)
        await self.outbox.load(self)
        return self

    async def restart(self) -> Box:
        """Close the outbox and open it again."""
        await self.outbox.close()
        self.backlog.clear()
        self.outbox = self.make()
        return await self.start()

    async def restart_after_kill(self) -> Box:
        return await (await self.kill()).start()

    def pending(self, backlogs: Sequence[Backlog]) -> None:
        for queue_id, key, events, body_bytes in backlogs:
            self.queues[key] = queue_id
            self.backlog[key] = (events, body_bytes)

    def granted(self, restored: RestoredState) -> None:
        self.loaded, self.loaded_outbox = restored, self.outbox

    def owed(self, queue_id: int, requests: int) -> bytes:
        self.owed_requests[queue_id] = requests
        return b"paid"

    async def append(self, numbers: Iterable[int], key: DeviceKey = TV, body_bytes: int = 0) -> int:
        result = await self.outbox.append(events(numbers, key, body_bytes))
        await self.seen()
        return result.duplicates

    async def seen(self) -> None:
        """Wait until every committed event was reported as pending; by default it was when its commit returned."""
        return

    async def claim(self, count: int, key: DeviceKey = TV, window: bytes = b"", true_ms: int | None = None) -> Claimed:
        (claimed,) = await self.outbox.claim([ClaimPart(self.queues[key], count, window)], true_ms)
        return claimed

    async def settle(
        self, *, delivered: bool = True, dead: dict[int, Dead] | None = None, key: DeviceKey = TV, window: bytes = b""
    ) -> None:
        await self.outbox.settle([Settled(self.queues[key], delivered, dead or {}, window)])

    async def deliver(self, count: int, key: DeviceKey = TV) -> Sequence[bytes]:
        """Claim and settle events. Return the delivered bodies."""
        claimed = await self.claim(count, key)
        if claimed.bodies:
            await self.settle(key=key)
        return claimed.bodies

    async def deliver_all(self, at_once: int = 500) -> list[bytes]:
        found: list[bytes] = []
        for key in list(self.queues):
            while some := await self.deliver(at_once, key):
                found += some
        return found

    def check(self) -> None:
        """Check that the ledger is balanced and equals the ledger on disk."""
        ledger = self.outbox.ledger()
        assert ledger.balanced
        assert ledger == self.on_disk()


@dataclass
class MemoryBox(Box):
    def make(self) -> MemoryOutbox:
        before = getattr(self, "outbox", None)
        return MemoryOutbox(self.settings, self.clock, self.metrics, None if before is None else before.disk)

    def corrupt(self, number: int) -> None:
        for queue in self._memory.disk.queues.values():
            for at, stored in enumerate(queue.pending):
                if stored.event.event_id == event_id(number):
                    body = b"\0" + stored.event.body[1:]
                    queue.pending[at] = replace(stored, event=stored.event._replace(body=body))

    def on_disk(self) -> Ledger:
        pending = sum(len(queue.pending) for queue in self._memory.disk.queues.values())
        return self._memory.disk.ledger._replace(pending=pending)

    def knows(self, number: int) -> bool:
        """Return whether an append of this event would be a repetition."""
        return event_id(number) in self._memory.disk.states

    def drop_oldest(self, count: int) -> None:
        """Drop the oldest events that are not in flight, as a full outbox does."""
        oldest = sorted(self._memory._droppable(), key=lambda each: each[1].seq)[:count]
        assert len(oldest) == count
        self._memory._drop("size", oldest)

    def limit_dead(self, max_bytes: int) -> None:
        """Limit the size of the bodies of all dead letters."""
        self._memory.disk.max_dead_bytes = max_bytes

    async def kill(self) -> MemoryBox:
        after = MemoryBox(self.settings, self.clock)
        after.outbox = MemoryOutbox(self.settings, self.clock, after.metrics, self._memory.crashed().disk)
        return after

    @property
    def _memory(self) -> MemoryOutbox:
        assert isinstance(self.outbox, MemoryOutbox)
        return self.outbox


@dataclass
class DictionaryBox(Box):
    """The engine on a store in dictionaries."""

    storage: DictionaryStorage | None = None

    def make(self) -> OutboxEngine:
        self.storage = replace(self.storage or DictionaryStorage(self.settings, self.clock), settings=self.settings)
        return OutboxEngine(self.settings, self.clock, self.metrics, Tasks(), self.storage)

    def corrupt(self, number: int) -> None:
        for seq, row in self.storage.rows.items():
            if row.event_id == event_id(number):
                self.storage.rows[seq] = row._replace(body=b"\0" + row.body[1:])

    def on_disk(self) -> Ledger:
        last_seq, requeued, delivered, dead_lettered, dropped, _, _ = self.storage.totals
        return Ledger(last_seq - requeued, requeued, delivered, dead_lettered, dropped, len(self.storage.pending()))

    async def kill(self) -> DictionaryBox:
        return DictionaryBox(self.settings, self.clock, storage=self.storage.copy())


@dataclass
class SharedBox(Box):
    """The shared outbox on a database in memory."""

    free_window: bytes = b""
    numbers_queues: bool = False
    store: MemoryStore = field(default_factory=MemoryStore)
    killed: list[Box] = field(default_factory=list)

    def make(self) -> SharedOutbox:
        database = MemoryDatabase(self.store)
        return SharedOutbox(self.settings, self.clock, self.metrics, Tasks(), database)

    async def seen(self) -> None:
        while self.loaded_outbox is self.outbox and self.reported() != self.outbox.ledger().pending:
            await asyncio.sleep(0)

    def reported(self) -> int:
        return sum(events for events, _ in self.backlog.values())

    def corrupt(self, number: int) -> None:
        for seq, row in self.store.log.items():
            if row.event_id == event_id(number):
                self.store.log[seq] = row._replace(body=b"\0" + row.body[1:])

    def shift_after_reboot(self) -> int | None:
        """The database is on another machine: times count from the takeover."""
        return self.clock.monotonic - FakeClock.monotonic

    def on_disk(self) -> Ledger:
        return ledger_of(self.store)

    def check(self) -> None:
        super().check()
        parts = self.outbox._parts
        if parts is not None:
            queues, unseen = parts.state.queues.values(), parts.state.commits.unseen.values()
            events = sum(map(len, queues)) + sum(len(row.sizes) for row in unseen)
            body_bytes = sum(sum(queue.sizes(len(queue))) for queue in queues) + sum(sum(row.sizes) for row in unseen)
            assert parts.state.held() == (events, body_bytes)

    def beside(self) -> SharedBox:
        """Return another relay on the same database."""
        return SharedBox(self.settings, self.clock, store=self.store)

    async def kill(self) -> SharedBox:
        """Return the next replica after the others have found the killed one to be silent."""
        store = self.store.copy()
        for replica, row in store.replicas.items():
            if not row.is_fenced:
                store.fence(replica)
        return SharedBox(self.settings, self.clock, store=store, killed=[*self.killed, self])


def ledger_of(store: MemoryStore) -> Ledger:
    """Return the ledger of a shared database, with the number of pending events counted."""
    accepted = sum(row.appended.accepted - row.moved.duplicates for row in store.replicas.values())
    requeued = sum(row.appended.requeued for row in store.replicas.values())
    moved = [row.moved[:3] for row in store.replicas.values()]
    delivered, dead_lettered, dropped = (sum(column) for column in zip(*moved, strict=True))
    return Ledger(accepted, requeued, delivered, dead_lettered, dropped, len(store.log))


@dataclass
class SqliteBox(Box):
    killed: list[Box] = field(default_factory=list)
    """Killed outboxes with open connections and threads, for `close`."""
    ids: MachineIds | None = None
    """Ids of the machine; None: no check of the owner."""

    def make(self) -> OutboxEngine:
        return create_outbox(self.settings, self.clock, self.metrics, Tasks(), ids=self.ids)

    @property
    def path(self) -> Path:
        return self.settings.path

    def database(self) -> sqlite3.Connection:
        """Open the file of the closed outbox."""
        return sqlite3.connect(self.path, isolation_level=None)

    def corrupt(self, number: int) -> None:
        database = self.database()
        database.execute(
            "UPDATE log SET body = CAST(x'00' || substr(body, 2) AS BLOB) WHERE event_id = ?", (event_id(number),)
        )
        assert database.execute("SELECT changes()").fetchone() != (0,)
        database.close()

    def on_disk(self) -> Ledger:
        copy = self.copy("counted")
        database = sqlite3.connect(copy)
        appended, requeued, delivered, dead_lettered, dropped = database.execute(
            "SELECT max(last_seq, coalesce((SELECT max(seq) FROM log), 0)) - adopted, requeued,"
            " delivered + (SELECT coalesce(sum(delivered), 0) FROM device_queues), dead_lettered, dropped FROM ledger"
        ).fetchone()
        (pending,) = database.execute(
            "SELECT count(*) FROM log JOIN device_queues AS q ON q.queue_id = log.queue_id WHERE log.seq > q.cursor"
            " OR (log.seq > q.quarantined_after AND log.seq <= q.quarantined_to)"
        ).fetchone()
        database.close()
        return Ledger(appended - requeued, requeued, delivered, dead_lettered, dropped, pending)

    def copy(self, name: str) -> Path:
        """Copy the files as they are on disk now. Return the path of the copy."""
        directory = self.path.parent / name
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
        for suffix in ("", "-wal"):
            file = self.path.with_name(self.path.name + suffix)
            if file.exists():
                shutil.copy(file, directory / file.name)
        return directory / self.path.name

    async def kill(self) -> SqliteBox:
        path = self.copy(f"after-kill-{len(self.killed)}")
        after = SqliteBox(replace(self.settings, path=path), self.clock, ids=self.ids)
        after.killed = [*self.killed, self]
        return after


async def close(box: Box) -> None:
    for each in (*getattr(box, "killed", ()), box):
        await each.outbox.close()
    await asyncio.sleep(0)
