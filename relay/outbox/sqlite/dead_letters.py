"""The dead letters: listing, requeuing and discarding.

Rules: listing writes nothing. A requeued event gets a new seq and keeps its checksum, so that a
corrupt event is detected again and never sent.
"""
# ruff: noqa: S608 - conditions and column lists are constants, values are bound

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple, cast
from uuid import UUID

from relay.event.reader import DeviceKey
from relay.outbox import DeadLetter, DeadReason, Selection
from relay.outbox.engine.dedupe_window import ID_BYTES
from relay.outbox.sqlite.commit_plan import Draft, Op
from relay.outbox.sqlite.outbox_state import OutboxState
from relay.runtime.clock import rfc3339
from relay.runtime.metrics import Metrics

_WHOLE = (
    "typeof(event_id) = 'blob' AND length(event_id) = 16 AND typeof(crc) = 'integer' AND typeof(body) = 'blob'"
    " AND typeof(tenant_id) = 'text' AND typeof(platform) = 'text' AND typeof(device_id) = 'text'"
)
_LETTERS_AT_ONCE = 256
"""Maximum number of dead letters that one commit requeues or discards."""


class Chosen(NamedTuple):
    """A dead letter to requeue."""

    id: int
    key: DeviceKey
    event_id: bytes
    body_bytes: int


class ReadDead(Op[Sequence[DeadLetter]]):
    def __init__(self, selection: Selection, limit: int, after: int) -> None:
        super().__init__()
        self._choice = (selection, limit, after)

    def plan(self, draft: Draft) -> bool:
        selection, limit, after = self._choice
        draft.add(self, partial(_read, selection=selection, limit=limit, after=after))
        return True

    def apply(self, state: OutboxState, result: Sequence[DeadLetter]) -> Sequence[DeadLetter]:
        return result


class Choose(Op[Sequence[Chosen]]):
    """Choose the dead letters that one commit can requeue."""

    def __init__(self, selection: Selection, limit: int) -> None:
        super().__init__()
        self._choice = (selection, limit)

    def plan(self, draft: Draft) -> bool:
        selection, limit = self._choice
        draft.add(self, partial(_choose, selection=selection, limit=min(limit, _LETTERS_AT_ONCE)))
        return True

    def apply(self, state: OutboxState, result: Sequence[Chosen]) -> Sequence[Chosen]:
        fitting, body_bytes = 0, 0
        for chosen in result:
            body_bytes += chosen.body_bytes
            if fitting and body_bytes > state.limits.commit_bytes:
                break
            fitting += 1
        return result[:fitting]


class Requeue(Op[int]):
    def __init__(self, chosen: Sequence[Chosen], metrics: Metrics) -> None:
        super().__init__()
        self._chosen = chosen
        self._metrics = metrics
        self._queues: list[int] = []

    def plan(self, draft: Draft) -> bool:
        self._queues = [draft.queue_id(chosen.key) for chosen in self._chosen]
        if draft.unclear.intersection(self._queues):
            return False
        wanted = list(zip((chosen.id for chosen in self._chosen), self._queues, strict=True))
        draft.add(self, partial(_requeue, wanted=wanted, first_seq=draft.next_seq, at_ms=draft.now_ms))
        draft.unclear.update(self._queues)
        return True

    def apply(self, state: OutboxState, result: set[int]) -> int:
        """Add the requeued events. `result`: the ids of the dead letters that still existed."""
        moved = [at for at, chosen in enumerate(self._chosen) if chosen.id in result]
        ids = [self._chosen[at].event_id for at in moved]
        queues = [self._queues[at] for at in moved]
        state.dedupe_window.extend(state.next_seq, ids, queues)
        for at, queue_id in zip(moved, queues, strict=True):
            size = self._chosen[at].body_bytes
            state.index.queues[queue_id].append(state.next_seq, size)
            state.next_seq += 1
            state.dead_letter_bytes -= size
        state.rows += len(moved)
        state.last_row = state.next_seq - 1
        state.requeued += len(moved)
        state.dead_letters -= len(moved)
        state.changed.update(queues)
        self._metrics.events_requeued.inc(len(moved))
        return len(moved)


