"""A request is sent within the lease of its device queues only."""

from __future__ import annotations

import asyncio
from typing import Any

from relay.forward.lease_bound import LeaseEnded, PostResult, post_within_lease
from relay.policy.verdict import UpstreamResponse
from relay.runtime.tasks import Tasks

from tests.contract.boxes import FakeClock

RESPONSE = UpstreamResponse(202, {}, b"", 0)


class Leased:
    """The part of an outbox that the forwarder asks before a request."""

    def __init__(self, until_ms: int | None) -> None:
        self.until_ms = until_ms

    def send_until_ms(self) -> int | None:
        return self.until_ms


async def post(outbox: Any, clock: FakeClock, sent: list[str], ends: asyncio.Event | None = None) -> PostResult:
    async def exchange() -> PostResult:
        sent.append("sent")
        try:
            if ends is not None:
                await ends.wait()
        except asyncio.CancelledError:
            sent.append("reset")
            raise
        return RESPONSE

    return await post_within_lease(outbox, clock, Tasks(), exchange)


async def test_no_request_is_sent_after_the_lease() -> None:
    clock, sent = FakeClock(), list[str]()
    assert await post(Leased(clock.monotonic), clock, sent) == LeaseEnded(was_sent=False)
    assert sent == []


async def test_without_leases_a_request_is_sent_at_any_time() -> None:
    sent = list[str]()
    assert await post(Leased(None), FakeClock(), sent) == RESPONSE
    assert sent == ["sent"]


async def test_a_request_is_sent_within_the_lease() -> None:
    clock, sent = FakeClock(), list[str]()
    assert await post(Leased(clock.monotonic + 1), clock, sent) == RESPONSE
    assert sent == ["sent"]


async def test_a_request_is_reset_when_the_lease_ends() -> None:
    clock, sent = FakeClock(), list[str]()
    running = asyncio.get_running_loop().create_task(post(Leased(clock.monotonic + 20), clock, sent, asyncio.Event()))
    while not sent:
        await asyncio.sleep(0)
    clock.advance(20)
    assert await running == LeaseEnded(was_sent=True)
    await asyncio.sleep(0)
    assert sent == ["sent", "reset"]


async def test_a_renewed_lease_extends_the_request() -> None:
    clock, sent, ends = FakeClock(), list[str](), asyncio.Event()
    outbox = Leased(clock.monotonic + 20)
    running = asyncio.get_running_loop().create_task(post(outbox, clock, sent, ends))
    while not sent:
        await asyncio.sleep(0)
    outbox.until_ms = clock.monotonic + 10_000
    clock.advance(30)
    ends.set()
    assert await running == RESPONSE
