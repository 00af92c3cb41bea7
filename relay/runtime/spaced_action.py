"""An action that any number of requests run at most once in an interval.

Rules: the first request runs the action at once. Requests in the interval after a run cause one run at its end, so
that each request is followed by a run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Literal

SpacedState = Literal["idle", "resting", "requested"]
"""resting: the interval after a run has not ended. requested: the same, and the action runs at its end."""


class SpacedAction:
    """One action with its state. Only the event loop uses it."""

    def __init__(self, action: Callable[[], object], interval_s: float) -> None:
        self._action = action
        self._interval_s = interval_s
        self.state: SpacedState = "idle"

    def __repr__(self) -> str:
        return f"<SpacedAction {self.state}>"

    def request(self) -> None:
        """Run the action now, or at the end of the interval."""
        if self.state == "idle":
            self._run()
        else:
            self.state = "requested"

    def _run(self) -> None:
        self.state = "resting"
        asyncio.get_running_loop().call_later(self._interval_s, self._interval_ended)
        self._action()

    def _interval_ended(self) -> None:
        assert self.state != "idle"
        if self.state == "requested":
            self._run()
        else:
            self.state = "idle"
