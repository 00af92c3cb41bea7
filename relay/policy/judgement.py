"""What a verdict means for the events, lanes and route of one request.

`verdict` knows the answer, `lane` and `route` remember; here the one meets the other. Nothing is
given up but by an explicit rule of the contract's section 7: a refusal that names the event or
that met it alone, 413 to it alone, or a lone failure that outlasts everybody else's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from relay.policy.backoff import delay, full_jitter, named_until, probe_delay
from relay.policy.device_queue import DeviceQueue
from relay.policy.endpoint import Endpoint, Trouble
from relay.policy.limits import Limits
from relay.policy.verdict import (
    Again,
    BatchTooLarge,
    Delivered,
    EventsRejected,
    Failing,
    Misconfigured,
    RateLimited,
    Unauthorized,
    Verdict,
)

STRANGERS_MAX = 3
"""Lone events given up in a row by a status that is not about events, before it is the route that is wrong."""


class GivenUp(NamedTuple):
    """Why an event goes to the dead letters, in the upstream's words."""

    reason: Literal["refused", "too_large", "poison"]
    status: int | None
    message: str


class QueueOutcome(NamedTuple):
    """What became of a lane's events in the request; indexes count from its first."""

    queue_id: int
    delivered: bool
    given_up: Mapping[int, GivenUp]


class Judgement(NamedTuple):
    outcomes: Sequence[QueueOutcome]
    """Lanes with news; the others' events wait again, first."""
    again: Literal["", "exact", "halves"] = ""
    """Send the request once more just so, or its lanes in two companies."""


class Case(NamedTuple):
    """An answered request, and the time and chance of its judgement."""

    limits: Limits
    endpoint: Endpoint
    queues: Sequence[tuple[DeviceQueue, int]]
    """Those that had events in it, with how many."""
    body_bytes: int
    sent_at: int
    exact: bool
    now: int
    u: float
    """Uniform in [0, 1)."""

    def jitter_ms(self, attempt: int) -> int:
        return full_jitter(attempt, self.limits.retry_initial_ms, self.limits.retry_max_ms, self.u)


_NOTHING = Judgement(())
_NONE_GIVEN_UP: Mapping[int, GivenUp] = {}


def judge(case: Case, verdict: Verdict) -> Judgement:
    """Decide, and let the lanes and the route remember."""
    match verdict:
        case _ if not case.queues:
            return _NOTHING
        case Delivered():
            return _delivered(case, verdict)
        case EventsRejected(named=named) if named:
            case.endpoint.alive(case.now)
            return Judgement(_named(case, verdict))
        case EventsRejected():
            return _unnamed(case, verdict)
        case BatchTooLarge():
            return _too_large(case, verdict)
        case RateLimited():
            return _limited(case, verdict)
        case Unauthorized(message):
            return _troubled(case, "unauthorized", message)
        case Misconfigured(message):
            return _troubled(case, "misconfigured", message)
        case Failing():
            return _failing(case, verdict)
        case Again():
            return Judgement((), "exact")


def _delivered(case: Case, verdict: Delivered) -> Judgement:
    """The events are delivered, except those that the response rejects by name."""
    outcomes = []
    first = 0
    for queue, events in case.queues:
        queue.delivered(events)
        outcomes.append(QueueOutcome(queue.id, True, _given_up(verdict.rejected, verdict.status, first, events)))
        first += events
    case.endpoint.served([queue_id for queue_id, _, _ in outcomes], case.now)
    case.endpoint.body_size.served(case.body_bytes, case.now, case.limits.max_body_bytes)
    return Judgement(outcomes)


def _given_up(messages: Mapping[int, str], status: int, first: int, events: int) -> Mapping[int, GivenUp]:
    """Return those of a queue's events that a response names; its `events` begin at index `first` of the request."""
    if not messages:
        return _NONE_GIVEN_UP
    return {
        index - first: GivenUp("refused", status, f"{status} {message}")
        for index, message in messages.items()
        if first <= index < first + events
    }


def _give_up(queue: DeviceQueue, given_up: GivenUp) -> Judgement:
    """The lane's first event is given up."""
    queue.forget_doubts()
    return Judgement([QueueOutcome(queue.id, False, {0: given_up})])


