"""The dead letters: listing, requeuing and discarding.

Rules: listing writes nothing. A requeued event keeps its checksum, so that a corrupt event is detected again.
"""
# ruff: noqa: S608 - conditions and column lists are constants, values are bound

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Any, cast
from uuid import UUID

from relay.outbox import DeadLetter, DeadReason, Selection
from relay.outbox.engine import commands as c
from relay.outbox.engine.dedupe_window import ID_BYTES
from relay.outbox.sqlite.connection import Database
from relay.outbox.sqlite.dead_letter_limits import delete_letters
from relay.runtime.clock import rfc3339

_WHOLE = (
    "typeof(event_id) = 'blob' AND length(event_id) = 16 AND typeof(crc) = 'integer' AND typeof(body) = 'blob'"
    " AND typeof(tenant_id) = 'text' AND typeof(platform) = 'text' AND typeof(device_id) = 'text'"
)


def read(database: sqlite3.Connection, command: c.ReadDeadLetters) -> Sequence[DeadLetter]:
    """Read dead letters. Texts are read as bytes, so that a text with invalid UTF-8 is readable, too."""
    where, values = _where(command.selection)
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
            f" FROM dead_letters WHERE id > ? AND {where} ORDER BY id LIMIT ?",
            (command.after, *values, command.limit),
        )
    ]


def _text(value: bytes | None) -> str:
    return (value or b"").decode(errors="replace")


def _number(value: bytes | None) -> int:
    """Return a tenant_id; 0 if the value is not a number."""
    try:
        return int(value or b"")
    except ValueError:
        return 0


def _time(died_ms: int | None) -> str:
    try:
        return rfc3339(died_ms or 0)
    except (ValueError, OverflowError, OSError):
        return ""


def choose(database: sqlite3.Connection, command: c.ChooseDeadLetters) -> Sequence[c.ChosenLetter]:
    """Choose dead letters whose values are valid. Others can only be listed, exported and discarded."""
    where, values = _where(command.selection)
    return [
        c.ChosenLetter(number, (int(tenant_id), _text(platform), _text(device_id)), event_id, body_bytes)
        for number, tenant_id, platform, device_id, event_id, body_bytes in database.execute(
            "SELECT id, CAST(tenant_id AS BLOB), CAST(platform AS BLOB), CAST(device_id AS BLOB), event_id,"
            f" length(body) FROM dead_letters WHERE {_WHOLE} AND {where} ORDER BY id LIMIT ?",
            (*values, command.limit),
        )
        if _is_key(tenant_id, platform, device_id)
    ]


def _is_key(tenant_id: bytes, *names: bytes) -> bool:
    try:
        int(tenant_id)
        b"".join(names).decode()
    except ValueError:
        return False
    return True


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
