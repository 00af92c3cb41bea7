"""The decisions of the schedule (`Send`, `Wait`), the body of a request, and its result (`Reply`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from types import MappingProxyType
from typing import Any, NamedTuple

from relay.policy.omitted_events import Omitted
from relay.policy.verdict import Verdict

PREFIX, SEPARATOR, SUFFIX = b'{"events":[', b",", b"]}"
_FRAME_BYTES = len(PREFIX) + len(SUFFIX)
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


def count_fitting(sizes: Iterable[int], max_events: int, max_body_bytes: int, used_bytes: int = 0) -> int:
    """Return how many events of these `sizes` (bytes, in order) fit a body that already holds `used_bytes` of events.

    An empty body always takes one event: an event that exceeds `max_body_bytes` is sent in a request of its own.
    """
    room = max_body_bytes - _FRAME_BYTES - used_bytes
    events = 0
    for size in islice(sizes, max_events):
        room -= size + len(SEPARATOR)
        if room < 0 and (events or used_bytes):
            break
        events += 1
    return events


def request_body(events: Sequence[bytes]) -> bytes:
    """Return the body of a request. The bytes of each event are unchanged."""
    return PREFIX + SEPARATOR.join(events) + SUFFIX