class Discard(Op[int]):
    def __init__(self, selection: Selection, limit: int) -> None:
        super().__init__()
        self._choice = (selection, limit)

    def plan(self, draft: Draft) -> bool:
        selection, limit = self._choice
        draft.add(self, partial(_discard, selection=selection, limit=min(limit, _LETTERS_AT_ONCE)))
        return True

    def apply(self, state: OutboxState, result: tuple[int, int]) -> int:
        letters, body_bytes = result
        state.dead_letters -= letters
        state.dead_letter_bytes -= body_bytes
        return letters


def _read(database: sqlite3.Connection, selection: Selection, limit: int, after: int) -> Sequence[DeadLetter]:
    """Read dead letters. Texts are read as bytes, so that a text with invalid UTF-8 is readable, too."""
    where, values = _where(selection)
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
            (after, *values, limit),
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


def _choose(database: sqlite3.Connection, selection: Selection, limit: int) -> Sequence[Chosen]:
    """Choose dead letters whose values are valid. Others can only be listed, exported and discarded."""
    where, values = _where(selection)
    return [
        Chosen(number, (int(tenant_id), _text(platform), _text(device_id)), event_id, body_bytes)
        for number, tenant_id, platform, device_id, event_id, body_bytes in database.execute(
            "SELECT id, CAST(tenant_id AS BLOB), CAST(platform AS BLOB), CAST(device_id AS BLOB), event_id,"
            f" length(body) FROM dead_letters WHERE {_WHOLE} AND {where} ORDER BY id LIMIT ?",
            (*values, limit),
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


def _requeue(database: sqlite3.Connection, wanted: Sequence[tuple[int, int]], first_seq: int, at_ms: int) -> set[int]:
    """Append dead letters, given by (id, queue id), to the log. Return the ids that still existed.

    Each dead letter is deleted before the next is appended, so that a full outbox needs space for
    one event only.
    """
    moved: list[int] = []
    for number, queue_id in wanted:
        if database.execute(
            "INSERT INTO log(seq, queue_id, event_id, at_ms, crc, body)"
            " SELECT ?, ?, event_id, ?, crc, body FROM dead_letters WHERE id = ?",
            (first_seq + len(moved), queue_id, at_ms, number),
        ).rowcount:
            moved.append(number)
            _delete(database, [number])
    database.execute("UPDATE ledger SET requeued = requeued + ?", (len(moved),))
    return set(moved)


def _discard(database: sqlite3.Connection, selection: Selection, limit: int) -> tuple[int, int]:
    """Delete selected dead letters. Return (their number, bytes of their bodies)."""
    where, values = _where(selection)
    numbers = [
        number
        for (number,) in database.execute(
            f"SELECT id FROM dead_letters WHERE {where} ORDER BY id LIMIT ?",
            (*values, limit),
        )
    ]
    return len(numbers), _delete(database, numbers)


def _delete(database: sqlite3.Connection, numbers: Sequence[int]) -> int:
    """Delete dead letters. Return the bytes of their bodies."""
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


def _where(selection: Selection) -> tuple[str, list[Any]]:
    """Return the SQL condition and its values. An empty selection matches no dead letter."""
    conditions: dict[str, Any] = {}
    if selection.ids:
        conditions["id IN (SELECT value FROM json_each(?))"] = json.dumps(list(selection.ids))
    if selection.device_id is not None:
        conditions["device_id = ?"] = selection.device_id
    if selection.reason is not None:
        conditions["reason = ?"] = selection.reason
    if not conditions:
        return ("1" if selection.all else "0"), []
    return " AND ".join(conditions), list(conditions.values())
