"""The turns of the tenants that share an endpoint."""

from __future__ import annotations

from relay.policy.device_queue import DeviceQueue
from relay.policy.tenant_queues import TenantQueues


def queues(*keys: tuple[int, int]) -> TenantQueues:
    """Return device queues from (queue id, tenant)."""
    return TenantQueues(DeviceQueue(queue_id, (tenant, "tv", str(queue_id))) for queue_id, tenant in keys)


def taken(turns: TenantQueues) -> list[int]:
    return [turns.popleft().id for _ in range(len(turns))]


def test_tenants_take_turns_and_so_do_the_device_queues_of_a_tenant() -> None:
    turns = queues((1, 7), (2, 7), (3, 7), (4, 8), (5, 9), (6, 8))
    assert sorted(queue.id for queue in turns) == [1, 2, 3, 4, 5, 6]
    assert taken(turns) == [1, 4, 5, 2, 6, 3]
    assert not turns


def test_a_tenant_leaves_with_its_device_queues_in_turn() -> None:
    turns = queues((1, 7), (2, 8), (3, 7), (4, 7))
    assert [queue.id for queue in turns.remove_tenant(7)] == [1, 3, 4]
    assert list(turns.remove_tenant(7)) == []
    assert taken(turns) == [2]
