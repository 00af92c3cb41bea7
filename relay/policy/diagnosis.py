"""The diagnosis of the first batch of a device queue: whether one of its events is bad.

A batch fails because the upstream is unavailable or because of one of its events. The relay finds out with smaller
requests. The state is what the next request of the device queue may contain:

| state            | next request                                                      |
|------------------|-------------------------------------------------------------------|
| `Healthy`        | any number of events, also together with other devices            |
| `Separated`      | any number of events, without other devices                       |
| `Remainder`      | the same request without the events that its response named       |
| `ProbingSmaller` | a smaller probe, because nothing succeeds at the endpoint         |
| `Bisecting`      | half of the first events of which at least one is bad             |
| `ProbingLater`   | one later event, because no other device shows who is at fault    |

Beside it the diagnosis counts failures: of the batch, for the backoff, and of its first event in requests of its own,
because only an event that keeps failing alone while others succeed becomes a dead letter. These counts continue across
the states: an event that failed alone is still the first one when events arrive behind it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from relay.policy.omitted_events import Omitted, OmittedEvent

POISON_FAILURES = 10
CONTENT_MS = 540_000
"""Time over which an event fails alone before its content can be the reason."""
POISON_MS = 600_000
"""The same for responses that can also mean that the upstream is unavailable."""
_FRONT_MAX = 64
_FAILURES_BEFORE_PROBE = 3  # Failures of one batch before the relay sends smaller probes.


@dataclass(frozen=True, slots=True)
class Healthy:
    """Nothing is known against the batch."""


@dataclass(frozen=True, slots=True)
class Separated:
    """A request of the device queue failed, or met a shared limit. Without other devices, the next one shows more."""


@dataclass(frozen=True, slots=True)
class Remainder:
    """A response named events of the request. They stay pending until the outcome of the other events is known."""

    omitted: Omitted
    """The named events of this device queue; empty if all are of other device queues."""


@dataclass(frozen=True, slots=True)
class ProbingSmaller:
    """The batch keeps failing, and so does everything else."""

    limit: int
    """Maximum number of events of the next request."""
    prefix: int = 0
    """At least one of this number of first events is bad, known from an earlier rejection; 0: not known."""

    def __post_init__(self) -> None:
        assert self.limit >= 1, self
        assert self.prefix >= 0, self


@dataclass(frozen=True, slots=True)
class Bisecting:
    """At least one of the first `prefix` events is bad."""

    prefix: int

    def __post_init__(self) -> None:
        assert self.prefix >= 1, self


@dataclass(frozen=True, slots=True)
class ProbingLater:
    """The first event keeps failing alone, and no other device is served. The next request contains a later event."""

    omitted: Omitted
    """The first event, and those behind it that failed in the same way. They stay pending."""

    def __post_init__(self) -> None:
        assert self.omitted, self


State: TypeAlias = Healthy | Separated | Remainder | ProbingSmaller | Bisecting | ProbingLater


@dataclass(frozen=True, slots=True)
class BatchDelivered:
    """The upstream accepted the first `events` events, or the last one of them while `ProbingLater`."""

    events: int


@dataclass(frozen=True, slots=True)
class BatchRemoved:
    """The first `events` events were removed: dropped, or dead letters."""

    events: int


@dataclass(frozen=True, slots=True)
class EventsNamed:
    """The upstream rejected the request and named some of its events, of this device queue those in `omitted`."""

    omitted: Omitted


@dataclass(frozen=True, slots=True)
class RemainderEnded:
    """The remainder is not sent again as it is, so that the named events are judged anew."""


@dataclass(frozen=True, slots=True)
class BatchRejected:
    """The upstream rejected the first `events` events, at least two, and named none of them."""

    events: int


@dataclass(frozen=True, slots=True)
class EventTooLarge:
    """The upstream rejected the size of the first event alone, although it accepted a larger body before."""


@dataclass(frozen=True, slots=True)
class FailureSeen:
    """A request with events of the device queue failed at `now`, before its cause is decided."""

    now: int
    success_at: int | None
    """Time of the endpoint's latest success."""


@dataclass(frozen=True, slots=True)
class BatchFailed:
    """A request with the first `events` events, and of no other device, failed without a decision about them."""

    events: int
    now: int
    others_succeed: bool
    success_at: int | None
    """Time of the endpoint's latest success."""
    at_once: bool = False
    """Look for a bad event after the first failure, because the upstream does not fail by chance."""
    status: int | None = None
    """None without a response."""


@dataclass(frozen=True, slots=True)
class LaterChosen:
    """The next request contains one event, behind those in `omitted`."""

    omitted: Omitted


@dataclass(frozen=True, slots=True)
class LaterFailed:
    """The later event was not delivered either."""

    seq: int


