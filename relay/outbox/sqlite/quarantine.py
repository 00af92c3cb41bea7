"""Quarantined events of a cloned installation: they stay pending until an operator decides.

The events of a device queue with quarantined_after < seq <= quarantined_to are quarantined, although its cursor is
larger. Rules: one transaction changes the owner and quarantines the events. An adopted event is appended again, so that
the cursor of a queue only grows. Neither changes the ledger's totals.
"""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

from relay.outbox.engine import commands as c
from relay.outbox.engine.checksum import unmarked
from relay.outbox.engine.dedupe_window import DROPPED
from relay.outbox.sqlite.connection import atomic
from relay.outbox.sqlite.loading import read_totals
from relay.outbox.sqlite.schema import CHECK_OF_ROW, ID_OF_ROW
from relay.outbox.sqlite.statements import NO_REQUEST, read_body, remove
from relay.runtime.machine import MachineIds, identity, is_other_machine

_DELETE_DONE = """
    DELETE FROM log WHERE EXISTS (
        SELECT 1 FROM device_queues AS q
        WHERE q.queue_id = log.queue_id AND log.seq > q.quarantined_to AND log.seq <= q.cursor)"""
_QUARANTINE = f"""
    UPDATE device_queues SET quarantined_after = coalesce(quarantined_after, cursor), quarantined_to = :last_seq,
        cursor = max(cursor, :last_seq), {NO_REQUEST}"""  # noqa: S608 - the parts are constants of this package
_READ = f"""
    SELECT {ID_OF_ROW}, coalesce(crc, 0), {CHECK_OF_ROW}, coalesce(CAST(body AS BLOB), x'') FROM log
    WHERE seq = ?"""  # noqa: S608 - the parts are constants of this package, values are bound
_APPEND = "INSERT INTO log(seq, queue_id, event_id, at_ms, crc, received_crc, body) VALUES (?, ?, ?, ?, ?, ?, ?)"


class InstallationClaim(NamedTuple):
    """The machine that opens an outbox and becomes its owner."""

    ids: MachineIds
    salt: str
    """Salt for the identity of an outbox that has no identity yet."""
    adopts: bool
    """Whether pending events of another machine are sent, not quarantined (outbox.adopt)."""


def claim(database: sqlite3.Connection, owner: InstallationClaim) -> bool:
    """Make this machine the owner of the outbox, and return whether another machine was the owner.

    In that case every pending event is quarantined, requests in flight included, unless `owner.adopts` is set.
    """
    (stored,) = database.execute("SELECT CAST(identity AS TEXT) FROM ledger").fetchone()
    is_moved = is_other_machine(stored or "", owner.ids)
    new = identity("" if is_moved else stored or "", owner.ids, owner.salt)
    if new == stored:
        return False
    with atomic(database):
        if is_moved and not owner.adopts:
            # A queue has one range: its settled rows between an earlier quarantine and the cursor are deleted first.
            database.execute(_DELETE_DONE)
            database.execute(_QUARANTINE, {"last_seq": read_totals(database).last_seq})
        database.execute("UPDATE ledger SET identity = ?", (new,))
    return is_moved


def adopt(database: sqlite3.Connection, command: c.AdoptEvents) -> c.AdoptedEvents:
    """Append events again.

    The events lose the mark of an inserted timestamp, because the relay cannot correct the clock of
    another machine.
    """
    adopted: list[c.AdoptedEvent] = []
    tried = body_bytes = 0
    for seq, queue_id in command.chosen:
        tried += 1
        for event_id, crc, check, body in database.execute(_READ, (seq,)).fetchall():
            new_seq = command.first_seq + len(adopted)
            row = (new_seq, queue_id, event_id, command.at_ms, unmarked(body, crc), check or None, body)
            database.execute(_APPEND, row)
            database.execute("DELETE FROM log WHERE seq = ?", (seq,))
            adopted.append(c.AdoptedEvent(seq, queue_id, event_id, len(body)))
            body_bytes += len(body)
        if body_bytes >= command.max_bytes:
            break
    database.execute(
        "UPDATE ledger SET adopted = adopted + ?, last_seq = max(last_seq, ?)",
        (len(adopted), command.first_seq + len(adopted) - 1),
    )
    return c.AdoptedEvents(tried, adopted)


def discard(database: sqlite3.Connection, command: c.DiscardQuarantined) -> c.Dropped:
    bodies = [read_body(database, seq)[0] for seq in command.reported_seqs]
    rows = sum(len(remove(database, seq, DROPPED)) for seq in command.seqs)
    last_seq = max(command.seqs, default=0)
    database.execute("UPDATE ledger SET dropped = dropped + ?, last_seq = max(last_seq, ?)", (rows, last_seq))
    return c.Dropped(rows, bodies)


def forget_machine(database: sqlite3.Connection, command: c.ForgetMachine) -> None:
    database.execute("UPDATE ledger SET identity = ''")
