"""Send a request only while this relay may send from its device queues.

An outbox that several relays share leases device queues. After the lease ends, another relay sends their events.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from relay.outbox import Outbox
from relay.policy.verdict import NoResponse, UpstreamResponse
from relay.runtime.clock import Clock
from relay.runtime.tasks import Tasks


@dataclass(frozen=True, slots=True)
class LeaseEnded:
    """The lease ended before the response. This says nothing about the upstream."""

    was_sent: bool
    """Whether the request was reset, so that the upstream may have received it."""


PostResult = UpstreamResponse | NoResponse | LeaseEnded


async def post_within_lease(
    outbox: Outbox, clock: Clock, tasks: Tasks, post: Callable[[], Coroutine[Any, Any, UpstreamResponse | NoResponse]]
) -> PostResult:
    """Return the result of `post`. Reset the request when the lease ends; each renewal extends it."""
    if outbox.send_until_ms() is None:
        return await post()
    if _left_ms(outbox, clock) <= 0:
        return LeaseEnded(was_sent=False)

    async def checked() -> PostResult:
        """Look again: there is no await between this look and the first byte."""
        return await post() if _left_ms(outbox, clock) > 0 else LeaseEnded(was_sent=False)

    request = tasks.start("leased request", checked())
    try:
        while not request.done() and (left_ms := _left_ms(outbox, clock)) > 0:
            await asyncio.wait({request}, timeout=left_ms / 1000)
    finally:
        request.cancel()
    await asyncio.wait({request})  # It occupies its rate slot until it is over.
    return LeaseEnded(was_sent=True) if request.cancelled() else request.result()


def _left_ms(outbox: Outbox, clock: Clock) -> int:
    until_ms = outbox.send_until_ms()
    assert until_ms is not None
    return until_ms - clock.monotonic_ms()
