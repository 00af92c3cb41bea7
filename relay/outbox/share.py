"""What a nearly full outbox still takes, and from whom: the last part of the room is for those who use little of it.

With `when_full = "reject"` one noisy device could fill the outbox while the upstream is away, and every other device
would be refused with it. So the last sixteenth (the reserve) takes events of devices only that hold no more than an
even share of the room, one further device counted in. A device alone is refused there too: the next one may come.

Whoever makes up device ids without end has a share with each: apps on a box are not told apart otherwise.

Pure.
"""

from __future__ import annotations

_RESERVE = 16


def reserve_bytes(capacity_bytes: int) -> int:
    """So much of the room is the reserve."""
    return capacity_bytes // _RESERVE


def share_bytes(capacity_bytes: int, devices: int) -> int:
    """An even share, beside the `devices` that are known."""
    return capacity_bytes // (devices + 1)
