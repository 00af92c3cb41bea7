"""The longest uninterrupted work of the event loop that was measured (G9).

CPU time of the thread, not time that passed: on a busy machine the latter says how long others worked. Measured are
the relay's own steps that an app could make long, where they begin: reading bodies and datagrams.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from relay.runtime.clock import thread_cpu_ns


class Gauge(Protocol):
    """As prometheus_client has them."""

    def set(self, value: float) -> None: ...


class LongestStep:
    """Exports the longest step since the start, in seconds."""

    def __init__(self, gauge: Gauge, now_ns: Callable[[], int] = thread_cpu_ns) -> None:
        self._gauge = gauge
        self._now_ns = now_ns
        self._longest_ns = 0

    def measured(self, step: Callable[[], None]) -> Callable[[], None]:
        """Return `step`, with each of its calls measured."""
        now_ns = self._now_ns

        def measuring() -> None:
            began_ns = now_ns()
            try:
                step()
            finally:
                taken_ns = now_ns() - began_ns
                if taken_ns > self._longest_ns:
                    self._longest_ns = taken_ns
                    self._gauge.set(taken_ns / 1e9)

        return measuring
