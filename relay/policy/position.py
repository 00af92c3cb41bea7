"""The position of a device queue between two requests: what it waits for, or the request that contains its events.

| position    | meaning                                                                 |
|-------------|-------------------------------------------------------------------------|
| `Idle`      | no pending events                                                       |
| `Lingering` | pending events, which are sent when linger, pause and rate window allow |
| `Ready`     | in the ready queues of its endpoint                                     |
| `Reserved`  | part of an exact request, which is sent first                           |
| `InFlight`  | its first events are in a request that is not settled                   |

`after` is the only transition. Pairs that are not in its table are impossible.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

SlotUse: TypeAlias = Literal["free", "occupied", "trial", "stalled"]
"""How a request uses its request slot: not any more, completely, as a trial, or without progress, so that it needs only
a connection."""


@dataclass(slots=True)
class Idle:
    pass


@dataclass(slots=True)
class Lingering:
    due_at: int
    """End of the linger time. A pause or a full rate window may last longer."""


@dataclass(slots=True)
class Ready:
    pass


@dataclass(slots=True)
class Reserved:
    pass


@dataclass(slots=True)
class InFlight:
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


Position: TypeAlias = Idle | Lingering | Ready | Reserved | InFlight


@dataclass(slots=True)
class Arrived:
    """Events are pending, and due at `due_at`."""

    due_at: int


@dataclass(slots=True)
class Emptied:
    """All pending events were removed, none of them in flight."""


@dataclass(slots=True)
class Freed:
    """Linger, pause and rate window allow a request."""


@dataclass(slots=True)
class Postponed:
    """The turn of the device queue found no events (`due_at` is None), or a pause or a full rate window."""

    due_at: int | None


@dataclass(slots=True)
class Reserve:
    """The events become part of an exact request."""


@dataclass(slots=True)
class Unreserved:
    """The exact request is sent without the device queue, which has no events."""


@dataclass(slots=True)
class ChosenForRequest:
    """A request contains the first events."""

    leftover: bool
    slot: SlotUse


@dataclass(slots=True)
class RequestSettled:
    """The outcome of the request is stored. `due_at`: when the pending events are due; None without events."""

    due_at: int | None


IDLE: Final = Idle()
READY: Final = Ready()
RESERVED: Final = Reserved()
PositionInput: TypeAlias = (
    Arrived | Emptied | Freed | Postponed | Reserve | Unreserved | ChosenForRequest | RequestSettled
)


def _linger(due_at: int | None) -> Position:
    return IDLE if due_at is None else Lingering(due_at)


def _resend(position: InFlight, _: Reserve) -> Position:
    position.resend = True
    return position


_TABLE: Mapping[tuple[type[Position], type[PositionInput]], Callable[[Any, Any], Position]] = {
    (Idle, Arrived): lambda _, arrived: Lingering(arrived.due_at),
    (Idle, Emptied): lambda idle, _: idle,
    (Idle, Reserve): lambda *_: RESERVED,
    (Lingering, Arrived): lambda position, arrived: Lingering(min(position.due_at, arrived.due_at)),
    (Lingering, Emptied): lambda *_: IDLE,
    (Lingering, Freed): lambda *_: READY,
    (Lingering, Reserve): lambda *_: RESERVED,
    (Ready, Emptied): lambda ready, _: ready,  # Its turn finds no events.
    (Ready, Postponed): lambda _, postponed: _linger(postponed.due_at),
    (Ready, Reserve): lambda *_: RESERVED,
    (Ready, ChosenForRequest): lambda _, chosen: InFlight(chosen.leftover, chosen.slot),
    (Reserved, Emptied): lambda reserved, _: reserved,
    (Reserved, Unreserved): lambda *_: IDLE,
    (Reserved, ChosenForRequest): lambda _, chosen: InFlight(chosen.leftover, chosen.slot),
    (InFlight, Reserve): _resend,
    (InFlight, RequestSettled): lambda position, settled: RESERVED if position.resend else _linger(settled.due_at),
}


def after(position: Position, what: PositionInput) -> Position:
    """Return the position after an input."""
    transition = _TABLE.get((type(position), type(what)))
    assert transition is not None, f"{what} is impossible for {position}"
    return transition(position, what)
