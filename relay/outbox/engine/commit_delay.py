"""The commit delay: when a commit begins, so that several calls share it.

A commit of one event costs nearly as much as a commit of thirty, and the database thread and the
event loop slow each other down. So:

-   A caller whose call was committed usually calls again at once. Before a commit, the outbox waits
    for as many callers as the last commits had, while the event loop polls its sockets. It waits
    for at most a quarter of the duration of a commit, counting only idle time of the loop. A single
    caller waits only for its own fsync.
-   While datagrams arrive, for which no caller waits, commits without waiting callers (journal
    entries and settlements, too) begin `_INTERVAL_US` apart. Otherwise there would be many small
    commits.

Times are microseconds of one monotonic clock. The clock of the event loop is not suitable: uvloop's
has a resolution of 1 ms and does not advance within an iteration.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from relay.outbox.engine.pending_calls import PendingCalls

_INTERVAL_US = 10_000
_FLOWING_US = 30_000
"""How long more datagrams are expected after the last one. The UDP reader pauses for at most 10 ms."""
_WAIT_SHARE, _MAX_WAIT_US = 4, 1_000
"""The maximum wait is the duration of a commit divided by _WAIT_SHARE, and 1 ms for slow disks."""
_MAX_GATHER_US = 10_000
"""The commit begins after this time even if more calls arrive. 512 callers take about 9 ms."""
_IDLE_TURN_US = 50
"""The part of a loop iteration that counts as idle, at most. A longer iteration responded to callers."""
_TURNS, _QUIET_TURNS = 6, 2
"""Iterations of the event loop. Each polls the sockets, and a call follows one iteration after its bytes."""
_FULL_COMMIT_BYTES = 128 << 10
"""With bodies of this size, a commit begins at once."""
_LONG_AGO_US = -(1 << 62)


class CommitDelay:
    """Calculates the delay of the next commit from the last commits."""

    def __init__(self) -> None:
        self._began_us = self._flowed_us = _LONG_AGO_US
        self._took_us = 0
        self._expected = 0
        """Expected number of callers. It falls by a quarter of the difference with each commit that had fewer."""

    def delay_us(self, pending_calls: PendingCalls, now_us: int) -> int:
        """Return the time until the commit should begin, if no other call arrives; 0 or less: now."""
        flowing = now_us - self._flowed_us < _FLOWING_US
        if not flowing or pending_calls.is_pressing or pending_calls.body_bytes >= _FULL_COMMIT_BYTES:
            return 0
        return self._began_us + _INTERVAL_US - now_us

    async def gather(self, pending_calls: PendingCalls, now_us: Callable[[], int]) -> None:
        """Yield to the event loop until the expected callers have called, or the maximum wait is over."""
        max_wait_us = min(self._took_us // _WAIT_SHARE, _MAX_WAIT_US)
        turns = quiet_turns = waited_us = 0
        turned_us = now_us()
        end_us = turned_us + _MAX_GATHER_US
        while pending_calls.body_bytes < _FULL_COMMIT_BYTES:
            complete, quiet = pending_calls.callers >= self._expected, quiet_turns >= _QUIET_TURNS
            if (complete and (quiet or turns >= _TURNS)) or (quiet and waited_us >= max_wait_us) or turned_us >= end_us:
                break
            before, began_us = pending_calls.calls, turned_us
            await asyncio.sleep(0)
            turns, turned_us = turns + 1, now_us()
            if pending_calls.calls == before:
                quiet_turns += 1
                waited_us += min(turned_us - began_us, _IDLE_TURN_US)
            else:
                quiet_turns = 0
        self._expected = max(pending_calls.callers, (3 * self._expected + pending_calls.callers) // 4)

    def committed(self, began_us: int, ended_us: int, *, flowing: bool = False) -> None:
        """Record a commit. `flowing`: whether it had events for which no caller waits."""
        self._began_us, self._took_us = began_us, ended_us - began_us
        if flowing:
            self._flowed_us = began_us


class Bell:
    """Wakes the task that commits."""

    def __init__(self) -> None:
        self._wake: asyncio.Future[None] | None = None
        self._is_quiet = False
        """Whether it has not rung since `is_quiet` began to wait."""

    @property
    def is_awaited(self) -> bool:
        return self._wake is not None

    def ring(self) -> None:
        self._is_quiet = False
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def wait(self, timeout_s: float | None) -> None:
        """Wait for a ring, at most for `timeout_s`."""
        self._wake = asyncio.get_running_loop().create_future()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._wake
        self._wake = None

    async def is_quiet(self, duration_s: float) -> bool:
        """Return whether it did not ring for `duration_s`. Until the next ring, later calls return at once."""
        if not self._is_quiet:
            self._is_quiet = True
            await self.wait(duration_s)
        return self._is_quiet
