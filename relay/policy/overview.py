"""Views of the schedule for status pages and metrics. Times are monotonic milliseconds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from heapq import nlargest
from itertools import chain, islice
from operator import attrgetter, itemgetter
from typing import NamedTuple

from relay.event.reader import DeviceKey
from relay.policy.device_queue import DeviceQueue
from relay.policy.endpoint import Endpoint, SeenError
from relay.policy.endpoints import Endpoints
from relay.policy.limits import Limits
from relay.policy.upstream_origin import HEALTHY, EndpointState

_OWN_LIMIT = ("limit", "rate_limited")
"""Reasons of pauses of one device: its rate window is full, or the upstream sent it a 429."""


class EndpointView(NamedTuple):
    tenant_id: int | None
    """None: the endpoint that tenants share."""
    state: EndpointState
    since_ms: int
    next_attempt_ms: int | None
    """Earliest time of the next request; None if the endpoint may send now."""
    last_error: SeenError | None
    last_delivered_ms: int | None
    """Time of the latest delivery; None before the first one."""
    requests: int = 0
    """Responses of the upstream origin within the last rate window."""
    shared_limit: int | None = None
    """Requests of the origin in any rate window; None while no shared limit is known."""


def endpoint_view(endpoint: Endpoint, limits: Limits, now: int) -> EndpointView:
    """Return the view of an endpoint."""
    at = endpoint.free_at(now, limits.window_ms)
    return EndpointView(
        endpoint.tenant_id,
        endpoint.state(),
        endpoint.since(),
        at if at > now else None,
        endpoint.last_error,
        endpoint.evidence.success_at,
        endpoint.limit.responses_since(now - limits.window_ms),
        endpoint.limit.limit,
    )


class QueueView(NamedTuple):
    key: DeviceKey
    events: int
    """Pending events, including events in flight."""
    paused_until_ms: int | None
    """Earliest time of the next request; None if the device may send now."""
    why: str
    """Reason of the pause: "limit" (full rate window), "outbox" (prevents requests) or an endpoint state; "": none."""
    is_endpoint_paused: bool = False
    requests: int = 0
    """Occupied rate slots of the rate window."""


class QueueSummary(NamedTuple):
    """All device queues at one moment."""

    known: int
    """Number of device queues, including empty ones."""
    waiting: int
    """Number of device queues with pending events."""
    paused: int
    """Number of device queues with pending events that may not send yet."""
    busiest: Sequence[QueueView]
    """Device queues with the most pending events, in descending order."""
    longest_paused: Sequence[QueueView]
    """Device queues with the latest end of their pause, in descending order."""
    limited: int
    """Number of paused device queues that wait for their own limit."""
    endpoint_states: Mapping[EndpointState, int]
    """Number of endpoints with pending events, by state."""


def summarize(
    queues: Collection[DeviceQueue], endpoints: Endpoints, limit: int, limits: Limits, now: int
) -> QueueSummary:
    """Return the summary of all device queues, with at most `limit` entries in each list."""

    def view(queue: DeviceQueue) -> QueueView:
        is_endpoint_paused = endpoints.of(queue.key[0]).free_at(now, limits.window_ms) > now
        used = queue.occupied(now, limits)
        free_at = queue.free_at(now, limits)
        if free_at <= now:
            return QueueView(queue.key, queue.events, None, "", is_endpoint_paused, used)
        return QueueView(queue.key, queue.events, free_at, _pause_reason(queue, free_at), is_endpoint_paused, used)

    waiting = [queue for queue in queues if queue.events]
    paused = [(free_at, queue) for queue in waiting if (free_at := queue.free_at(now, limits)) > now]
    return QueueSummary(
        len(queues),
        len(waiting),
        len(paused),
        [view(queue) for queue in nlargest(limit, waiting, key=attrgetter("events"))],
        [view(queue) for _, queue in nlargest(limit, paused, key=itemgetter(0))],
        sum(_pause_reason(queue, free_at) in _OWN_LIMIT for free_at, queue in paused),
        Counter(endpoint.state() for endpoint in endpoints.pending()),
    )


def select(endpoints: Sequence[Endpoint], first: Collection[int | None], others: int) -> Sequence[Endpoint]:
    """Return the endpoints to list.

    If there are more than `others`, these are those of the tenants in `first` and at most `others` more, with failing
    and limited endpoints before the rest. Otherwise these are all.
    """
    if len(endpoints) <= others:
        return endpoints

    def others_by_state(*, ok: bool) -> Iterator[Endpoint]:
        return (each for each in endpoints if (each.state() in HEALTHY) is ok and each.tenant_id not in first)

    known = [endpoint for endpoint in endpoints if endpoint.tenant_id in first]
    return known + list(islice(chain(others_by_state(ok=False), others_by_state(ok=True)), others))


def _pause_reason(queue: DeviceQueue, free_at: int) -> str:
    """Return why the device queue waits until `free_at`."""
    return queue.pause.reason if queue.pause.until >= free_at else "limit"
