"""The events of one device queue that are in flight, and how the journal stores the omitted ones.

The events in flight are the first pending events of the queue. The request contains all of them but the omitted ones.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from relay.outbox import NOTHING_OMITTED, Dead

_MESSAGES_CHARS = 8192
"""Maximum sum of the stored messages, so that a journal entry fits into the space that is reserved for it."""


class Flight(NamedTuple):
    seqs: array[int]
    omitted: Mapping[int, Dead | None] = NOTHING_OMITTED
    """See ClaimPart."""

    @property
    def sent(self) -> Sequence[int]:
        """The seqs of the events in the request."""
        return [seq for seq in self.seqs if seq not in self.omitted] if self.omitted else self.seqs


def packed(omitted: Mapping[int, Dead | None]) -> bytes:
    """Return omitted events for the journal. Messages are cut if they are long together."""
    if not omitted:
        return b""
    most = _MESSAGES_CHARS // len(omitted)
    rows = [(seq, *dead[:2], dead.message[:most]) if dead else (seq,) for seq, dead in omitted.items()]
    return msgspec.json.encode(rows)


def unpacked(stored: bytes) -> Mapping[int, Dead | None]:
    """Return the omitted events of a journal entry; none if the disk has changed it."""
    try:
        rows: list[list[Any]] = msgspec.json.decode(stored, type=list[list[Any]]) if stored else []
        return {int(seq): msgspec.convert(dead, Dead) if dead else None for seq, *dead in rows}
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError, TypeError):
        return NOTHING_OMITTED
