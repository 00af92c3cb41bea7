"""The decisions of the schedule (`Send`, `Wait`) and the result that the caller passes back (`Reply`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from relay.policy.omitted_events import Omitted
from relay.policy.verdict import Verdict

_NONE: Mapping[int, Any] = MappingProxyType({})


class Share(NamedTuple):
    """The part of one device queue in a request: at most `max_events` of its first events, except omitted ones."""

    queue_id: int
    max_events: int
    omitted: Omitted = ()


class Send(NamedTuple):
    """A request to send now. Without shares it is a batch without events.

    `responded` frees its request slot, and `settled` frees its device queues."""

    tenant_id: int
    shares: tuple[Share, ...]
    max_body_bytes: int
    exact: bool
    """Send exactly these events, because the upstream may have received the request already."""

    def omitted(self) -> Mapping[int, Omitted]:
        """Return the omitted events by queue id."""
        return {share.queue_id: share.omitted for share in self.shares if share.omitted} if self.exact else _NONE


class Reply(NamedTuple):
    """The result of a request."""

    claimed: Mapping[int, int]
    """The number of events of each device queue in the request, by queue id."""
    body_bytes: int
    verdict: Verdict
    sent_at: int
    """When `next` chose the request. Later knowledge did not influence it, even if its first byte was sent later."""
    seqs: Mapping[int, Sequence[int]] = _NONE
    """The seqs of these events by queue id, for a response that names some of them."""


class Wait(NamedTuple):
    """No request may be sent before `until` unless the state changes. None: only a change permits a request."""

    until: int | None
