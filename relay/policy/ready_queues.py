"""The device queues of one endpoint that are ready, in turn by class, and the exact requests of each class.

A device queue is listed in the class that it had when it became ready. An entry whose queue is no longer `Ready` has
become part of an exact request, and is skipped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container, Sequence
from typing import TypeAlias

from relay.policy.class_turns import CLASSES, DeviceClass
from relay.policy.device_queue import DeviceQueue
from relay.policy.limits import Limits
from relay.policy.position import READY, InFlight
from relay.policy.tenant_queues import TenantQueues

ExactRequest: TypeAlias = tuple[tuple[DeviceQueue, int], ...]
"""Device queues with their numbers of events."""
_PREFERRED_AMONG = 32
"""Maximum number of device queues that the search for a preferred one examines."""


class ReadyQueues:
    """Each class is first-in, first-out. A class without entries has no deque, which needs 600 bytes even if empty."""

    __slots__ = ("_blocked", "_empty_batch", "_exact", "_is_shared", "_queues")

    def __init__(self, *, is_shared: bool = False) -> None:
        """Create empty ready queues; `is_shared`: of several tenants."""
        self._is_shared = is_shared
        self._queues: list[deque[DeviceQueue] | TenantQueues | None] = [None for _ in CLASSES]
        self._exact: list[deque[ExactRequest] | None] = [None for _ in CLASSES]
        self._blocked: list[tuple[DeviceClass, ExactRequest]] = []
        """Exact requests that wait for a pause, a rate window or a request in flight."""
        self._empty_batch: int | None = None  # The tenant for which a batch without events is to be sent.

    def __len__(self) -> int:
        """Return the number of listed device queues."""
        return sum([len(queues) for queues in self._queues if queues])

    def __repr__(self) -> str:
        queues, exact = ([len(each or ()) for each in lists] for lists in (self._queues, self._exact))
        return f"ReadyQueues(queues={queues}, exact={exact}, {len(self._blocked)} blocked)"

    def has_requests(self) -> bool:
        return bool(self.classes() or self._blocked)

    def has(self, device_class: DeviceClass) -> bool:
        """Return whether a class has requests that are not blocked, except a batch without events."""
        return bool(self._queues[device_class] or self._exact[device_class])

    def classes(self, *, in_doubt: bool = True) -> Sequence[DeviceClass]:
        """Return the classes with requests that are not blocked; without `in_doubt`, only with device queues that are
        not in doubt. A batch without events belongs to the first class."""
        if not in_doubt:
            found = [each for each in CLASSES[:-1] if self._queues[each]]
        else:
            found = [each for each in CLASSES if self.has(each)]
        return found if self._empty_batch is None or found[:1] == [CLASSES[0]] else [CLASSES[0], *found]

    def add(self, queue: DeviceQueue, limits: Limits) -> DeviceClass:
        """Add a device queue at the end of its class. Return the class."""
        assert queue.position is READY, queue
        device_class = queue.device_class(limits)
        queues = self._queues[device_class]
        if queues is None:
            queues = self._queues[device_class] = TenantQueues() if self._is_shared else deque()
        queues.append(queue)
        return device_class

    def add_first(self, queue: DeviceQueue, limits: Limits) -> None:
        """Return a device queue to the front of its class. Not for several tenants."""
        assert queue.position is READY, queue
        device_class = queue.device_class(limits)
        queues = self._queues[device_class] = self._queues[device_class] or deque()
        assert isinstance(queues, deque), self
        queues.appendleft(queue)

    def take(self, device_class: DeviceClass) -> DeviceQueue | None:
        """Remove and return the next device queue of a class; None without one."""
        queues = self._queues[device_class]
        if queues is None:
            return None
        queue = queues.popleft()
        if not queues:
            self._queues[device_class] = None
        return queue

    def prefer(self, device_class: DeviceClass, is_preferred: Callable[[DeviceQueue], bool]) -> DeviceClass | None:
        """Move a preferred device queue among the next ones of a class to the front. Return its class.

        `device_class` comes before the other classes. None: there is no preferred one. Not for several tenants.
        """
        for each in (device_class, *CLASSES):
            queues = self._queues[each]
            if queues is None:
                continue
            assert isinstance(queues, deque), self
            for at in range(min(len(queues), _PREFERRED_AMONG)):
                if is_preferred(queues[at]):
                    queue = queues[at]
                    del queues[at]
                    queues.appendleft(queue)
                    return each
        return None

    def take_tenant(self, shared: ReadyQueues, tenant_id: int) -> bool:
        """Move the requests of a tenant from `shared` to this, in order. Return whether there is one."""
        assert not self.has_requests(), self
        exact = list(shared._blocked)
        shared._blocked.clear()
        for each in CLASSES:
            others, requests = shared._queues[each], shared._exact[each]
            if others is not None:
                assert isinstance(others, TenantQueues), shared
                self._queues[each] = deque(others.remove_tenant(tenant_id)) or None
                shared._queues[each] = others or None
            exact += [(each, request) for request in requests or ()]
            shared._exact[each] = None
        for each, request in exact:
            (self if request[0][0].key[0] == tenant_id else shared)._list_exact(each, request)
        return bool(self.classes())

    def add_exact(self, request: ExactRequest, limits: Limits) -> None:
        """Add an exact request to the first class of its device queues."""
        self._list_exact(min(queue.device_class(limits) for queue, _ in request), request)

    def _list_exact(self, device_class: DeviceClass, request: ExactRequest) -> None:
        requests = self._exact[device_class] = self._exact[device_class] or deque()
        requests.append(request)

    def retry_exact(self) -> None:
        """Let `take_exact` examine the blocked requests again, after a pause or a request in flight has ended."""
        for device_class, request in self._blocked:
            self._list_exact(device_class, request)
        self._blocked.clear()

    def add_empty_batch(self, tenant_id: int) -> None:
        """Send a batch without events next, with the URL and key of a tenant."""
        self._empty_batch = tenant_id

    @property
    def has_empty_batch(self) -> bool:
        """Return whether a batch without events is to be sent."""
        return self._empty_batch is not None

    def take_empty_batch(self, in_flight: Container[int]) -> int | None:
        """Remove and return the tenant of the batch without events, unless one for this tenant is in flight."""
        tenant_id = self._empty_batch
        if tenant_id is None or tenant_id in in_flight:
            return None
        self._empty_batch = None
        return tenant_id

    def take_exact(self, device_class: DeviceClass, now: int, limits: Limits) -> tuple[ExactRequest, int | None]:
        """Remove and return the first exact request of a class that all its device queues may send now; empty without.

        Device queues without events are left out. The second value is the earliest time at which a request that was
        found to be blocked may be sent; None if there is none, or it waits for a request in flight.
        """
        wake_at: int | None = None
        while exact := self._exact[device_class]:
            request = exact.popleft()
            if not exact:
                self._exact[device_class] = None
            if any(isinstance(queue.position, InFlight) for queue, _ in request):
                self._blocked.append((device_class, request))
                continue
            free_at = max(queue.free_at(now, limits) for queue, _ in request)
            if free_at > now:
                self._blocked.append((device_class, request))
                wake_at = free_at if wake_at is None else min(wake_at, free_at)
                continue
            for queue, _ in request:
                if not queue.events:
                    queue.end_reservation()
            if pending := tuple((queue, events) for queue, events in request if queue.events):
                return pending, wake_at
        return (), wake_at
