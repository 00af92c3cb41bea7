"""A tenant in the schedule: whether its own endpoint or the shared one sends its events.

| assignment | meaning                                                              |
|------------|----------------------------------------------------------------------|
| `idle`     | no pending events                                                    |
| `shared`   | pending events, which the shared endpoint sends                      |
| `own`      | its own endpoint, until one window has passed without pending events |

A tenant without events gets its own endpoint to try URL and key with a batch without events.

`after` is the only transition.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

Assignment: TypeAlias = Literal["idle", "shared", "own"]
TenantInput: TypeAlias = Literal["pending", "entitled", "tried", "emptied", "expired"]
"""First pending events of a tenant without and with the right to its own endpoint, which it may also get later; its URL
and key are to be tried; no more pending events; none for one window."""

_TABLE: Mapping[tuple[Assignment, TenantInput], Assignment] = {
    ("idle", "pending"): "shared",
    ("idle", "entitled"): "own",
    ("idle", "tried"): "own",
    ("shared", "entitled"): "own",
    ("shared", "emptied"): "idle",
    ("own", "pending"): "own",
    ("own", "entitled"): "own",
    ("own", "emptied"): "own",
    ("own", "expired"): "idle",
}


def after(assignment: Assignment, what: TenantInput) -> Assignment:
    """Return the assignment after an input."""
    assert (assignment, what) in _TABLE, f"{what} is impossible for {assignment}"
    return _TABLE[assignment, what]


class Tenant:
    """The device queues of one tenant. Times are monotonic milliseconds."""

    __slots__ = ("assignment", "idle_since", "is_served", "pending", "queues")

    def __init__(self) -> None:
        self.assignment: Assignment = "idle"
        self.queues = 0  # Number of its device queues in the schedule.
        self.pending = 0  # Number of those with pending events.
        self.idle_since = 0  # When the last pending event was settled or dropped.
        self.is_served = False  # Whether one of its events was delivered.

    def __repr__(self) -> str:
        served = ", served" if self.is_served else ""
        return f"Tenant({self.assignment}, {self.pending} of {self.queues} device queues pending{served})"

    def add_queue(self) -> None:
        self.queues += 1

    def remove_queue(self) -> None:
        self.queues -= 1
        assert self.pending <= self.queues, self

    def add_first_pending(self, *, is_entitled: bool) -> None:
        """Record that the first device queue has pending events."""
        assert self.pending == 0, self
        self.pending = 1
        self._become("entitled" if is_entitled else "pending")

    def add_pending(self) -> None:
        """Record that a further device queue has pending events."""
        assert 0 < self.pending < self.queues, self
        self.pending += 1

    def remove_pending(self, now: int) -> None:
        """Record that one device queue has no more pending events."""
        self.pending -= 1
        if not self.pending:
            self.idle_since = now
            self._become("emptied")

    def serve(self) -> None:
        """Record that one of its events was delivered."""
        self.is_served = True

    def entitle(self) -> None:
        """Give a tenant with pending events its own endpoint."""
        assert self.pending, self
        self._become("entitled")

    def try_endpoint(self, now: int) -> None:
        """Give a tenant without pending events its own endpoint."""
        self.idle_since = now
        self._become("tried")

    def expire(self) -> None:
        """Free the endpoint of a tenant without pending events."""
        self._become("expired")

    def _become(self, what: TenantInput) -> None:
        self.assignment = after(self.assignment, what)
        assert 0 <= self.pending <= self.queues, self
        assert self.assignment != ("idle" if self.pending else "shared"), self
