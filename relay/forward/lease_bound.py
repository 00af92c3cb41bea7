"""Send a request only while this relay may send from its device queues.

An outbox that several relays share leases device queues. After the lease ends, another relay sends their events.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

from relay.outbox import Outbox
from relay.policy.verdict import NoResponse, UpstreamResponse
from relay.runtime.clock import Clock
from relay.runtime.tasks import Tasks

PostResult: TypeAlias = UpstreamResponse | NoResponse

_NOT_SENT = NoResponse("not sent: the lease on the device queue has ended", never_sent=True)


async def post_within_lease(
    outbox: Outbox, clock: Clock, tasks: Tasks, post: Callable[[], Coroutine[Any, Any, PostResult]]
) -> PostResult:
    """Return the result of `post`. Reset the request when the lease ends; each renewal extends it."""
    if _left_ms(outbox, clock) <= 0:
        return _NOT_SENT

    async def checked() -> PostResult:
        """Look again: there is no await between this look and the first byte."""
        return await post() if _left_ms(outbox, clock) > 0 else _NOT_SENT

    request = tasks.start("leased request", checked())
    try:
        while not request.done() and (left_ms := _left_ms(outbox, clock)) > 0:
            await asyncio.wait({request}, timeout=left_ms / 1000)
    finally:
        request.cancel()
    await asyncio.wait({request})  # It occupies its rate slot until it is over.
    return NoResponse("reset: the lease on the device queue has ended") if request.cancelled() else request.result()


def _left_ms(outbox: Outbox, clock: Clock) -> int:
    until_ms = outbox.send_until_ms()
    assert until_ms is not None
    return until_ms - clock.monotonic_ms()
