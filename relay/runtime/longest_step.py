"""Measure the longest step of the event loop: reading a body or datagrams (G9).

Only these steps are measured, because an app can make them long. The unit is CPU time of the thread: on a busy
machine, elapsed time would include the work of other processes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from relay.runtime.clock import thread_cpu_ns


class Gauge(Protocol):
    """A gauge with the interface of prometheus_client."""

    def set(self, value: float) -> None: ...


class LongestStep:
    """Exports the longest step since the start, in seconds."""

    def __init__(self, gauge: Gauge, now_ns: Callable[[], int] = thread_cpu_ns) -> None:
        self._gauge = gauge
        self._now_ns = now_ns
        self._longest_ns = 0

    def measured(self, step: Callable[[], None]) -> Callable[[], None]:
        """Return a function that calls `step` and measures the call."""
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
