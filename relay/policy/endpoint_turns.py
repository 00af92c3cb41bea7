"""The turns of the endpoints that have ready requests: active endpoints, and those that wait for their origin's limit.

An endpoint is listed once. `ReadyQueues.turn` records where.
"""

from __future__ import annotations

from collections import deque

from relay.policy.endpoint import Endpoint
from relay.policy.upstream_origin import UpstreamOrigin


class EndpointTurns:
    """The order in which endpoints may send. The caller decides whether they may send now."""

    __slots__ = ("_active", "_waiting")

    def __init__(self) -> None:
        self._active: deque[Endpoint] = deque()
        self._waiting: dict[str, deque[Endpoint]] = {}  # By upstream origin.

    def __repr__(self) -> str:
        waiting = {name: len(endpoints) for name, endpoints in self._waiting.items()}
        return f"EndpointTurns({len(self._active)} active, waiting={waiting})"

    def activate(self, endpoint: Endpoint) -> None:
        """List an endpoint as active if it has requests and is not listed."""
        if endpoint.ready.activate():
            self._active.append(endpoint)

    def take(self) -> Endpoint | None:
        """Remove and return the active endpoint whose turn it is."""
        if not self._active:
            return None
        endpoint = self._active.popleft()
        endpoint.ready.end_turn()
        return endpoint

    def wait(self, endpoint: Endpoint) -> None:
        """Let an endpoint wait for the limit of its upstream origin."""
        endpoint.ready.wait()
        self._waiting.setdefault(endpoint.origin.name, deque()).append(endpoint)

    def is_waited_for(self, origin: UpstreamOrigin) -> bool:
        """Return whether an endpoint waits for the limit of an origin."""
        return bool(self._waiting.get(origin.name))

    def serve_waiting(self, origin: UpstreamOrigin, request_slots: int) -> None:
        """Activate the next endpoint that waits for the limit of an origin, if it permits one more request."""
        waiting = self._waiting[origin.name]
        while waiting and origin.has_room(request_slots):
            endpoint = waiting.popleft()
            endpoint.ready.end_turn()
            if endpoint.ready.activate():
                self._active.append(endpoint)
                return

    def wake_all(self, origin: UpstreamOrigin) -> None:
        """Activate all endpoints that wait for the limit of an origin."""
        for endpoint in self._waiting.pop(origin.name, ()):
            endpoint.ready.end_turn()
            self.activate(endpoint)
