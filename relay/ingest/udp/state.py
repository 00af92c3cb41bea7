"""When the UDP listener reads its sockets next: its states and the one function that changes them.

A wake is one call that reads the sockets and appends the events that it read. Between wakes the listener is in one of
these states:

    Stopped       no wake will happen: before the start, and after the stop
    Watching      the next datagram causes a wake
    Coalescing    the next wake is at `until_ms`, so that it reads several datagrams
    Paused        the outbox has no room, is too slow, or failed: the next wake is at `until_ms`
    Full          too many events are not committed yet: the end of an append causes the next wake

Pure: the time is an argument.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

PAUSE_MS = 100
"""Delay of the next wake after a wake or an append that failed."""


@dataclass(frozen=True, slots=True)
class Stopped:
    pass


@dataclass(frozen=True, slots=True)
class Watching:
    pass


@dataclass(frozen=True, slots=True)
class Coalescing:
    until_ms: int
    """Monotonic time of the next wake. It has passed if a wake left datagrams unread."""


@dataclass(frozen=True, slots=True)
class Paused:
    until_ms: int
    """Monotonic time of the next wake."""


@dataclass(frozen=True, slots=True)
class Full:
    pass


UdpState = Stopped | Watching | Coalescing | Paused | Full
STOPPED, WATCHING, FULL = Stopped(), Watching(), Full()
"""The only instances of their classes."""


class UdpInput(Enum):
    """What happened to the listener."""

    STARTED = auto()
    READ_NOTHING = auto()
    """A wake found no datagram."""
    READ_ALL = auto()
    """A wake read datagrams, and processed them all."""
    READ_SOME = auto()
    """A wake left expensive datagrams, or possibly datagrams in the kernel's buffer."""
    LIMIT_REACHED = auto()
    """A wake found or reached the limit of uncommitted events."""
    HINDERED = auto()
    """The outbox has no room or rejected an append, or a wake failed."""
    APPEND_ENDED = auto()
    """An append ended, and the uncommitted events are below their limit."""
    STOPPED = auto()


_ENDS_OF_WAKES = (UdpInput.READ_NOTHING, UdpInput.READ_ALL, UdpInput.READ_SOME, UdpInput.LIMIT_REACHED)


def next_state(state: UdpState, happened: UdpInput, now_ms: int, linger_ms: int) -> UdpState:
    """Return the state after an input; the same object if the input does not matter in this state.

    `linger_ms` is the time from a wake that read datagrams to the next wake.
    """
    assert happened is not UdpInput.STARTED or state is STOPPED, f"a start in {state}"
    assert happened not in _ENDS_OF_WAKES or (state is not STOPPED and state is not FULL), f"a wake in {state}"
    match happened:
        case UdpInput.READ_ALL:
            return Coalescing(now_ms + linger_ms)
        case UdpInput.READ_NOTHING | UdpInput.STARTED:
            return WATCHING
        case UdpInput.READ_SOME:
            return Coalescing(now_ms)
        case UdpInput.LIMIT_REACHED:
            return FULL
        case UdpInput.STOPPED:
            return STOPPED
        case UdpInput.HINDERED:
            return state if state is STOPPED else Paused(now_ms + PAUSE_MS)
        case UdpInput.APPEND_ENDED:
            return Coalescing(now_ms) if state is FULL else state
