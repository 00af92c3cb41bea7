"""When a commit begins: at once, or a moment later with more in it.

A commit of one event costs nearly as much as one of thirty, and its thread and the event loop hinder each other. So:

-   Callers that were answered by the last commits mostly send again at once. As many are waited for, by letting
    the loop look at its sockets, until none has come for a quarter of a commit's time. A lonely caller waits for
    its own fsync and no longer.
-   While events flow in for whose answer nobody waits (datagrams), commits of what nobody waits for (journal
    entries and settlements, too) begin `_APART_S` after each other: they would be many small ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from relay.outbox.sqlite.gathered import Gathered

_APART_S = 0.01
_FLOWING_S = 0.03
"""So long after the last such event more are expected; datagrams are read every 10 ms at most."""
_QUIET_SHARE, _QUIET_MOST_S = 0.25, 0.001
_IDLE_TURN_S = 0.00005
"""A turn of the loop that took longer was none of waiting: it answered those who will come."""
_TURNS, _QUIET_TURNS = 6, 2
"""Of the event loop, each a look at the sockets; a call is made in the turn after its bytes came."""
_WORTH_A_COMMIT_BYTES = 128 << 10
"""Bodies for which nothing is waited."""


class Pace:
    """What the last commits say about the next."""

    def __init__(self) -> None:
        self._began_s = self._flowed_s = float("-inf")
        self._took_s = 0.0
        self._expected = 1
        """Events whose senders are likely to come; falls by a quarter with each commit that had fewer."""

    def put_off_s(self, gathered: Gathered, now_s: float) -> float:
        """How much later the commit had better begin, if nothing else comes; 0 or less: now."""
        flowing = now_s - self._flowed_s < _FLOWING_S
        if not flowing or gathered.is_pressing or gathered.body_bytes >= _WORTH_A_COMMIT_BYTES:
            return 0.0
        return self._began_s + _APART_S - now_s

    async def gather(self, gathered: Gathered, now_s: Callable[[], float]) -> None:
        """Let the loop bring what it has at hand, and those who are likely to come."""
        patience_s = min(self._took_s * _QUIET_SHARE, _QUIET_MOST_S)
        turns, quiet_turns, quiet_s, turned_s = 0, 0, 0.0, now_s()
        while gathered.body_bytes < _WORTH_A_COMMIT_BYTES:
            complete = gathered.awaited_events >= self._expected
            if (complete and turns >= _TURNS) or (quiet_turns >= _QUIET_TURNS and (complete or quiet_s >= patience_s)):
                break
            before, began_s = gathered.calls, turned_s
            await asyncio.sleep(0)
            turns, turned_s = turns + 1, now_s()
            if gathered.calls == before:
                quiet_turns += 1
                quiet_s += min(turned_s - began_s, _IDLE_TURN_S)
            else:
                quiet_turns, quiet_s = 0, 0.0
        self._expected = max(gathered.awaited_events, (3 * self._expected + gathered.awaited_events) // 4, 1)

    def committed(self, began_s: float, ended_s: float, *, flowing: bool = False) -> None:
        """`flowing`: it had events for whose answer nobody waits."""
        self._began_s, self._took_s = began_s, ended_s - began_s
        if flowing:
            self._flowed_s = began_s
