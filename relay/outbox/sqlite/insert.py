"""New rows of the log: joined by the event loop, taken apart again by SQLite in one statement.

sqlite3 gives the interpreter lock away for each step of a statement, and beside a busy event loop it
waits long to get it back. So all rows of a commit are one step without a Python object for each of
their values: 1.9 µs a row, where statements of 64 rows took 2.8 (800 rows a commit, nobody else busy),
and the loop goes on meanwhile.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain

import msgspec

from relay.outbox.engine.dedupe_window import ID_BYTES

_encode = msgspec.json.Encoder().encode

_SPAN_BITS = 32
_DIGITS = 10
"""Of a lane or a checksum, zeros before it: both have 32 bits."""
CHECK_OF_ROW = "(CAST(iif(received_crc = 0, crc, coalesce(received_crc, 0)) AS INTEGER) & 4294967295)"
"""The check of a row of the log, see Event.check; 0 if it is not known."""
_INSERT = f"""
    INSERT INTO log(seq, queue_id, event_id, at_ms, crc, received_crc, body)
    SELECT ?1 + key, CAST(substr(?3, key * {3 * _DIGITS} + 1, {_DIGITS}) AS INTEGER),
        substr(?4, key * {ID_BYTES} + 1, {ID_BYTES}), ?2,
        CAST(substr(?3, key * {3 * _DIGITS} + {_DIGITS + 1}, {_DIGITS}) AS INTEGER),
        CAST(substr(?3, key * {3 * _DIGITS} + {2 * _DIGITS + 1}, {_DIGITS}) AS INTEGER),
        substr(?5, value >> {_SPAN_BITS}, value & {(1 << _SPAN_BITS) - 1})
    FROM json_each(CAST(?6 AS TEXT))"""  # noqa: S608 - the parts are ours, values are bound


@dataclass(frozen=True, slots=True)
class NewRows:
    """Rows with the seqs from `first_seq` on; a step of a commit, and a whole transaction where it is the only one."""

    first_seq: int
    at_ms: int
    numbers: bytes
    """Lane, checksum of the body and checksum of the received bytes of each, in _DIGITS digits each."""
    ids: bytes
    bodies: bytes
    spans: bytes
    """Where in `bodies` each body lies: a JSON array of (position, counted from 1) << _SPAN_BITS | bytes."""

    @classmethod
    def joined(
        cls,
        first_seq: int,
        at_ms: int,
        queue_ids: Sequence[int],
        ids: Sequence[bytes],
        crcs: Sequence[int],
        bodies: Sequence[bytes],
        sizes: Sequence[int],
        *,
        received_crcs: Sequence[int],
    ) -> NewRows:
        """`sizes`: of the bodies, in bytes."""
        rows = chain.from_iterable(zip(queue_ids, crcs, received_crcs, strict=True))
        numbers = (f"%0{_DIGITS}d" * (3 * len(queue_ids))) % tuple(rows)
        spans = [at << _SPAN_BITS | size for at, size in zip(accumulate(sizes, initial=1), sizes, strict=False)]
        return cls(first_seq, at_ms, numbers.encode(), b"".join(ids), b"".join(bodies), _encode(spans))

    def __call__(self, database: sqlite3.Connection) -> None:
        values = (self.first_seq, self.at_ms, self.numbers, self.ids, self.bodies, self.spans)
        database.execute(_INSERT, values)