@dataclass(frozen=True, slots=True)
class SharedBatchFailed:
    """A request with events of several devices failed without a decision about its events."""

    others_succeed: bool


@dataclass(frozen=True, slots=True)
class BatchDelayed:
    """A response that is not about events, such as a 401 or a 429 at the device limit, delays the batch."""


@dataclass(frozen=True, slots=True)
class LimitMet:
    """The request met a shared limit."""


Outcome: TypeAlias = (
    BatchDelivered
    | BatchRemoved
    | EventsNamed
    | RemainderEnded
    | BatchRejected
    | EventTooLarge
    | FailureSeen
    | BatchFailed
    | LaterChosen
    | LaterFailed
    | SharedBatchFailed
    | BatchDelayed
    | LimitMet
)


@dataclass(frozen=True, slots=True)
class Alone:
    """Failures of the first event in requests of its own."""

    failures: int
    since: int
    """Time of the first failure."""
    failed_at: int
    """Time of the latest failure that counts as evidence."""
    evident: int = 1
    """Failures that count as evidence, because other devices succeeded since the previous one."""
    status: int | None = None
    """Status of the latest failure; None without a response."""
    contrast: Literal["none", "delivered", "shown"] = "none"
    """Whether a later event was delivered since a failure, and whether the next failure had the same status, too."""

    def __post_init__(self) -> None:
        assert self.failures >= self.evident >= 1, self
        assert self.since <= self.failed_at, self


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Times are monotonic milliseconds."""

    state: State = Healthy()
    failures: int = 0
    """Consecutive failures of the batch."""
    failed_at: int | None = None
    """Time of the latest failure that may be due to the batch."""
    at_fault: bool = False
    """Other device queues succeeded between two of these failures."""
    alone: Alone | None = None
    smaller_succeeded: bool = False
    """A smaller probe of the batch was the latest success of the device queue."""
    front: tuple[int, ...] = ()
    """Seqs of the first event and of those behind it that failed as later ones."""
    overtaken: int = 0
    """Number of first events of which a later one was delivered. It survives restarts."""

    def __post_init__(self) -> None:
        assert self.failures >= (self.alone.failures if self.alone else 0), self
        assert not self.at_fault or self.failed_at is not None, self
        assert not self.alone or not isinstance(self.state, Healthy | Remainder), self
        if isinstance(self.state, ProbingSmaller):
            assert not self.has_few_failures(), self
            assert not self.smaller_succeeded, self

    def has_few_failures(self) -> bool:
        """Return whether the failures are too few to look for a bad event."""
        return self.failures < _FAILURES_BEFORE_PROBE

    def needs_own_request(self) -> bool:
        """Return whether the queue must not share a request, because one of its events may be bad."""
        return not isinstance(self.state, Healthy)

    def max_events(self, limit: int) -> int:
        """Return the maximum number of events for the next request, at most `limit`."""
        match self.state:
            case Bisecting(prefix):
                return min(limit, max(1, prefix // 2))
            case ProbingSmaller(smaller, prefix):
                return min(limit, smaller, max(1, prefix // 2)) if prefix else min(limit, smaller)
            case _:
                return limit

    def is_poisoned(self, over_ms: int, now: int) -> bool:
        """Return whether the first event keeps failing in requests of its own, for `over_ms`, while others succeed."""
        alone = self.alone
        if alone is None or now - alone.since < over_ms:
            return False
        return alone.evident >= POISON_FAILURES or alone.contrast == "shown"

    def needs_contrast(self, now: int) -> bool:
        """Return whether a later event may show that the failures of the first one are due to its content."""
        alone = self.alone
        if alone is None or alone.contrast != "none":
            return False
        return alone.failures >= POISON_FAILURES and now - alone.since >= CONTENT_MS

    def before_later(self, first: int, events: int) -> Omitted:
        """Return the events before the next later one of `events`: the one with the seq `first`, and failed ones."""
        assert events > 1, self
        front = self.front if self.front[:1] == (first,) and len(self.front) < min(events, _FRONT_MAX) else (first,)
        return tuple(OmittedEvent(seq, None) for seq in front)

    def is_isolated(self) -> bool:
        """Return whether the first event is known to fail alone, so that its attempts are far apart."""
        return self.alone is not None and isinstance(self.state, Bisecting)

    def after(self, outcome: Outcome) -> Diagnosis:
        """Return the diagnosis after the outcome of a request. This is the only transition."""
        match outcome:
            case BatchDelivered(events):
                return self._delivered(events)
            case BatchRemoved(events):
                return self._removed(events)
            case EventsNamed(omitted):
                return Diagnosis(Remainder(omitted), overtaken=self.overtaken)
            case RemainderEnded():
                return self._remainder_ended()
            case BatchRejected(events):
                assert events >= 2, outcome
                return replace(self, state=self._suspecting(events))
            case EventTooLarge():
                return replace(self, state=self._suspecting(1), failures=self.failures + 1)
            case FailureSeen(now, success_at):
                succeeded = self.failed_at is not None and success_at is not None and success_at > self.failed_at
                return replace(self, failed_at=now, at_fault=self.at_fault or succeeded)
            case BatchFailed():
                return self._failed(outcome)
            case LaterChosen(omitted):
                return replace(self, state=ProbingLater(omitted))
            case LaterFailed(seq):
                assert isinstance(self.state, ProbingLater), self
                front = (*self._omitted_seqs(), seq)
                return replace(self._remainder_ended(), failures=self.failures + 1, front=front)
            case SharedBatchFailed(others_succeed):
                failed = replace(self, failures=self.failures + 1)
                return failed._separated() if others_succeed or not failed.has_few_failures() else failed
            case BatchDelayed():
                return replace(self, failures=self.failures + 1)
            case LimitMet():
                return self._separated()

    def _delivered(self, events: int) -> Diagnosis:
        if isinstance(self.state, ProbingLater):
            return self._later_delivered(events - 1)
        smaller_succeeded = isinstance(self.state, ProbingSmaller)
        prefix = self.state.prefix - events if isinstance(self.state, ProbingSmaller | Bisecting) else 0
        overtaken = max(0, self.overtaken - events)
        state = Bisecting(prefix) if prefix > 0 else Healthy()
        if prefix > 0 or smaller_succeeded or overtaken:
            return Diagnosis(state, smaller_succeeded=smaller_succeeded, overtaken=overtaken)
        return HEALTHY

    def _later_delivered(self, before: int) -> Diagnosis:
        """Return the diagnosis after the delivery of an event behind `before` others, which may be overtaken itself."""
        overtaken = max(before, self.overtaken - 1 if before < self.overtaken else self.overtaken)
        alone = replace(self.alone, contrast="delivered") if self.alone else None
        return replace(self._remainder_ended(), alone=alone, front=self._omitted_seqs(), overtaken=overtaken)

    def _removed(self, events: int) -> Diagnosis:
        """Return the diagnosis after the removal of the first events. Those behind them may have failed, too."""
        front, overtaken = self.front[events:], max(0, self.overtaken - events)
        if front:
            return Diagnosis(Bisecting(len(front)), front=front, overtaken=overtaken)
        return Diagnosis(overtaken=overtaken) if overtaken else HEALTHY

    def _remainder_ended(self) -> Diagnosis:
        match self.state:
            case Remainder():
                return replace(self, state=Healthy() if self.has_few_failures() else Separated())
            case ProbingLater():
                return replace(self, state=Bisecting(1) if self.alone else Separated())
            case _:
                return self

    def _omitted_seqs(self) -> tuple[int, ...]:
        return tuple(event.seq for event in self.state.omitted) if isinstance(self.state, ProbingLater) else ()

    def _failed(self, outcome: BatchFailed) -> Diagnosis:
        """Return the diagnosis after an outage or a poison event; the two look the same.

        If other devices or smaller probes of this batch succeed, the batch is at fault and is bisected. Otherwise the
        upstream is, but the next probes are smaller, so that they show the difference when the upstream recovers.
        """
        is_alone = outcome.events == 1 and not isinstance(self.state, Remainder | ProbingLater)
        alone = self._alone(outcome) if is_alone else self.alone
        failed = replace(self._separated(), failures=self.failures + 1, alone=alone)
        if failed.has_few_failures() and not (outcome.at_once and outcome.others_succeed):
            return failed
        if outcome.others_succeed or self.smaller_succeeded:
            return replace(failed, state=Bisecting(outcome.events))
        prefix = self.state.prefix if isinstance(self.state, ProbingSmaller | Bisecting) else 0
        return replace(failed, state=ProbingSmaller(max(1, outcome.events // 2), prefix))

    def _alone(self, outcome: BatchFailed) -> Alone:
        """Count a failure as evidence only if other devices succeeded since the previous one, unlike in an outage."""
        alone, now, status = self.alone, outcome.now, outcome.status
        if alone is None:
            return Alone(1, now, now, status=status)
        contrast: Literal["none", "shown"] = "none"
        if alone.contrast != "none" and status == alone.status:
            contrast = "shown"
        alone = replace(alone, failures=alone.failures + 1, status=status, contrast=contrast)
        if outcome.success_at is None or outcome.success_at <= alone.failed_at:
            return alone
        return replace(alone, failed_at=now, evident=alone.evident + 1)

    def _suspecting(self, prefix: int) -> State:
        return ProbingSmaller(self.state.limit, prefix) if isinstance(self.state, ProbingSmaller) else Bisecting(prefix)

    def _separated(self) -> Diagnosis:
        return replace(self, state=Separated()) if isinstance(self.state, Healthy) else self


HEALTHY = Diagnosis()
