"""A bell that wakes one waiting task."""

from __future__ import annotations

import asyncio
from contextlib import suppress


class Bell:
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
