"""The batches without events, whose responses show whether the API responds at all.

An endpoint sends one while the cause of a failure is unknown. An endpoint of which nothing was sent since the start
sends one, too, and repeats it slowly until the API responds or an event is pending.
"""

from __future__ import annotations

from collections.abc import Collection

from relay.policy.completed_request import CompletedRequest
from relay.policy.endpoint import Endpoint
from relay.policy.endpoint_turns import EndpointTurns
from relay.policy.endpoints import Endpoints
from relay.policy.judgement import judge_answer
from relay.policy.limits import Limits
from relay.policy.position import SlotUse
from relay.policy.requests import Reply, Send

QUIET_MS = 10_000
SPREAD_MS = 60_000


class EmptyBatches:
    """At most one batch without events is in flight for each tenant."""

    __slots__ = ("_endpoints", "_senders", "_to_try", "_turns", "wake_at")

    def __init__(self, turns: EndpointTurns, endpoints: Endpoints) -> None:
        self._turns = turns
        self._endpoints = endpoints
        self._senders: dict[int, tuple[Endpoint, SlotUse]] = {}  # By tenant; 0: the default's.
        self._to_try: Collection[int | None] = ()
        self.wake_at: int | None = None  # When to try these tenants; set by Timers.

    def __repr__(self) -> str:
        return f"EmptyBatches({len(self._senders)} in flight)"

    def start(self, tenants: Collection[int | None], now: int, u: float) -> int:
        """Return when to try the endpoints of which nothing will have been sent since this start. 0 <= u < 1.

        `tenants`: one for each distinct configured (URL, key); None: the default upstream.
        """
        self._to_try = tenants
        return now + QUIET_MS + int(u * SPREAD_MS)

    def try_endpoints(self, now: int) -> None:
        """Send one for each endpoint of which nothing was sent since the start."""
        for endpoint in self._endpoints.untried(self._to_try, now):
            self._ask(endpoint)

    def send(self, endpoint: Endpoint, now: int) -> Send | None:
        """Return the batch without events that an endpoint is to send, as a trial; None without one."""
        tenant_id = endpoint.ready.take_empty_batch(self._senders)
        if tenant_id is None:
            return None
        endpoint.asked(now)
        endpoint.sent("trial", now)
        self._senders[tenant_id] = endpoint, "trial"
        return Send(tenant_id, (), 0, exact=True)

    def silent(self, send: Send, silent_ms: int, now: int) -> bool:
        """See `Schedule.silent`."""
        endpoint, before = self._senders[send.tenant_id]
        use = endpoint.slot_use(before, silent_ms)
        if use == before:
            return False
        endpoint.slots.change(before, use, now - silent_ms)
        self._senders[send.tenant_id] = endpoint, use
        self._turns.request_ended(endpoint, was_trial=True)
        return True

    def answered(self, send: Send, reply: Reply, limits: Limits, now: int, u: float) -> Endpoint:
        """Apply the response and free the request slot. Return the endpoint that sent the batch."""
        endpoint, use = self._senders.pop(send.tenant_id)
        endpoint.limit.responded(now)
        if self._endpoints.includes(endpoint):
            is_idle = self._endpoints.is_idle(endpoint)
            request = CompletedRequest(limits, endpoint, (), 0, reply.sent_at, True, now, u, {}, {})
            judge_answer(request, self._endpoints.verdict(reply), is_idle=is_idle)
            if is_idle and endpoint.health.state != "ok":
                self._ask(endpoint)
        endpoint.slots.change(use, "free")
        self._turns.request_ended(endpoint, was_trial=True)
        self._turns.list_all(endpoint)
        self._turns.wake(endpoint.origin)
        return endpoint

    def _ask(self, endpoint: Endpoint) -> None:
        endpoint.ready.add_empty_batch(endpoint.tenant_id or 0)
        self._turns.list_all(endpoint)
