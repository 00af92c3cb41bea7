"""When a commit begins: at once, or a moment later with more in it.

A commit of one event costs nearly as much as one of thirty, and its thread and the event loop
hinder each other. So:

-   Callers that were answered by the last commits mostly send again at once. As many are waited
    for, by letting the loop look at its sockets: in all for a quarter of a commit's time, in which
    the loop has nothing to do. A lonely caller waits for its own fsync and no longer.
-   While events flow in for whose answer nobody waits (datagrams), commits of what nobody waits for
    (journal entries and settlements, too) begin `_APART_US` after each other: they would be many
    small ones.

Times are microseconds of one monotonic clock. The loop's own will not do: uvloop's knows whole
milliseconds, and stands still within a turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from relay.outbox.sqlite.pending_calls import PendingCalls

_APART_US = 10_000
_FLOWING_US = 30_000
"""So long after the last such event more are expected; the socket of datagrams rests for 10 ms at most."""
_PATIENCE_SHARE, _PATIENCE_MOST_US = 4, 1_000
"""A commit's time divided by so much; and where syncs are slow no more than what nobody notices beside them."""
_MOST_US = 10_000
"""For a commit to begin, however busy the loop is with those who come: 512 callers take some 9 ms."""
_IDLE_TURN_US = 50
"""A turn of the loop that took longer was none of waiting: it answered those who will come."""
_TURNS, _QUIET_TURNS = 6, 2
"""Of the event loop, each a look at the sockets; a call is made in the turn after its bytes came."""
_WORTH_A_COMMIT_BYTES = 128 << 10
"""Bodies for which nothing is waited."""
_LONG_AGO_US = -(1 << 62)


class CommitDelay:
    """What the last commits say about the next."""

    def __init__(self) -> None:
        self._began_us = self._flowed_us = _LONG_AGO_US
        self._took_us = 0
        self._expected = 0
        """Callers who are likely to come; falls by a quarter with each commit that had fewer."""

    def put_off_us(self, pending_calls: PendingCalls, now_us: int) -> int:
        """How much later the commit had better begin, if nothing else comes; 0 or less: now."""
        flowing = now_us - self._flowed_us < _FLOWING_US
        if not flowing or pending_calls.is_pressing or pending_calls.body_bytes >= _WORTH_A_COMMIT_BYTES:
            return 0
        return self._began_us + _APART_US - now_us

    async def gather(self, pending_calls: PendingCalls, now_us: Callable[[], int]) -> None:
        """Let the loop bring what it has at hand, and those who are likely to come."""
        patience_us = min(self._took_us // _PATIENCE_SHARE, _PATIENCE_MOST_US)
        turns = quiet_turns = waited_us = 0
        turned_us = now_us()
        end_us = turned_us + _MOST_US
        while pending_calls.body_bytes < _WORTH_A_COMMIT_BYTES:
            complete, quiet = pending_calls.callers >= self._expected, quiet_turns >= _QUIET_TURNS
            if (complete and (quiet or turns >= _TURNS)) or (quiet and waited_us >= patience_us) or turned_us >= end_us:
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
        """`flowing`: it had events for whose answer nobody waits."""
        self._began_us, self._took_us = began_us, ended_us - began_us
        if flowing:
            self._flowed_us = began_us
