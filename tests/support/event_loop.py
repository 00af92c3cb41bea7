"""Let the event loop run."""

from __future__ import annotations

import asyncio


async def turns(count: int) -> None:
    """Return after `count` turns of the event loop, in which all ready callbacks and tasks run."""
    for _ in range(count):
        await asyncio.sleep(0)
