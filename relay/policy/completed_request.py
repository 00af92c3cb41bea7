"""A completed request, and what its response means for the events in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from relay.policy.backoff import full_jitter, isolation_delay, probe_delay, requested_delay
from relay.policy.device_queue import DeviceQueue
from relay.policy.diagnosis import POISON_MS, BatchRemoved, Diagnosis, ProbingLater
from relay.policy.endpoint import Endpoint
from relay.policy.endpoint_health import Failure
from relay.policy.limits import Limits
from relay.policy.omitted_events import DeadLetterCause, Omitted
from relay.policy.pause import Pause

_FAILURES_AT_ISOLATION_DELAY_MAX = 20
"""After more failures of an event alone, which did not show its cause, the backoff grows."""
_SEARCH_ATTEMPT_MAX = 3
"""Bound of the backoff while a batch is halved, so that its bad event is found within minutes."""


class QueueOutcome(NamedTuple):
    """The outcome for the events of one device queue. The keys of `dead_letters` count its events in the request."""

    queue_id: int
    delivered: bool
    dead_letters: Mapping[int, DeadLetterCause]
    reordered: int = 0
    """Delivered events of which a later one was delivered before."""


class Judgement(NamedTuple):
    outcomes: Sequence[QueueOutcome]
    """Device queues with settled events. The events of all others stay pending, in order."""
    resend: Literal["", "exact", "halves"] = ""
    """Send the same request or a later event again ("exact"), or its device queues in two requests ("halves")."""


class CompletedRequest(NamedTuple):
    """A request that has a response, with the time and the random number for the decision."""

    limits: Limits
    endpoint: Endpoint
    queues: Sequence[tuple[DeviceQueue, int]]
    """The device queues in the request with their numbers of first events, omitted ones included."""
    body_bytes: int
    sent_at: int
    exact: bool
    now: int
    u: float
    """Uniform in [0, 1)."""
    seqs: Mapping[int, Sequence[int]]
    """See Reply."""
    omitted: Mapping[int, Omitted]
    """The omitted events by queue id."""

    def sent(self, queue: DeviceQueue, events: int) -> int:
        """Return the number of events in the request among the first `events` events of a device queue."""
        return events - len(self.omitted.get(queue.id, ())) if self.omitted else events

    def is_remainder(self) -> bool:
        """Return whether the request omits events that a response named."""
        return any(event.cause for omitted in self.omitted.values() for event in omitted)

    def contains_later(self) -> bool:
        """Return whether the request contains one event behind others, which stay pending."""
        return any(event.cause is None for each in self.omitted.values() for event in each)

    def reordered(self, queue: DeviceQueue, rejected: Mapping[int, object]) -> int:
        """Return how many of the sent events, without the rejected ones, are delivered after a later one."""
        if not queue.diagnosis.overtaken:
            return 0
        sent = self.seqs[queue.id]
        omitted = [event.seq for event in self.omitted.get(queue.id, ())]
        overtaken = sorted((*sent, *omitted))[: queue.diagnosis.overtaken]
        return sum(seq in overtaken for at, seq in enumerate(sent) if at not in rejected)

    def pause(self, attempt: int, reason: Failure | Literal["rate_limited"], retry_after_ms: int | None) -> Pause:
        """Return the pause after this response: backoff, or the delay of probes for a failure that needs a person."""
        if reason in ("unauthorized", "misconfigured"):
            return Pause(self.now + probe_delay(attempt, self.u), reason)
        jitter_ms = full_jitter(attempt, self.limits.retry_initial_ms, self.limits.retry_max_ms, self.u)
        return self._pause(jitter_ms, reason, retry_after_ms)

    def idle_pause(self, attempt: int, retry_after_ms: int | None) -> Pause:
        """Return the pause of an endpoint without pending events after a response that shows nothing about its key."""
        return self._pause(probe_delay(attempt, self.u), "backing_off", retry_after_ms)

    def search_pause(self, diagnosis: Diagnosis, retry_after_ms: int | None) -> Pause:
        """Return the pause of a device queue while the relay looks for the event that causes its failures."""
        attempt, alone = diagnosis.failures - 1, diagnosis.alone
        if isinstance(diagnosis.state, ProbingLater):
            return self._pause(0, "backing_off", retry_after_ms)
        if alone is None or not diagnosis.is_isolated():
            return self.pause(min(attempt, _SEARCH_ATTEMPT_MAX), "backing_off", retry_after_ms)
        if alone.contrast == "none" and alone.failures > _FAILURES_AT_ISOLATION_DELAY_MAX:
            return self.pause(attempt, "backing_off", retry_after_ms)
        delay_ms = isolation_delay(self.u)
        if alone.contrast == "delivered":  # The next failure may be the last one.
            delay_ms = max(delay_ms, alone.since + POISON_MS - self.now)
        return self._pause(delay_ms, "backing_off", retry_after_ms)

    def _pause(self, delay_ms: int, reason: Failure | Literal["rate_limited"], retry_after_ms: int | None) -> Pause:
        requested_ms = requested_delay(retry_after_ms, self.u)
        requested_until = self.now + requested_ms if requested_ms else 0
        return Pause(self.now + max(delay_ms, requested_ms), reason, requested_until)


NOTHING = Judgement(())


def dead_letter(queue: DeviceQueue, cause: DeadLetterCause) -> Judgement:
    """Make the first event of a device queue a dead letter."""
    queue.diagnose(BatchRemoved(1))
    return Judgement([QueueOutcome(queue.id, False, {0: cause})])
