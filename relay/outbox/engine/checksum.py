"""The checksum of a stored event: it verifies the body, and marks a timestamp that the relay
inserted.

The checksum is the CRC-32 of the body. If the relay inserted `occurred_at`, the CRC starts from
_INSERTED_TIME_SEED instead of 0. The two checksums of one body always differ, because the steps of
a CRC are invertible. So the mark needs no column, and a flipped bit in it is detected like one in
the body.
"""

from __future__ import annotations

from collections.abc import Sequence
from zlib import crc32

_INSERTED_TIME_SEED = 0x52454C59


def checksum(body: bytes, has_inserted_time: bool) -> int:
    """Return the checksum to store with a body."""
    return crc32(body, _INSERTED_TIME_SEED) if has_inserted_time else crc32(body)


def has_inserted_time(body: bytes, crc: int) -> bool | None:
    """Return whether the relay inserted the timestamp of a body; None if the body does not match the checksum."""
    if crc32(body) == crc:
        return False
    return True if crc32(body, _INSERTED_TIME_SEED) == crc else None


def unmarked(body: bytes, crc: int) -> int:
    """Return the checksum of the body without the mark of an inserted timestamp, or `crc` if it has no such mark."""
    return checksum(body, False) if has_inserted_time(body, crc) else crc


def checksums(bodies: Sequence[bytes], marks: Sequence[bool]) -> list[int]:
    """Return the checksum of each body. `marks`: whether the relay inserted the timestamp of each."""
    return list(map(checksum, bodies, marks)) if any(marks) else list(map(crc32, bodies))
