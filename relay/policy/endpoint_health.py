"""The health of an endpoint: whether its responses are those of the API, and when a failing endpoint is probed next.

| state           | entered after                                                            |
|-----------------|--------------------------------------------------------------------------|
| `untested`      | the creation of the endpoint                                             |
| `ok`            | a response of the API, also a rejection                                  |
| `backing_off`   | a temporary failure                                                      |
| `unauthorized`  | a rejected key                                                           |
| `misconfigured` | a response that is not the API's, or that rejects everything             |

The last three are failures. A failing endpoint is paused and then probed with one request at a time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from relay.policy.pause import NO_PAUSE, Pause

Failure: TypeAlias = Literal["backing_off", "unauthorized", "misconfigured"]
HealthState: TypeAlias = Literal["untested", "ok"] | Failure


@dataclass(frozen=True, slots=True)
class ApiResponded:
    """The API responded at `now`."""

    now: int


@dataclass(frozen=True, slots=True)
class EndpointFailed:
    """A request that was sent at `sent_at` failed at `now`, and the endpoint is at fault."""

    failure: Failure
    sent_at: int
    now: int


@dataclass(frozen=True, slots=True)
class ProbePostponed:
    """The next probe follows after a pause."""

    pause: Pause


@dataclass(frozen=True, slots=True)
class PauseEnded:
    """The pause is over early, except the part that a server requested."""


HealthInput: TypeAlias = ApiResponded | EndpointFailed | ProbePostponed | PauseEnded


@dataclass(frozen=True, slots=True)
class Health:
    """Times are monotonic milliseconds."""

    state: HealthState
    since: int
    attempt: int = 0
    """Consecutive failures of the same kind, at most one counted per round trip."""
    pause: Pause = NO_PAUSE
    """Until the next probe."""

    def __post_init__(self) -> None:
        assert (self.attempt > 0) is self.is_failing, self
        assert self.is_failing or self.pause is NO_PAUSE, self

    @property
    def is_failing(self) -> bool:
        return self.state not in ("untested", "ok")

    def after(self, what: HealthInput) -> Health:
        """Return the health after an input. This is the only transition."""
        match what:
            case ApiResponded(now):
                if self.state == "ok":
                    return self
                return Health("ok", now if self.is_failing else self.since)
            case EndpointFailed(failure, sent_at, now):
                if self.state != failure:
                    return Health(failure, now, 1, self.pause)
                # The response to a request that was sent before the failure began contains no news.
                return self if sent_at < self.since else replace(self, attempt=self.attempt + 1)
            case ProbePostponed(pause):
                assert self.is_failing, self
                return replace(self, pause=pause)
            case PauseEnded():
                return replace(self, pause=self.pause.ended()) if self.is_failing else self
