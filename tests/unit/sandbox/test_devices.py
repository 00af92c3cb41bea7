"""Simulated devices send a bounded load in order, and repeat every event until it has a response."""

from __future__ import annotations

import asyncio
import socket
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from relay.sandbox.devices import Devices, Load, Tally, device_id
from relay.sandbox.faults import Misbehaviour
from relay.sandbox.server import Sandbox

from tests.unit.sandbox.harness import HandClock

Start = Callable[..., Awaitable[Sandbox]]


class SeededClock(HandClock):
    """Ids and chances are the same in each run."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn = 0

    def chance(self) -> float:
        self.drawn += 1
        return (self.drawn * 0.618) % 1

    def new_event_id(self) -> str:
        self.drawn += 1
        return str(uuid.UUID(int=self.drawn, version=4))


@pytest.fixture
async def upstream(start: Start) -> Sandbox:
    """Stands in for a relay: asks for no key and has no limits."""
    return await start(api_key="", device_per_window=0, ip_limit="off", keep_requests=True)


def load(upstream: Sandbox, **bounds: Any) -> Load:
    return Load(target=upstream.url, enveloped=True, **bounds)


async def test_events_are_valid_and_in_order_and_accepted_ids_are_recorded(upstream: Sandbox) -> None:
    devices = Devices(load(upstream, devices=5, events=101, connections=3, retry_ms=0), SeededClock())
    assert await devices.run() == Tally(sent=101, accepted=101)
    report = upstream.report()
    assert (report.distinct, report.duplicates, report.order_breaks, report.devices) == (101, 0, 0, 5)
    assert sorted(devices.accepted_ids()) == sorted(upstream.record.delivered())


async def test_a_second_run_continues_the_first(upstream: Sandbox) -> None:
    devices = Devices(load(upstream, devices=2, events=10), SeededClock())
    await devices.run()
    assert (await devices.run()).accepted == 20
    assert (upstream.report().distinct, upstream.report().order_breaks) == (20, 0)


async def test_several_events_are_sent_in_one_request(upstream: Sandbox) -> None:
    await Devices(load(upstream, devices=1, events=25, events_per_request=10), SeededClock()).run()
    assert [request.events for request in upstream.record.requests()] == [10, 10, 5]


@pytest.mark.parametrize(
    "fault",
    [
        Misbehaviour(answer=503, count=3),
        Misbehaviour(answer=429, count=3),
        Misbehaviour(action="reset_before_commit", count=3),
        Misbehaviour(action="close_at_accept", count=1),
        Misbehaviour(action="garbage", count=3),
        Misbehaviour(action="connection_close", count=3),
    ],
)
async def test_a_request_without_a_final_response_is_repeated(upstream: Sandbox, fault: Misbehaviour) -> None:
    upstream.faults.add(fault)
    devices = Devices(load(upstream, devices=2, events=10, connections=1, retry_ms=0), SeededClock())
    assert (await devices.run()).accepted == 10
    report = upstream.report()
    assert (report.distinct, report.duplicates, report.order_breaks) == (10, 0, 0)


async def test_a_repeated_request_has_the_same_bytes(upstream: Sandbox) -> None:
    upstream.faults.add(Misbehaviour(action="reset_after_commit", count=1))
    devices = Devices(load(upstream, devices=1, events=1, retry_ms=0), SeededClock())
    assert await devices.run() == Tally(sent=1, accepted=1, retries=1)
    first, second = upstream.record.contents
    assert (first.body == second.body, upstream.report().duplicates) == (True, 1)


async def test_a_rejection_is_final(upstream: Sandbox) -> None:
    upstream.faults.add(Misbehaviour(answer=422, count=1))
    devices = Devices(load(upstream, devices=1, events=3, retry_ms=0), SeededClock())
    assert await devices.run() == Tally(sent=3, accepted=2, refused=1)
    assert len(devices.accepted_ids()) == 2


async def test_devices_wait_for_a_port_that_opens_later(upstream: Sandbox) -> None:
    upstream.close_port()
    devices = Devices(load(upstream, devices=1, events=1, retry_ms=0), SeededClock())
    run = asyncio.create_task(devices.run())
    while not devices.tally.retries:
        await asyncio.sleep(0)
    await upstream.open_port()
    assert (await run).accepted == 1


async def test_the_same_random_numbers_create_the_same_events(upstream: Sandbox) -> None:
    for _ in range(2):
        await Devices(load(upstream, devices=3, events=9, connections=1), SeededClock()).run()
    bodies = [request.body for request in upstream.record.contents]
    assert bodies[:9] == bodies[9:]


async def test_time_ends_a_run(upstream: Sandbox) -> None:
    """10 events/s for 300 ms begin events at 0, 100 and 200 ms, once the clock has passed these."""
    clock = SeededClock()
    devices = Devices(load(upstream, devices=1, events_per_s=10, for_ms=300), clock)
    run = asyncio.create_task(devices.run())
    await upstream.until(lambda record: record.distinct == 1)
    clock.now_ms += 299
    assert (await run).accepted == 3


async def test_datagrams_carry_the_same_events() -> None:
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.setblocking(False)
        target = f"udp://127.0.0.1:{receiver.getsockname()[1]}"
        assert await Devices(Load(target=target, devices=2, events=4), SeededClock()).run() == Tally(sent=4)
        datagrams = [msgspec.json.decode(await loop.sock_recv(receiver, 65536)) for _ in range(4)]
    sent = [(event["source"]["device_id"], event["context"]["n"]) for event in datagrams]
    assert sent == [(device_id(0), 0), (device_id(1), 0), (device_id(0), 1), (device_id(1), 1)]


def test_device_ids_are_persistent_uuids() -> None:
    assert device_id(0) == device_id(0) != device_id(1)
    assert uuid.UUID(device_id(0)).version == 5
