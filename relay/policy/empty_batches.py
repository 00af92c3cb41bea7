"""The batches without events in flight, whose responses show whether the API responds at all."""

from __future__ import annotations

from relay.policy.completed_request import CompletedRequest
from relay.policy.endpoint import Endpoint
from relay.policy.endpoint_turns import EndpointTurns
from relay.policy.judgement import judge_answer
from relay.policy.limits import Limits
from relay.policy.requests import Reply, Send


class EmptyBatches:
    """At most one batch without events is in flight for each tenant."""

    __slots__ = ("_senders", "_turns")

    def __init__(self, turns: EndpointTurns) -> None:
        self._turns = turns
        self._senders: dict[int, Endpoint] = {}  # Endpoints by tenant.

    def __repr__(self) -> str:
        return f"EmptyBatches({len(self._senders)} in flight)"

    def send(self, endpoint: Endpoint, now: int) -> Send | None:
        """Return the batch without events that an endpoint is to send; None without one."""
        tenant_id = endpoint.ready.take_empty_batch(self._senders)
        if tenant_id is None:
            return None
        self._senders[tenant_id] = endpoint
        endpoint.slots.change("free", "occupied")
        endpoint.origin.sent(now)
        return Send(tenant_id, (), 0, exact=True)

    def answered(self, send: Send, reply: Reply, limits: Limits, now: int, u: float) -> Endpoint:
        """Apply the response and free the request slot. Return the endpoint that sent the batch."""
        endpoint = self._senders.pop(send.tenant_id)
        endpoint.limit.responded(now)
        judge_answer(CompletedRequest(limits, endpoint, (), 0, reply.sent_at, True, now, u, {}, {}), reply.verdict)
        endpoint.slots.change("occupied", "free")
        self._turns.list_all(endpoint)
        self._turns.wake(endpoint.origin)
        return endpoint
