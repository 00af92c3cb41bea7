"""The device queues of one endpoint that are ready, in turn, and the exact requests, which are sent first."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Literal, TypeAlias

from relay.policy.device_queue import DeviceQueue
from relay.policy.limits import Limits
from relay.policy.position import READY, InFlight
from relay.policy.tenant_queues import TenantQueues

ExactRequest: TypeAlias = tuple[tuple[DeviceQueue, int], ...]
"""Device queues with their numbers of events."""
Turn: TypeAlias = Literal["none", "active", "waiting"]
"""Whether the endpoint is one of the active ones of the schedule, waits for the limit of its origin, or neither."""


class ReadyQueues:
    """A device queue is listed exactly while its position is `Ready`."""

    __slots__ = ("_exact", "_queues", "turn")

    def __init__(self, *, is_shared: bool = False) -> None:
        """Create empty ready queues; `is_shared`: of several tenants."""
        self._queues: deque[DeviceQueue] | TenantQueues = TenantQueues() if is_shared else deque()
        self._exact: deque[ExactRequest] = deque()
        self.turn: Turn = "none"

    def __len__(self) -> int:
        """Return the number of device queues that are ready."""
        return len(self._queues)

    def __repr__(self) -> str:
        return f"ReadyQueues({len(self._queues)} ready, {len(self._exact)} exact, turn={self.turn})"

    def has_requests(self) -> bool:
        return bool(self._queues or self._exact)

    def activate(self) -> bool:
        """Return whether the endpoint must be added to the active ones, because it has requests and no turn."""
        if self.turn != "none" or not self.has_requests():
            return False
        self.turn = "active"
        return True

    def end_turn(self) -> None:
        """Record that the endpoint was removed from the active or the waiting ones."""
        assert self.turn != "none", self
        self.turn = "none"

    def wait(self) -> None:
        """Record that the endpoint waits for the limit of its upstream origin."""
        assert self.turn == "none", self
        self.turn = "waiting"

    def add(self, queue: DeviceQueue) -> None:
        assert queue.position is READY, queue
        self._queues.append(queue)

    def take(self) -> DeviceQueue:
        """Remove and return the device queue whose turn it is."""
        return self._queues.popleft()

    def prefer(self, is_preferred: Callable[[DeviceQueue], bool]) -> None:
        """Move a preferred device queue to the front, if there is one. Not for several tenants."""
        assert isinstance(self._queues, deque), self
        for _ in range(len(self._queues)):
            if is_preferred(self._queues[0]):
                return
            self._queues.rotate(-1)

    def remove_reserved(self) -> None:
        """Remove the device queues that became part of an exact request."""
        self._queues = type(self._queues)(queue for queue in self._queues if queue.position is READY)

    def take_tenant(self, shared: ReadyQueues, tenant_id: int) -> bool:
        """Move the requests of a tenant from `shared` to this, in order. Return whether there is one."""
        assert isinstance(shared._queues, TenantQueues), shared
        assert isinstance(self._queues, deque), self
        self._queues.extend(shared._queues.remove_tenant(tenant_id))
        self._exact.extend(request for request in shared._exact if request[0][0].key[0] == tenant_id)
        if self._exact:
            shared._exact = deque(request for request in shared._exact if request[0][0].key[0] != tenant_id)
        return self.has_requests()

    def add_exact(self, request: ExactRequest) -> None:
        self._exact.append(request)

    def take_exact(self, now: int, limits: Limits) -> tuple[ExactRequest, int | None]:
        """Remove and return the first exact request that all its device queues may send now; empty without one.

        Device queues without events are left out. The second value is the earliest time of the other requests; None
        if they only wait for a request in flight.
        """
        wake_at: int | None = None
        for _ in range(len(self._exact)):
            request = self._exact.popleft()
            if any(isinstance(queue.position, InFlight) for queue, _ in request):
                self._exact.append(request)
                continue
            free_at = max(queue.free_at(now, limits) for queue, _ in request)
            if free_at > now:
                self._exact.append(request)
                wake_at = free_at if wake_at is None else min(wake_at, free_at)
                continue
            for queue, _ in request:
                if not queue.events:
                    queue.end_reservation()
            if pending := tuple((queue, events) for queue, events in request if queue.events):
                return pending, wake_at
        return (), wake_at
