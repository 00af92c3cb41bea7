"""Whether requests leave this machine for an upstream origin, and when the next one is tried.

| state         | entered after                                                                  |
|---------------|--------------------------------------------------------------------------------|
| `Reachable`   | the creation of the origin, a response, or a loss that is not the network's    |
| `Unreachable` | a request of which nothing left this machine                                   |

An attempt without a network costs the upstream nothing, so the backoff stays short. It is one attempt for the whole
origin, because the network is not the fault of a tenant or a device. `after` is the only transition.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeAlias

from relay.policy.backoff import full_jitter

RETRY_MAX_MS = 15_000
_LOST_AFTER_MS = 600_000
"""A request without a response counts as lost in the network until this time after one that did not leave."""


@dataclass(frozen=True, slots=True)
class NotSent:
    """Nothing of the request sent at `sent_at` left this machine. `u` is uniform in [0, 1)."""

    sent_at: int
    now: int
    retry_initial_ms: int
    retry_max_ms: int
    u: float
    was_lost: bool = False
    """The request left, but no response was received: half an outage of the network, for example of an uplink."""


@dataclass(frozen=True, slots=True)
class Responded:
    """A response was received, or the network is not at fault."""


@dataclass(frozen=True, slots=True)
class AttemptStarted:
    """A request is sent at `now`."""

    now: int


@dataclass(frozen=True, slots=True)
class TryNow:
    """The network changed, or an operator asked for an attempt."""


NetworkInput: TypeAlias = NotSent | Responded | AttemptStarted | TryNow


@dataclass(frozen=True, slots=True)
class Reachable:
    """Requests leave this machine, as far as is known."""


@dataclass(frozen=True, slots=True)
class Unreachable:
    """Times are monotonic milliseconds."""

    since: int
    failed_at: int
    """Latest failure of which nothing left this machine."""
    until: int
    """Time of the next attempt."""
    failures: int = 1
    """Consecutive failed attempts."""
    tried_at: int | None = None
    """Time of the attempt in flight."""

    def __post_init__(self) -> None:
        assert self.failures >= 1, self
        assert self.since <= self.failed_at, self


Network: TypeAlias = Reachable | Unreachable
REACHABLE = Reachable()


def after(network: Network, what: NetworkInput) -> Network:
    """Return the state after an input."""
    match network, what:
        case Reachable(), NotSent(was_lost=False):
            return Unreachable(what.now, what.now, what.now + _delay_ms(0, what))
        case Unreachable(), NotSent():
            return _failed_again(network, what)
        case Unreachable(), AttemptStarted(now):
            return replace(network, tried_at=now)
        case Unreachable(), TryNow():
            return replace(network, until=0, tried_at=None)  # An attempt in flight may hang in the previous network.
        case _, Responded():
            return REACHABLE
        case _:
            return network


def explains_loss(network: Network, now: int) -> bool:
    """Return whether the network is the likely reason if a request that left receives no response."""
    return isinstance(network, Unreachable) and now - network.failed_at <= _LOST_AFTER_MS


def free_at(network: Network) -> int:
    """Return the earliest time of the next attempt."""
    return network.until if isinstance(network, Unreachable) else 0


def has_room(network: Network, in_flight: int) -> bool:
    """Return whether a request may be sent: without a network only one attempt at a time.

    Requests that were sent before the failure may hang for long and do not count.
    """
    return not isinstance(network, Unreachable) or network.tried_at is None or in_flight == 0


def _failed_again(network: Unreachable, what: NotSent) -> Unreachable:
    """Count a failure unless the request was sent before the latest attempt ended, because it contains no news."""
    failed_at = network.failed_at if what.was_lost else what.now
    if network.tried_at is None or what.sent_at < network.tried_at:
        return replace(network, failed_at=failed_at)
    until = what.now + _delay_ms(network.failures, what)
    return Unreachable(network.since, failed_at, until, network.failures + 1)


def _delay_ms(failures: int, what: NotSent) -> int:
    return full_jitter(failures, what.retry_initial_ms, min(what.retry_max_ms, RETRY_MAX_MS), what.u)
