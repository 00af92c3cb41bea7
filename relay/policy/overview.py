"""The schedule for people: what status pages and metrics show of it. Times are monotonic milliseconds."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from heapq import nlargest
from itertools import chain, islice
from operator import attrgetter, itemgetter
from typing import NamedTuple

from relay.event.reader import DeviceKey
from relay.policy.device_queue import DeviceQueue
from relay.policy.endpoint import Endpoint, EndpointState
from relay.policy.limits import Limits


class EndpointView(NamedTuple):
    tenant_id: int
    state: EndpointState
    since_ms: int
    next_attempt_ms: int | None
    """When it may send next, if it is held or paced."""
    last_error: str


class QueueView(NamedTuple):
    key: DeviceKey
    events: int
    """Pending, in flight included."""
    paused_until_ms: int | None
    """Not before, or None if it may send now."""
    why: str
    """Why it is held: "", "limit" (its window is full), "outbox" (the disk), or the state that holds it."""


class QueueSummary(NamedTuple):
    """All lanes, in one look."""

    known: int
    """Those without pending events, too."""
    waiting: int
    """With pending events."""
    paused: int
    """Of those, how many may not send yet."""
    busiest: Sequence[QueueView]
    """With most pending events first."""
    longest_paused: Sequence[QueueView]
    """Held longest into the future first."""


def summarize(queues: Collection[DeviceQueue], limit: int, limits: Limits, now: int) -> QueueSummary:
    """What is to be shown of all of them, in one pass."""
    waiting = [queue for queue in queues if queue.events]
    paused = [(free_at, queue) for queue in waiting if (free_at := queue.free_at(now, limits)) > now]
    return QueueSummary(
        len(queues),
        len(waiting),
        len(paused),
        [_view(queue, limits, now) for queue in nlargest(limit, waiting, key=attrgetter("events"))],
        [_view(queue, limits, now) for _, queue in nlargest(limit, paused, key=itemgetter(0))],
    )


def select(endpoints: Mapping[int, Endpoint], first: Collection[int], others: int) -> list[int]:
    """Tenants: all, as they came, if no more than `others`.

    Else those `first`, then at most so many others, those in trouble before the rest.
    """
    if len(endpoints) <= others:
        return list(endpoints)

    def others_by_state(*, ok: bool) -> Iterator[int]:
        return (each for each, endpoint in endpoints.items() if (endpoint.state() == "ok") is ok and each not in first)

    known = [tenant_id for tenant_id in first if tenant_id in endpoints]
    return known + list(islice(chain(others_by_state(ok=False), others_by_state(ok=True)), others))


def _view(queue: DeviceQueue, limits: Limits, now: int) -> QueueView:
    free_at = queue.free_at(now, limits)
    if free_at <= now:
        return QueueView(queue.key, queue.events, None, "")
    return QueueView(queue.key, queue.events, free_at, queue.pause_reason if queue.paused_until >= free_at else "limit")
