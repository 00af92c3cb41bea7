"""What the schedule decides (`Send` or `Wait`) and what it is told afterwards (`Reply`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from relay.policy.verdict import Verdict


class Share(NamedTuple):
    """One lane's part of a request: its first events, at most so many."""

    queue_id: int
    max_events: int


class Send(NamedTuple):
    """Send this now. Its slot is free again once it is `answered`, its lanes once that is `settled`."""

    tenant_id: int
    shares: tuple[Share, ...]
    max_body_bytes: int
    exact: bool
    """These very events and no more: the upstream may have seen the request already."""


class Reply(NamedTuple):
    """How a request went."""

    claimed: Mapping[int, int]
    """How many events each lane had in it."""
    body_bytes: int
    verdict: Verdict
    sent_at: int
    """When `next` chose it: what was learnt between that and the first byte did not stop it any more."""


class Wait(NamedTuple):
    """Nothing may be sent before `until`, unless something changes; None: until something changes."""

    until: int | None
