"""The shared outbox on a private PostgreSQL server."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace

import psycopg
from relay.outbox import Ledger
from relay.outbox.postgres.outbox import SharedOutbox
from relay.outbox.postgres.server import PostgresServer
from relay.runtime.secret import Secret
from relay.runtime.tasks import Tasks

from tests.contract.boxes import Box, FakeClock, event_id

_LEDGER = """
SELECT coalesce(sum(c.accepted), 0) - coalesce(sum(m.duplicates), 0), coalesce(sum(c.requeued), 0),
       coalesce(sum(m.delivered), 0), coalesce(sum(m.dead_lettered), 0), coalesce(sum(m.dropped), 0),
       (SELECT count(*) FROM relay.log l JOIN relay.commits c ON c.id = l.seq >> 12
        JOIN relay.device_queues q USING (queue_id)
        WHERE l.seq > coalesce((q.cursors ->> c.replica::text)::bigint, 0)
          AND NOT EXISTS (SELECT FROM relay.marks WHERE marks.seq = l.seq))
FROM relay.replicas r
LEFT JOIN LATERAL (SELECT * FROM relay.commits WHERE replica = r.replica ORDER BY id DESC LIMIT 1) c ON true
LEFT JOIN LATERAL (SELECT * FROM relay.moves WHERE replica = r.replica ORDER BY n DESC LIMIT 1) m ON true"""


@dataclass
class PostgresBox(Box):
    free_window: bytes = b""
    numbers_queues: bool = False
    url: str = ""
    killed: list[Box] = field(default_factory=list)

    def make(self) -> SharedOutbox:
        settings = replace(self.settings, url=Secret(self.url), replica_name="test")
        return SharedOutbox(settings, self.clock, self.metrics, Tasks(), PostgresServer(settings))

    def connect(self) -> psycopg.Connection[tuple[int, ...]]:
        return psycopg.connect(self.url, autocommit=True)

    async def seen(self) -> None:
        while self.loaded_outbox is self.outbox and self.reported() != self.outbox.ledger().pending:
            await asyncio.sleep(0.001)

    def reported(self) -> int:
        return sum(events for events, _ in self.backlog.values())

    def shift_after_reboot(self) -> int | None:
        """The database is on another machine: times count from the takeover."""
        return self.clock.monotonic - FakeClock.monotonic

    def corrupt(self, number: int) -> None:
        with self.connect() as connection:
            changed = connection.execute(
                "UPDATE relay.log SET body = set_byte(body, 0, 0) WHERE event_id = %s", (event_id(number),)
            )
            assert changed.rowcount == 1

    def beside(self) -> PostgresBox:
        """Return another relay on the same database."""
        return PostgresBox(self.settings, self.clock, url=self.url)

    def on_disk(self) -> Ledger:
        with self.connect() as connection:
            (row,) = connection.execute(_LEDGER.encode())
        return Ledger(*map(int, row))

    async def kill(self) -> PostgresBox:
        """Return the next replica after the others have found the killed one to be silent."""
        assert isinstance(self.outbox, SharedOutbox)
        await self.outbox._own_tasks.cancel_all()
        await self.outbox._database.close()
        self.outbox._parts = None
        with self.connect() as connection:
            connection.execute("UPDATE relay.fences SET fenced = true")
            connection.execute("UPDATE relay.slots SET replica = NULL")
        return PostgresBox(self.settings, self.clock, url=self.url, killed=[*self.killed, self])