def _named(case: Case, verdict: EventsRejected) -> list[QueueOutcome]:
    """Only the events the upstream named are given up; indexes count through the whole request."""
    outcomes: list[QueueOutcome] = []
    first = 0
    for queue, events in case.queues:
        given_up = _given_up(verdict.named, verdict.status, first, events)
        first += events
        queue.forget_doubts()
        if given_up:
            outcomes.append(QueueOutcome(queue.id, False, given_up))
    return outcomes


def _unnamed(case: Case, verdict: EventsRejected) -> Judgement:
    """Halve a batch with a bad event that the response does not name: by device queues first, then by events."""
    endpoint = case.endpoint
    if not verdict.about_events and endpoint.strangers >= STRANGERS_MAX:
        return _troubled(case, "misconfigured", verdict.message)
    queue, events = case.queues[0]
    is_found = len(case.queues) == 1 and queue.refused(events)
    if is_found and verdict.about_events:
        endpoint.refused(queue.id)
    if verdict.about_events and endpoint.refuses_everything(case.now):
        # The relay goes on to find bad events, at the rate of probes.
        _troubled(case, "misconfigured", verdict.message)
    else:
        endpoint.alive(case.now)
    if len(case.queues) > 1:
        return Judgement((), "halves")
    if not is_found:
        return _NOTHING
    if not verdict.about_events:
        _count_stranger(case, verdict.message)
    return _give_up(queue, GivenUp("refused", verdict.status, verdict.message))


def _count_stranger(case: Case, message: str) -> None:
    """Count a single event rejected by a status that is not about events; the last one allowed blames the endpoint."""
    case.endpoint.strangers += 1
    if case.endpoint.strangers >= STRANGERS_MAX:
        _troubled(case, "misconfigured", message)


def _too_large(case: Case, verdict: BatchTooLarge) -> Judgement:
    """Halve by bytes, and remember the size; an event that is too large alone is given up.

    Not at once if larger bodies were served, and only a few if nobody is served: then it is hardly the size.
    """
    endpoint, now = case.endpoint, case.now
    queue, events = case.queues[0]
    if len(case.queues) > 1 or events > 1:
        endpoint.alive(now)
        endpoint.last_error = verdict.message
        endpoint.body_size.refused(case.body_bytes, now, case.limits.max_body_bytes)
        return _NOTHING
    if endpoint.strangers >= STRANGERS_MAX:
        return _troubled(case, "misconfigured", verdict.message)
    endpoint.alive(now)
    endpoint.last_error = verdict.message
    queue.failures += 1
    if case.body_bytes <= endpoint.body_size.largest_served and queue.is_patient():
        queue.suspect = 1
        queue.pause(now + case.jitter_ms(queue.failures - 1), "backing_off")
        return _NOTHING
    _count_stranger(case, verdict.message)
    return _give_up(queue, GivenUp("too_large", verdict.status, verdict.message))


def _limited(case: Case, verdict: RateLimited) -> Judgement:
    """The device's own limit holds the device; a 429 below it means a shared ceiling.

    Unless it is one device's alone: a 429 to a device while others are served holds that device, too.
    If the ceiling is a shared one, the next device meets it as well.
    """
    limits, endpoint, now = case.limits, case.endpoint, case.now
    queue, _ = case.queues[0]
    company = len(case.queues) > 1
    own_limit = not company and (
        queue.window.count(now, limits.window_ms) >= limits.device_per_window
        or verdict.limit == limits.device_per_window
    )
    odd = not (company or own_limit) and _theirs(case)
    if odd:
        endpoint.oddly_limited(case.sent_at, now)
    if odd or own_limit:
        queue.failures += 1
        until = now + delay(case.jitter_ms(queue.failures - 1), verdict.asked_ms)
        queue.pause(until, "rate_limited", named_until(now, verdict.asked_ms))
    else:
        # a request likely counts against its first device: if it is that one's 429, it shows once it travels alone
        queue.alone = True
        attempt = endpoint.limited(verdict.message, case.sent_at, now, _assumed(case, verdict))
        endpoint.limited_until = max(endpoint.limited_until, now + delay(case.jitter_ms(attempt), verdict.asked_ms))
        endpoint.named_limit_until = max(endpoint.named_limit_until, named_until(now, verdict.asked_ms))
    return Judgement((), "exact" if case.exact else "")


