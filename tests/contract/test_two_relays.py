"""Two relays on one database, in memory and on PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from relay.config import OutboxSettings
from relay.outbox import ClaimPart, Ledger, OutboxFull, OutboxLost, OutboxUnavailable, Selection, TooManyDevices
from relay.outbox.postgres.database import GROUPS, Beat
from relay.runtime.clock import SystemClock

from tests.contract.boxes import REFUSED, TV, SharedBox, bodies, close, event, event_id, events

NO_BEAT = Beat(None, 0, 0, 0, 0)
DEVICES = [(1, "tv", f"tv-{number}") for number in range(24)]


@pytest.fixture(params=["shared", pytest.param("postgres", marks=pytest.mark.slow)])
async def first(request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    """Return a started relay that holds all queue groups."""
    if request.param == "postgres":
        cluster = request.getfixturevalue("postgres_cluster")
        from tests.contract.postgres_box import PostgresBox

        one: Any = PostgresBox(OutboxSettings(), url=cluster.create_database())
    else:
        one = SharedBox(OutboxSettings())
    await one.start()
    yield one
    await close(one)


@pytest.fixture
async def pair(first: Any) -> AsyncIterator[tuple[Any, Any]]:
    """Return two started relays that share the queue groups."""
    other = first.beside()
    await other.start()
    await until(lambda: all_are_held(first, other))
    yield first, other
    await close(other)


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


def groups(box: Any) -> set[int]:
    state = box.outbox._parts.state
    return set() if state.leaving else state.groups


def all_are_held(one: Any, other: Any) -> bool:
    return bool(groups(one) and groups(other)) and len(groups(one)) + len(groups(other)) == GROUPS


def holder_of(pair: tuple[Any, Any], key: Any) -> Any:
    (box,) = [box for box in pair if box.backlog.get(key, (0, 0))[0]]
    return box


async def everything_is_reported(pair: tuple[Any, Any]) -> None:
    one, other = pair
    await until(lambda: one.reported() + other.reported() == one.on_disk().pending)


async def test_each_device_queue_has_one_holder_wherever_its_events_were_stored(pair: tuple[Any, Any]) -> None:
    one, other = pair
    for number in range(3):
        for at, key in enumerate(DEVICES):
            await pair[(at + number) % 2].outbox.append([event(at * 10 + number, key)])
    await everything_is_reported(pair)
    assert {holder_of(pair, key) is one for key in DEVICES} == {True, False}
    for at, key in enumerate(DEVICES):
        assert await holder_of(pair, key).deliver(10, key) == bodies([at * 10, at * 10 + 1, at * 10 + 2], key)
    assert one.on_disk() == other.on_disk() == Ledger(accepted=72, delivered=72)


async def test_a_release_that_failed_is_repeated(first: Any) -> None:
    """The relay has forgotten the queue groups, and the others wait until the database does not list them as its."""
    release, failures = first.outbox._database.release_groups, [OutboxUnavailable("the connection was reset")]

    async def release_groups(replica: int, groups: Any) -> None:
        if failures:
            raise failures.pop()
        await release(replica, groups)

    first.outbox._database.release_groups = release_groups
    other = first.beside()
    await other.start()
    async with asyncio.timeout(30):
        await until(lambda: all_are_held(first, other))
    assert not failures
    await close(other)


async def test_an_event_that_both_store_at_once_is_sent_once(pair: tuple[Any, Any]) -> None:
    one, other = pair
    await asyncio.gather(*(box.outbox.append(events(range(5))) for box in pair))
    await until(lambda: one.reported() + other.reported() == 5 == one.on_disk().pending)
    assert await holder_of(pair, TV).deliver(10) == bodies(range(5))
    assert one.on_disk() == Ledger(accepted=5, delivered=5)


async def test_a_fenced_relay_changes_nothing_and_the_other_repeats_its_request(pair: tuple[Any, Any]) -> None:
    await pair[0].outbox.append(events(range(5)))
    await everything_is_reported(pair)
    holder = holder_of(pair, TV)
    (rest,) = [box for box in pair if box is not holder]
    claimed = await holder.claim(3)
    state = holder.outbox._parts.state
    fenced = state.replica
    await fence(rest, fenced)
    with pytest.raises(OutboxUnavailable):
        await holder.settle()
    with pytest.raises(OutboxUnavailable):
        await holder.outbox.append([event(9)])
    with pytest.raises(OutboxLost):
        await holder.outbox._database.beat(fenced, NO_BEAT)
    await until(lambda: len(groups(rest)) == GROUPS)
    assert rest.loaded.unsettled == [[ClaimPart(holder.queues[TV], 3)]]
    assert [(queue.key, queue.owed) for queue in rest.loaded.queues if queue.key == TV] == [(TV, 1)]
    assert (await rest.claim(3)).bodies == claimed.bodies == bodies(range(3))
    await rest.settle()
    assert await rest.deliver(10) == bodies([3, 4])
    assert rest.on_disk() == Ledger(accepted=5, delivered=5)
    await holder.outbox.close()
    await until(lambda: rest.owed_requests == {holder.queues[TV]: 0})


async def fence(box: Any, replica: int) -> None:
    """Fence a replica, as `box` does if the replica is silent."""
    database, me = box.outbox._database, box.outbox._parts.state.replica
    is_fenced = False
    while not is_fenced:
        view = await database.beat(me, NO_BEAT)
        (beat,) = [each.beat for each in view.replicas if each.replica == replica]
        is_fenced = await database.fence(replica, beat)


async def test_a_clean_stop_hands_over_at_once(pair: tuple[Any, Any]) -> None:
    await pair[0].outbox.append(events(range(5)))
    await everything_is_reported(pair)
    holder = holder_of(pair, TV)
    (rest,) = [box for box in pair if box is not holder]
    await holder.outbox.close()
    await until(lambda: len(groups(rest)) == GROUPS)
    assert await rest.deliver(10) == bodies(range(5))
    assert rest.loaded.unsettled == []


async def test_each_knows_the_share_of_the_other(pair: tuple[Any, Any]) -> None:
    one, _ = pair
    await one.outbox.append(events(range(5)))
    await everything_is_reported(pair)
    holder = holder_of(pair, TV)
    (rest,) = [box for box in pair if box is not holder]
    await until(lambda: [each.events for each in rest.outbox.gauges().replicas if not each.is_self] == [5])
    replicas = rest.outbox.gauges().replicas
    assert [each.groups for each in replicas if each.is_self] == [len(groups(rest))]
    assert sum(each.groups for each in replicas) == GROUPS


async def test_a_command_beside_the_relays_takes_no_device_queues(pair: tuple[Any, Any]) -> None:
    """It registers to requeue dead letters, but neither beats nor claims."""
    one, other = pair
    await one.outbox.append(events(range(2)))
    await everything_is_reported(pair)
    holder = holder_of(pair, TV)
    await holder.claim(2)
    await holder.settle(dead={0: REFUSED})
    command = one.beside()
    await command.outbox.open()
    assert await command.outbox.requeue(Selection(all=True), 10) == 1
    await everything_is_reported(pair)
    for box in pair:
        watching = box.outbox._parts.watching
        await until(lambda watching=watching, beats=watching._beats: watching._beats > beats + 1)
    assert len(groups(one)) + len(groups(other)) == GROUPS
    assert len(one.outbox.gauges().replicas) == 2
    await command.outbox.close()
    assert await holder.deliver(10) == bodies([0])


async def test_a_commit_without_a_standby_is_rejected_if_one_is_required(pair: tuple[Any, Any]) -> None:
    one, _ = pair
    strict = one.beside()
    strict.settings = replace(one.settings, require_replicated=True)
    strict.outbox = strict.make()
    await strict.start()
    with pytest.raises(OutboxUnavailable, match=r"outbox\.require_replicated"):
        await strict.outbox.append(events([1]))
    assert not strict.outbox.gauges().writable
    await close(strict)


async def test_a_relay_with_a_short_lease_is_taken_over() -> None:
    """The others see its beats often enough to know that it is silent."""
    one = SharedBox(OutboxSettings(lease_ms=1_500), SystemClock())
    await one.start()
    other = one.beside()
    await other.start()
    await until(lambda: groups(other))
    await other.outbox._own_tasks.cancel_all()
    async with asyncio.timeout(60):
        await until(lambda: len(groups(one)) == GROUPS)
    other.outbox._parts = None
    await close(other)
    await close(one)


async def test_commits_are_counted_where_they_were_made(pair: tuple[Any, Any]) -> None:
    one, other = pair
    await one.outbox.append(events(range(3)))
    await one.outbox.append(events(range(3, 5)))
    counted = [box.metrics.registry.get_sample_value("relay_outbox_commits_total") for box in (one, other)]
    assert counted == [2, 0]


async def split(pair: tuple[Any, Any]) -> tuple[Any, Any]:
    """Return the relay that sends the events of TV, and the other."""
    await everything_is_reported(pair)
    holder = holder_of(pair, TV)
    return holder, next(box for box in pair if box is not holder)


async def test_each_relay_knows_what_became_of_an_event(pair: tuple[Any, Any]) -> None:
    await pair[0].outbox.append(events(range(4)))
    holder, rest = await split(pair)
    await holder.claim(3)
    for box in pair:
        assert [await box.outbox.find(event_id(number)) for number in range(5)] == ["pending"] * 4 + [None]
    await holder.settle(dead={1: REFUSED})
    for box in pair:
        states = [await box.outbox.find(event_id(number)) for number in range(4)]
        assert states == ["delivered", "dead_lettered", "delivered", "pending"]
    assert await rest.outbox.requeue(Selection(all=True), 10) == 1
    await everything_is_reported(pair)
    assert await holder.deliver(10) == bodies([3, 1])
    for box in pair:
        assert [await box.outbox.find(event_id(number)) for number in range(4)] == ["delivered"] * 4


async def test_an_event_that_another_relay_dropped_can_be_stored_again(pair: tuple[Any, Any]) -> None:
    """G3: only the app still has it. A dead letter is not stored again."""
    await pair[0].outbox.append(events(range(3)))
    holder, rest = await split(pair)
    await holder.claim(1)
    await holder.settle(dead={0: REFUSED})
    holder.clock.advance(holder.settings.max_age_ms + 1)
    assert await holder.outbox.expire() == 2
    assert (await rest.outbox.append(events(range(3)))).duplicates == 1
    assert await rest.outbox.find(event_id(2)) == "pending"
    await everything_is_reported(pair)
    assert await holder.deliver(10) == bodies([1, 2])
    assert holder.on_disk() == Ledger(accepted=5, dead_lettered=1, dropped=2, delivered=2)


async def test_the_state_of_an_event_that_both_stored_is_that_of_the_copy_that_is_sent(pair: tuple[Any, Any]) -> None:
    one, other = pair
    await asyncio.gather(*(box.outbox.append(events(range(5))) for box in pair))
    await until(lambda: one.reported() + other.reported() == 5 == one.on_disk().pending)
    # Until its next poll, a relay does not know of the copy that is sent.
    mine, others = (box.outbox._parts.state.commits for box in pair)
    await until(lambda: mine.positions == others.positions and not mine.unseen and not others.unseen)
    for box in pair:
        assert {await box.outbox.find(event_id(number)) for number in range(5)} == {"pending"}
    assert await holder_of(pair, TV).deliver(10) == bodies(range(5))
    for box in pair:
        assert {await box.outbox.find(event_id(number)) for number in range(5)} == {"delivered"}


def limit(pair: tuple[Any, Any], **limits: Any) -> None:
    for box in pair:
        box.outbox.configure(replace(box.settings, **limits))


async def test_both_count_all_events_against_the_size_of_the_outbox(pair: tuple[Any, Any]) -> None:
    """Also those that the holder has not published yet."""
    limit(pair, max_size_bytes=100_000)
    await pair[0].outbox.append([event(0)])
    holder, rest = await split(pair)
    number = 0
    while rest.outbox.room():
        number += 1
        with suppress(OutboxFull):
            await rest.outbox.append([event(number, TV, 1_000)])
            await until(lambda: not rest.outbox._parts.state.commits.unseen)
    stored = rest.on_disk().pending
    assert 40 < stored <= 100_000 // 1_000
    await until(lambda: not holder.outbox.room())
    await everything_is_reported(pair)
    assert await holder.deliver(stored) == [event(0).body, *bodies(range(1, stored), TV, 1_000)]
    await until(lambda: rest.outbox.room() and holder.outbox.room())


async def test_both_count_all_devices_against_the_largest_number(pair: tuple[Any, Any]) -> None:
    limit(pair, max_devices=12)
    stored = []
    for at, key in enumerate(DEVICES):
        with suppress(TooManyDevices):
            await pair[at % 2].outbox.append([event(at, key)])
            stored.append(key)
    for box in pair:
        await until(lambda box=box: sum(len(each.outbox._parts.state.queues) for each in pair) == len(stored))
        state = box.outbox._parts.state
        await until(lambda state=state: len(state.queues) + state.others.devices() == len(stored))
    assert 12 <= len(stored) <= 18  # Two relays may accept devices that the other one has not published.
    for box in pair:
        for key in DEVICES:
            if key in stored:
                await box.outbox.append([event(900 + DEVICES.index(key), key)])
            else:
                with pytest.raises(TooManyDevices):
                    await box.outbox.append([event(900 + DEVICES.index(key), key)])
