"""What a stored event's checksum says: that its body is whole, and whether the relay put in its time.

It is the body's CRC-32; of an event whose `occurred_at` is the relay's own, the one that is begun with
_STAMPED instead of 0. Of one body the two always differ (a CRC's steps can be undone), so the mark costs
no column, and is as safe from a flipped bit as the body.
"""

from __future__ import annotations

from collections.abc import Sequence
from zlib import crc32

_STAMPED = 0x52454C59


def checksum(body: bytes, has_inserted_time: bool) -> int:
    return crc32(body, _STAMPED) if has_inserted_time else crc32(body)


def has_inserted_time(body: bytes, crc: int) -> bool | None:
    """Whether the relay put in the body's time; None if the body is not the one that was stored."""
    if crc32(body) == crc:
        return False
    return True if crc32(body, _STAMPED) == crc else None


def unmarked(body: bytes, crc: int) -> int:
    """Return the checksum that says the body is whole but not that the relay inserted its time; `crc` if it is not."""
    return checksum(body, False) if has_inserted_time(body, crc) else crc


def checksums(bodies: Sequence[bytes], marks: Sequence[bool]) -> list[int]:
    """The checksum of each body; `marks` says which times are the relay's."""
    return list(map(checksum, bodies, marks)) if any(marks) else list(map(crc32, bodies))
