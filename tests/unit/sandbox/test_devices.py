"""Simulated devices send valid events in order, and repeat every event until it has a final response."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest
from relay.sandbox.devices import Devices, device_id
from relay.sandbox.faults import Misbehaviour
from relay.sandbox.server import Sandbox

from tests.unit.sandbox.harness import HandClock

Start = Callable[..., Awaitable[Sandbox]]


class ClockWithIds(HandClock):
    def new_event_id(self) -> str:
        return str(uuid.uuid4())


@pytest.fixture
async def upstream(start: Start) -> Sandbox:
    """Stands in for a relay: requires no key and has no limits."""
    return await start(api_key="", device_per_window=0, ip_limit="off", keep_requests=True)


@asynccontextmanager
async def sending(upstream: Sandbox, devices: int) -> AsyncIterator[None]:
    """Run the devices, without pauses, until the end of the block."""
    task = asyncio.create_task(Devices(upstream.url, devices, 0, ClockWithIds(), retry_s=0).run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_events_are_valid_and_in_order(upstream: Sandbox) -> None:
    async with sending(upstream, devices=5):
        await upstream.until(lambda record: record.distinct >= 100)
    report = upstream.report()
    assert report.by_status.keys() <= {"202", "none"}
    assert (report.duplicates, report.order_breaks, report.devices) == (0, 0, 5)


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
    async with sending(upstream, devices=2):
        await upstream.until(lambda record: record.distinct >= 10)
    report = upstream.report()
    assert (report.duplicates, report.order_breaks, report.devices) == (0, 0, 2)


async def test_a_repeated_request_has_the_same_bytes(upstream: Sandbox) -> None:
    upstream.faults.add(Misbehaviour(action="reset_after_commit", count=1))
    async with sending(upstream, devices=1):
        await upstream.until(lambda record: record.distinct >= 2)
    first, second, *_ = upstream.record.contents
    assert (first.body == second.body, upstream.report().duplicates) == (True, 1)


async def test_a_rejection_is_final(upstream: Sandbox) -> None:
    upstream.faults.add(Misbehaviour(answer=422, count=1))
    async with sending(upstream, devices=1):
        await upstream.until(lambda record: record.distinct >= 1)
    rejected, accepted, *_ = upstream.record.contents
    assert rejected.body != accepted.body


async def test_devices_wait_for_a_port_that_opens_later(upstream: Sandbox) -> None:
    upstream.close_port()
    async with sending(upstream, devices=1):
        await asyncio.sleep(0)
        await upstream.open_port()
        await upstream.until(lambda record: record.distinct >= 1)


def test_device_ids_are_persistent_uuids() -> None:
    assert device_id(0) == device_id(0) != device_id(1)
    assert uuid.UUID(device_id(0)).version == 5
