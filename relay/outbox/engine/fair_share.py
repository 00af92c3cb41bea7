"""Whose events a nearly full outbox still takes: a device may hold fifteen times the room that is left, and no more.

With `when_full = "reject"` a noisy device could fill the outbox while the upstream is away, and every other device
would be refused with it. By this rule a device alone stops at fifteen sixteenths, two at thirty of 31 parts, and
whoever holds little is taken as long as there is room at all; nobody has to know how many devices there will be.
(The dynamic threshold of Choudhury and Hahne, IEEE/ACM Transactions on Networking 6(2), 1998; docs/decisions/0006.)

Whoever makes up device ids without end has a share with each: apps on a box are not told apart otherwise.

Pure.
"""

from __future__ import annotations

_ROOMS = 15


def is_crowded(room_bytes: int, capacity_bytes: int) -> bool:
    """Whether there can be a device over its share at all."""
    return room_bytes * (_ROOMS + 1) < capacity_bytes


def over_share(held_bytes: int, room_bytes: int) -> bool:
    """Whether a device that holds so much must leave the rest of the room to others."""
    return held_bytes > _ROOMS * room_bytes
