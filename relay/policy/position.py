"""The position of a device queue between two requests: what it waits for, or the request that contains its events.

| position    | meaning                                                                 |
|-------------|-------------------------------------------------------------------------|
| `Idle`      | no pending events                                                       |
| `Lingering` | pending events, which are sent when linger, pause and rate window allow |
| `Ready`     | in the ready queues of its endpoint                                     |
| `Reserved`  | part of an exact request, which is sent first                           |
| `InFlight`  | its first events are in a request that is not settled                   |

Each input is a method that returns the position after it. An input that a position does not define is impossible.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, NoReturn, TypeAlias

SlotUse: TypeAlias = Literal["free", "occupied", "trial", "overdue", "stalled"]
"""How a request uses its request slot: not any more, as one that is likely served, as a trial, without progress for
longer than usual, or for so long that it needs only a connection."""


class Position:
    """The inputs of all positions."""

    __slots__ = ()

    def arrived(self, due_at: int) -> Position:
        """Events are pending, and due at `due_at`."""
        self._impossible("arrived")

    def emptied(self) -> Position:
        """All pending events were removed, none of them in flight."""
        self._impossible("emptied")

    def freed(self) -> Position:
        """Linger, pause and rate window allow a request."""
        self._impossible("freed")

    def postponed(self, due_at: int | None) -> Position:
        """The turn of the device queue found no events (`due_at` is None), or a pause or a full rate window."""
        self._impossible("postponed")

    def reserved(self) -> Position:
        """The events become part of an exact request."""
        self._impossible("reserved")

    def unreserved(self) -> Position:
        """The exact request is sent without the device queue, which has no events."""
        self._impossible("unreserved")

    def chosen(self, slot: SlotUse, *, leftover: bool) -> Position:
        """A request contains the first events."""
        self._impossible("chosen")

    def settled(self, due_at: int | None) -> Position:
        """The outcome of the request is stored. `due_at`: when the pending events are due; None without events."""
        self._impossible("settled")

    def _impossible(self, what: str) -> NoReturn:
        raise AssertionError(f"{what} is impossible for {self}")


@dataclass(slots=True)
class Idle(Position):
    def arrived(self, due_at: int) -> Position:
        return Lingering(due_at)

    def emptied(self) -> Position:
        return self

    def reserved(self) -> Position:
        return RESERVED


@dataclass(slots=True)
class Lingering(Position):
    due_at: int
    """End of the linger time. A pause or a full rate window may last longer."""

    def arrived(self, due_at: int) -> Position:
        return Lingering(min(self.due_at, due_at))

    def emptied(self) -> Position:
        return IDLE

    def freed(self) -> Position:
        return READY

    def reserved(self) -> Position:
        return RESERVED


@dataclass(slots=True)
class Ready(Position):
    def emptied(self) -> Position:
        return self  # Its turn finds no events.

    def postponed(self, due_at: int | None) -> Position:
        return _linger(due_at)

    def reserved(self) -> Position:
        return RESERVED

    def chosen(self, slot: SlotUse, *, leftover: bool) -> Position:
        return InFlight(leftover, slot)


@dataclass(slots=True)
class Reserved(Position):
    def emptied(self) -> Position:
        return self

    def unreserved(self) -> Position:
        return IDLE

    def chosen(self, slot: SlotUse, *, leftover: bool) -> Position:
        return InFlight(leftover, slot)


@dataclass(slots=True)
class InFlight(Position):
    leftover: bool
    """Events remained pending when the request was chosen, or it was cut."""
    slot: SlotUse
    """For the first device queue of a request; "free" for the others."""
    grew_at: int | None = None
    """First arrival of an event since the request was chosen."""
    resend: bool = False
    """The events are part of an exact request that follows this one."""

    def grew(self, now: int) -> None:
        """Record the arrival of events."""
        if self.grew_at is None:
            self.grew_at = now

    def reserved(self) -> Position:
        self.resend = True
        return self

    def settled(self, due_at: int | None) -> Position:
        return RESERVED if self.resend else _linger(due_at)


IDLE: Final = Idle()
READY: Final = Ready()
RESERVED: Final = Reserved()


def _linger(due_at: int | None) -> Position:
    return IDLE if due_at is None else Lingering(due_at)
