"""Leases: who holds a queue group, how long a replica may send, and which replica is silent."""

from __future__ import annotations

from collections import Counter

from relay.outbox.postgres.database import GROUPS
from relay.outbox.postgres.lease import Lease, Observer, shares

LEASE_MS = 10_000


def test_every_group_has_a_holder_and_replicas_have_similar_shares() -> None:
    share = shares([3, 7, 12, 40])
    assert set(share) == set(range(GROUPS))
    assert all(40 <= groups <= 90 for groups in Counter(share.values()).values())


def test_a_further_replica_takes_groups_and_moves_no_others() -> None:
    before, after = shares([1, 2, 3]), shares([1, 2, 3, 4])
    assert {after[group] for group in range(GROUPS) if before[group] != after[group]} == {4}


def test_a_lease_ends_before_others_may_take_over() -> None:
    lease = Lease(LEASE_MS)
    assert lease.until_ms is None
    lease.renew(1_000)
    assert lease.until_ms == 10_800


def look(observer: Observer, now: int, **beats: int) -> list[int]:
    return observer.look({int(name[1:]): beat for name, beat in beats.items()}, now)


def test_a_replica_is_silent_after_its_beat_has_not_changed_for_a_lease_and_a_quarter() -> None:
    observer = Observer(LEASE_MS)
    times = range(0, 12_501, 500)
    assert all(look(observer, now, r1=5, r2=now) == [] for now in times)
    assert look(observer, 12_501, r1=5, r2=12_501) == [1]


def test_a_beat_ends_the_silence() -> None:
    observer = Observer(LEASE_MS)
    for now in range(0, 30_000, 1_000):
        assert look(observer, now, r1=now // 10_000) == []


def test_silence_does_not_count_while_the_observer_is_not_connected() -> None:
    """When the database returns, every beat is old."""
    observer = Observer(LEASE_MS)
    look(observer, 0, r1=5)
    assert look(observer, 20_000, r1=5) == []
    assert look(observer, 25_000, r1=5) == []
    for now in range(26_000, 33_000, 1_000):
        silent = look(observer, now, r1=5)
    assert silent == []
    assert look(observer, 33_000, r1=5) == [1]
