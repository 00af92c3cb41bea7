"""The share of a nearly full outbox that one device may use: at most fifteen times the free space.

With `when_full = "reject"` a noisy device could fill the outbox while the upstream is unavailable,
and the relay would reject the events of every other device. With this rule a single device can use
15/16 of the space, two devices 30/31, and a device with few pending events can append as long as
there is free space. The rule does not depend on the number of devices. (The dynamic threshold of
Choudhury and Hahne, IEEE/ACM Transactions on Networking 6(2), 1998; docs/decisions/0006.)

An app that invents device ids has a share with each id, because the relay distinguishes apps by
their device ids only.
"""

from __future__ import annotations

_MAX_MULTIPLE = 15


def is_crowded(room_bytes: int, capacity_bytes: int) -> bool:
    """Return whether so little space is free that a device can exceed its share."""
    return room_bytes * (_MAX_MULTIPLE + 1) < capacity_bytes


def over_share(held_bytes: int, room_bytes: int) -> bool:
    """Return whether a device that uses `held_bytes` must leave the free space to other devices."""
    return held_bytes > _MAX_MULTIPLE * room_bytes