def _assumed(case: Case, verdict: RateLimited) -> int:
    """A ceiling's first pace: as said, but no more than what was let through."""
    limits = case.limits
    if verdict.limit is None:
        return limits.ip_per_window
    through = case.endpoint.history.since(case.now - limits.window_ms)
    return min(verdict.limit, max(limits.ip_per_window, through))


def _too_slow(case: Case, verdict: Failing) -> Judgement:
    """Halve a batch that timed out while the relay sent it. Its size is the reason, not one of its events."""
    case.endpoint.body_size.timed_out(case.body_bytes, case.now, case.limits.max_body_bytes)
    for queue, _ in case.queues:
        queue.failures += 1
    _held(case, _theirs(case), "backing_off", verdict.message, None)
    # An exact request is no longer exact: the relay sends its events again in smaller batches.
    return Judgement((), "halves" if case.exact and len(case.queues) > 1 else "")


def _failing(case: Case, verdict: Failing) -> Judgement:
    """No yes and no no: the route is down, or the batch holds an event that brings the upstream down."""
    if verdict.while_sending and sum(events for _, events in case.queues) > 1:
        return _too_slow(case, verdict)
    endpoint, now = case.endpoint, case.now
    theirs = _theirs(case)
    if len(case.queues) > 1:
        for queue, _ in case.queues:
            queue.failed_in_shared_batch(others_served=theirs)
    else:
        queue, events = case.queues[0]
        queue.failed(events, now, others_served=theirs, served_at=endpoint.served_at)
        if events == 1 and queue.is_poisoned(now):
            endpoint.last_error = verdict.message
            return _give_up(queue, GivenUp("poison", verdict.status, verdict.message))
    return _held(case, theirs, "backing_off", verdict.message, verdict.asked_ms)


def _troubled(case: Case, trouble: Trouble, message: str) -> Judgement:
    """The route needs a person, or so it looks from here."""
    theirs = _theirs(case)
    if theirs:
        for queue, _ in case.queues:
            queue.failures += 1
    return _held(case, theirs, trouble, message, None)


def _theirs(case: Case) -> bool:
    """Whether what went wrong is about the request's devices, not about the route; the devices remember it.

    It is theirs if others were served lately, and none failed since; and if others were served between
    their failures, for as long as anybody is served at all.
    """
    endpoint, now = case.endpoint, case.now
    for queue, _ in case.queues:
        queue.failed_again(now, endpoint.served_at)
    theirs = endpoint.others_served([queue.id for queue, _ in case.queues], case.sent_at, now)
    if not theirs and endpoint.is_serving(now):
        theirs = all(queue.own_trouble for queue, _ in case.queues)
    endpoint.suspects.update(queue.id for queue, _ in case.queues if not queue.own_trouble)
    return theirs


def _held(case: Case, theirs: bool, trouble: Trouble, message: str, asked_ms: int | None) -> Judgement:
    """Hold the lanes or the route. An exact request stays so for its first tries."""
    endpoint, now = case.endpoint, case.now
    if theirs:
        endpoint.last_error = message
        for queue, _ in case.queues:
            queue.pause(
                now + _pause_ms(case, trouble, queue.failures - 1, asked_ms), trouble, named_until(now, asked_ms)
            )
    else:
        attempt = endpoint.troubled(trouble, message, case.sent_at, now)
        if attempt is not None:
            endpoint.paused_until = now + _pause_ms(case, trouble, attempt, asked_ms)
            endpoint.named_until = named_until(now, asked_ms)
    keep = case.exact and all(queue.is_patient() for queue, _ in case.queues)
    return Judgement((), "exact" if keep else "")


def _pause_ms(case: Case, trouble: Trouble, attempt: int, asked_ms: int | None) -> int:
    """What heals by itself is tried again soon; what needs a person, at a slow pace."""
    return delay(case.jitter_ms(attempt), asked_ms) if trouble == "backing_off" else probe_delay(attempt)
