"""The limits of the dead letters: their number, and the size of their bodies.

The shares of the devices are read when a limit is exceeded for the first time, and when an operator has changed the
dead letters since. Later calls read the new dead letters only. A failed commit closes the connection, and the shares
with it.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence

import msgspec

from relay.outbox.engine.commands import DeadLetterLimits
from relay.outbox.engine.dead_letter_shares import DeadLetterShares
from relay.outbox.sqlite.connection import Database
from relay.outbox.sqlite.loading import CHUNK_ROWS, Broken

_READ = """
    SELECT json_group_array(json_array(
        id, hex(tenant_id) || '/' || hex(platform) || '/' || hex(device_id), coalesce(length(body), 0)))
    FROM (SELECT id, tenant_id, platform, device_id, body FROM dead_letters WHERE id > ? ORDER BY id LIMIT ?)"""
"""Each dead letter as [id, device, body bytes]. The device is in hex, so that values of any type and text are valid."""
_decode = msgspec.json.Decoder(list[tuple[int, str, int]]).decode


def delete_excess(database: Database, limits: DeadLetterLimits) -> tuple[int, int]:
    """Delete dead letters until the rest is within the limits. Return their number, and the bytes of their bodies."""
    letters, body_bytes = database.execute("SELECT dead_letters, dead_letter_bytes FROM ledger").fetchone()
    letters, body_bytes = letters - limits.max_letters, body_bytes - limits.max_body_bytes
    if letters <= 0 and body_bytes <= 0:
        return 0, 0
    shares, excess = _shares(database, limits), list[int]()
    while letters > len(excess) or body_bytes > 0:
        removed = shares.remove_next()
        if removed is None:  # the disk has changed the totals
            break
        excess.append(removed[0])
        body_bytes -= removed[1]
    return len(excess), _delete(database, excess)


def delete_letters(database: Database, numbers: Sequence[int]) -> int:
    """Delete dead letters that an operator has chosen. Return the bytes of their bodies."""
    database.dead_letter_shares = None
    return _delete(database, numbers)


def _delete(database: sqlite3.Connection, numbers: Sequence[int]) -> int:
    listed = json.dumps(numbers)
    (body_bytes,) = database.execute(
        "SELECT coalesce(sum(length(body)), 0) FROM dead_letters WHERE id IN (SELECT value FROM json_each(?))",
        (listed,),
    ).fetchone()
    database.execute("DELETE FROM dead_letters WHERE id IN (SELECT value FROM json_each(?))", (listed,))
    database.execute(
        "UPDATE ledger SET dead_letters = dead_letters - ?, dead_letter_bytes = dead_letter_bytes - ?",
        (len(numbers), body_bytes),
    )
    return int(body_bytes)


def _shares(database: Database, limits: DeadLetterLimits) -> DeadLetterShares:
    """Return the shares of all stored dead letters."""
    shares = database.dead_letter_shares
    if shares is None or shares.limits != (limits.max_letters, limits.max_body_bytes):
        shares = database.dead_letter_shares = DeadLetterShares(limits.max_letters, limits.max_body_bytes)
    # A chunk is one value, see `statements`.
    while letters := _decode(database.execute(_READ, (shares.last_id, CHUNK_ROWS)).fetchone()[0]):
        for letter_id, device, body_bytes in letters:
            if letter_id <= shares.last_id:
                raise Broken(f"the dead letters after {shares.last_id} are out of order")
            shares.add(letter_id, device, body_bytes)
    return shares
