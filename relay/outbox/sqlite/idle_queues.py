"""Forgetting idle device queues at a start, before they use memory: run on the thread of the connection.

Rules: a device is forgotten at the earliest one rate window after its last request (G5). A row without a journal entry
was written at the settlement of the last request, with its rate window. The times of another boot cannot be compared,
so that such rows stay, and the relay forgets them one rate window after the start.
"""

from __future__ import annotations

import sqlite3

from relay.outbox import IsFree
from relay.outbox.sqlite.transaction import atomic

_SUM = "SELECT coalesce(sum(delivered), 0), coalesce(max(queue_id), 0) + 1 FROM device_queues"
_FORGET = """
    DELETE FROM device_queues
    WHERE request IS NULL AND quarantined_to IS NULL AND is_free(rate_window, boot) AND queue_id NOT IN (
        SELECT log.queue_id FROM log JOIN device_queues AS q USING (queue_id) WHERE log.seq > q.cursor)"""


def forget_free(database: sqlite3.Connection, boot_id: str, max_rows: int, is_free: IsFree) -> None:
    """Delete idle device queues with a free rate window.

    Do nothing if the log has more than `max_rows` rows, because this function reads all of them.
    """
    boot, last_boot_id, rows = database.execute(
        "SELECT boot, boot_id, (SELECT max(seq) - min(seq) FROM log) FROM ledger"
    ).fetchone()
    if (rows or 0) > max_rows:
        return

    def is_free_now(window: object, stored_in: object) -> bool:
        same_boot = stored_in == boot and last_boot_id == boot_id
        return isinstance(window, bytes) and (not window or (same_boot and is_free(window)))

    database.create_function("is_free", 2, is_free_now)
    with atomic(database):
        delivered, next_queue_id = database.execute(_SUM).fetchone()
        if database.execute(_FORGET).rowcount:
            database.execute(
                "UPDATE ledger SET delivered = delivered + ?, next_queue_id = max(next_queue_id, ?)",
                (delivered - database.execute(_SUM).fetchone()[0], next_queue_id),
            )
