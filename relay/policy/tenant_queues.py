"""The ready device queues of the tenants that share an endpoint.

The tenants take turns, and so do the device queues of a tenant. No tenant delays the others with many devices, and a
tenant leaves without a scan.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence

from relay.policy.device_queue import DeviceQueue


class TenantQueues:
    """A queue of device queues with the methods of a deque that `ReadyQueues` needs."""

    __slots__ = ("_by_tenant", "_count")

    def __init__(self, queues: Iterable[DeviceQueue] = ()) -> None:
        # In the order of turns. Lists, because an empty deque needs 600 bytes, and most tenants have one device queue.
        self._by_tenant: OrderedDict[int, list[DeviceQueue]] = OrderedDict()
        self._count = 0
        for queue in queues:
            self.append(queue)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[DeviceQueue]:
        return (queue for queues in self._by_tenant.values() for queue in queues)

    def append(self, queue: DeviceQueue) -> None:
        self._by_tenant.setdefault(queue.key[0], []).append(queue)
        self._count += 1

    def popleft(self) -> DeviceQueue:
        """Remove and return the next device queue of the tenant whose turn it is, and end its turn."""
        tenant_id, queues = next(iter(self._by_tenant.items()))
        queue = queues.pop(0)
        if queues:
            self._by_tenant.move_to_end(tenant_id)
        else:
            del self._by_tenant[tenant_id]
        self._count -= 1
        return queue

    def remove_tenant(self, tenant_id: int) -> Sequence[DeviceQueue]:
        """Remove and return the device queues of a tenant, in turn."""
        queues = self._by_tenant.pop(tenant_id, [])
        self._count -= len(queues)
        return queues
