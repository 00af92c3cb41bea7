"""The dead letters: listing, requeuing, discarding, and the limits of their number and size.

Rules: listing writes nothing. A requeued event keeps its checksum, so that a corrupt event is detected again. The
shares of the devices are read when a limit is exceeded for the first time, and when an operator has changed the dead
letters since. Later calls read the new dead letters only. A failed commit closes the connection and its shares.
"""
# ruff: noqa: S608 - conditions and column lists are constants, values are bound

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, cast
from uuid import UUID

import msgspec

from relay.outbox import DeadLetter, DeadReason, Selection
from relay.outbox.engine import commands as c
from relay.outbox.engine.dead_letter_shares import DeadLetterShares
from relay.outbox.engine.dedupe_window import ID_BYTES
from relay.outbox.sqlite.connection import Database
from relay.outbox.sqlite.loading import CHUNK_ROWS, Broken
from relay.runtime.clock import rfc3339

_WHOLE = (
    "typeof(event_id) = 'blob' AND length(event_id) = 16 AND typeof(crc) = 'integer' AND typeof(body) = 'blob'"
    " AND typeof(tenant_id) = 'text' AND typeof(platform) = 'text' AND typeof(device_id) = 'text'"
)

_READ_SHARES = """
    SELECT json_group_array(json_array(
        id, hex(tenant_id) || '/' || hex(platform) || '/' || hex(device_id), coalesce(length(body), 0)))
    FROM (SELECT id, tenant_id, platform, device_id, body FROM dead_letters WHERE id > ? ORDER BY id LIMIT ?)"""
"""Each dead letter as [id, device, body bytes]. The device is in hex, so that values of any type and text are valid."""
_decode = msgspec.json.Decoder(list[tuple[int, str, int]]).decode


def read(database: sqlite3.Connection, command: c.ReadDeadLetters) -> Sequence[DeadLetter]:
    """Read dead letters. Texts are read as bytes, so that a text with invalid UTF-8 is readable, too."""
    where, values = _where(command.selection)
    newest = ("id < coalesce(nullif(?, 0), 1 << 62)", "DESC")
    after, order = newest if command.selection.newest_first else ("id > ?", "")
    return [
        DeadLetter(
            id=number,
            event_id=str(UUID(bytes=event_id)) if len(event_id) == ID_BYTES else event_id.hex(),
            device_key=(_number(tenant), _text(platform), _text(device)),
            reason=cast(DeadReason, _text(reason)),
            status=status if isinstance(status, int) else None,
            message=_text(message),
            dead_at=_time(died_ms),
            body=body,
        )
        for number, event_id, tenant, platform, device, reason, status, message, died_ms, body in database.execute(
            "SELECT id, coalesce(CAST(event_id AS BLOB), x''), CAST(tenant_id AS BLOB), CAST(platform AS BLOB),"
            " CAST(device_id AS BLOB), CAST(reason AS BLOB), CAST(status AS INTEGER), CAST(message AS BLOB),"
            " CAST(dead_at_ms AS INTEGER), coalesce(CAST(body AS BLOB), x'')"
            f" FROM dead_letters WHERE {after} AND {where} ORDER BY id {order} LIMIT ?",
            (command.after, *values, command.limit),
        )
    ]


def _text(value: bytes | None) -> str:
    return (value or b"").decode(errors="replace")


def _number(value: bytes | None) -> int:
    """Return a tenant_id; 0 if the value is not a number."""
    with suppress(ValueError):
        return int(value or b"")
    return 0


def _time(died_ms: int | None) -> str:
    with suppress(ValueError, OverflowError, OSError):
        return rfc3339(died_ms or 0)
    return ""


def choose(database: sqlite3.Connection, command: c.ChooseDeadLetters) -> Sequence[c.ChosenLetter]:
    """Choose dead letters whose values are valid. Others can only be listed, exported and discarded."""
    where, values = _where(command.selection)
    chosen: list[c.ChosenLetter] = []
    for number, tenant_id, platform, device_id, event_id, body_bytes in database.execute(
        "SELECT id, CAST(tenant_id AS BLOB), CAST(platform AS BLOB), CAST(device_id AS BLOB), event_id,"
        f" length(body) FROM dead_letters WHERE {_WHOLE} AND {where} ORDER BY id LIMIT ?",
        (*values, command.limit),
    ):
        with suppress(ValueError):  # the disk has changed the key
            key = (int(tenant_id), platform.decode(), device_id.decode())
            chosen.append(c.ChosenLetter(number, key, event_id, body_bytes))
    return chosen


def requeue(database: Database, command: c.RequeueDeadLetters) -> set[int]:
    """Append dead letters to the log. Return the ids that still existed.

    Each dead letter is deleted before the next is appended, so that a full outbox needs space for
    one event only.
    """
    moved: list[int] = []
    for number, queue_id in command.wanted:
        if database.execute(
            "INSERT INTO log(seq, queue_id, event_id, at_ms, crc, body)"
            " SELECT ?, ?, event_id, ?, crc, body FROM dead_letters WHERE id = ?",
            (command.first_seq + len(moved), queue_id, command.at_ms, number),
        ).rowcount:
            moved.append(number)
            delete_letters(database, [number])
    database.execute("UPDATE ledger SET requeued = requeued + ?", (len(moved),))
    return set(moved)


def discard(database: Database, command: c.DiscardDeadLetters) -> tuple[int, int]:
    where, values = _where(command.selection)
    query = f"SELECT id FROM dead_letters WHERE {where} ORDER BY id LIMIT ?"
    numbers = [number for (number,) in database.execute(query, (*values, command.limit))]
    return len(numbers), delete_letters(database, numbers)


def _where(selection: Selection) -> tuple[str, list[Any]]:
    """Return the SQL condition and its values. An empty selection matches no dead letter."""
    conditions = {
        "id IN (SELECT value FROM json_each(?))": json.dumps(list(selection.ids)) if selection.ids else None,
        "device_id = ?": selection.device_id,
        "reason = ?": selection.reason,
        "event_id = ?": selection.event_id,
    }
    chosen = {condition: value for condition, value in conditions.items() if value is not None}
    return " AND ".join(chosen) or ("1" if selection.all else "0"), list(chosen.values())


def delete_excess(database: Database, limits: c.DeadLetterLimits) -> tuple[int, int]:
    """Delete dead letters until the rest is within the limits. Return their number, and the bytes of their bodies."""
    letters, body_bytes = database.execute("SELECT dead_letters, dead_letter_bytes FROM ledger").fetchone()
    if letters <= limits.max_letters and body_bytes <= limits.max_body_bytes:
        return 0, 0
    excess, _ = _shares(database, limits).remove_excess(letters, body_bytes)
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


def _shares(database: Database, limits: c.DeadLetterLimits) -> DeadLetterShares:
    """Return the shares of all stored dead letters."""
    shares = database.dead_letter_shares
    if shares is None or shares.limits != (limits.max_letters, limits.max_body_bytes):
        shares = database.dead_letter_shares = DeadLetterShares(limits.max_letters, limits.max_body_bytes)
    # A chunk is one value, see `statements`.
    while letters := _decode(database.execute(_READ_SHARES, (shares.last_id, CHUNK_ROWS)).fetchone()[0]):
        for letter_id, device, body_bytes in letters:
            if letter_id <= shares.last_id:
                raise Broken(f"the dead letters after {shares.last_id} are out of order")
            shares.add(letter_id, device, body_bytes)
    return shares
