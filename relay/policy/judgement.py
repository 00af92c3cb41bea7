"""What a verdict means for the events, lanes and route of one request.

`verdict` knows the answer, `lane` and `route` remember; here the one meets the other. Nothing is
given up but by an explicit rule of the contract's section 7: a refusal that names the event or
that met it alone, 413 to it alone, or a lone failure that outlasts everybody else's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from relay.policy.backoff import delay, full_jitter, named_until, probe_delay
from relay.policy.device_queue import Lane
from relay.policy.endpoint import Route, Trouble
from relay.policy.limits import Limits
from relay.policy.verdict import (
    Again,
    Delivered,
    Failing,
    Misconfigured,
    RateLimited,
    Refused,
    TooLarge,
    Unauthorized,
    Verdict,
)

STRANGERS_MAX = 3
"""Lone events given up in a row by a status that is not about events, before it is the route that is wrong."""


class GivenUp(NamedTuple):
    """Why an event goes to the dead letters, in the upstream's words."""

    reason: Literal["refused", "too_large", "poison"]
    status: int | None
    words: str


class LaneOutcome(NamedTuple):
    """What became of a lane's events in the request; indexes count from its first."""

    lane: int
    delivered: bool
    given_up: Mapping[int, GivenUp]


class Judgement(NamedTuple):
    outcomes: Sequence[LaneOutcome]
    """Lanes with news; the others' events wait again, first."""
    again: Literal["", "exact", "halves"] = ""
    """Send the request once more just so, or its lanes in two companies."""


class Case(NamedTuple):
    """An answered request, and the time and chance of its judgement."""

    limits: Limits
    route: Route
    lanes: Sequence[tuple[Lane, int]]
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
        case _ if not case.lanes:
            return _NOTHING
        case Delivered():
            return _delivered(case, verdict)
        case Refused(named=named) if named:
            case.route.alive(case.now)
            return Judgement(_named(case, verdict))
        case Refused():
            return _unnamed(case, verdict)
        case TooLarge():
            return _too_large(case, verdict)
        case RateLimited():
            return _limited(case, verdict)
        case Unauthorized(words):
            return _troubled(case, "unauthorized", words)
        case Misconfigured(words):
            return _troubled(case, "misconfigured", words)
        case Failing():
            return _failing(case, verdict)
        case Again():
            return Judgement((), "exact")


def _delivered(case: Case, verdict: Delivered) -> Judgement:
    """The events are delivered, except those that the response rejects by name."""
    outcomes = []
    first = 0
    for lane, events in case.lanes:
        lane.delivered(events)
        outcomes.append(LaneOutcome(lane.id, True, _given_up(verdict.rejected, verdict.status, first, events)))
        first += events
    case.route.served([lane_id for lane_id, _, _ in outcomes], case.now)
    case.route.body_size.served(case.body_bytes, case.now, case.limits.max_body_bytes)
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


def _give_up(lane: Lane, given_up: GivenUp) -> Judgement:
    """The lane's first event is given up."""
    lane.forget_doubts()
    return Judgement([LaneOutcome(lane.id, False, {0: given_up})])


def _named(case: Case, verdict: Refused) -> list[LaneOutcome]:
    """Only the events the upstream named are given up; indexes count through the whole request."""
    outcomes: list[LaneOutcome] = []
    first = 0
    for lane, events in case.lanes:
        given_up = _given_up(verdict.named, verdict.status, first, events)
        first += events
        lane.forget_doubts()
        if given_up:
            outcomes.append(LaneOutcome(lane.id, False, given_up))
    return outcomes


def _unnamed(case: Case, verdict: Refused) -> Judgement:
    """Halve a batch with a bad event that the response does not name: by device queues first, then by events."""
    route = case.route
    if not verdict.about_events and route.strangers >= STRANGERS_MAX:
        return _troubled(case, "misconfigured", verdict.words)
    lane, events = case.lanes[0]
    is_found = len(case.lanes) == 1 and lane.refused(events)
    if is_found and verdict.about_events:
        route.refused(lane.id)
    if verdict.about_events and route.refuses_everything(case.now):
        # The relay goes on to find bad events, at the rate of probes.
        _troubled(case, "misconfigured", verdict.words)
    else:
        route.alive(case.now)
    if len(case.lanes) > 1:
        return Judgement((), "halves")
    if not is_found:
        return _NOTHING
    if not verdict.about_events:
        _count_stranger(case, verdict.words)
    return _give_up(lane, GivenUp("refused", verdict.status, verdict.words))


def _count_stranger(case: Case, words: str) -> None:
    """Count a single event rejected by a status that is not about events; the last one allowed blames the endpoint."""
    case.route.strangers += 1
    if case.route.strangers >= STRANGERS_MAX:
        _troubled(case, "misconfigured", words)


def _too_large(case: Case, verdict: TooLarge) -> Judgement:
    """Halve by bytes, and remember the size; an event that is too large alone is given up.

    Not at once if larger bodies were served, and only a few if nobody is served: then it is hardly the size.
    """
    route, now = case.route, case.now
    lane, events = case.lanes[0]
    if len(case.lanes) > 1 or events > 1:
        route.alive(now)
        route.last_error = verdict.words
        route.body_size.refused(case.body_bytes, now, case.limits.max_body_bytes)
        return _NOTHING
    if route.strangers >= STRANGERS_MAX:
        return _troubled(case, "misconfigured", verdict.words)
    route.alive(now)
    route.last_error = verdict.words
    lane.failures += 1
    if case.body_bytes <= route.body_size.largest_served and lane.is_patient():
        lane.suspect = 1
        lane.held(now + case.jitter_ms(lane.failures - 1), "backing_off")
        return _NOTHING
    _count_stranger(case, verdict.words)
    return _give_up(lane, GivenUp("too_large", verdict.status, verdict.words))


def _limited(case: Case, verdict: RateLimited) -> Judgement:
    """The device's own limit holds the device; a 429 below it means a shared ceiling.

    Unless it is one device's alone: a 429 to a device while others are served holds that device, too.
    If the ceiling is a shared one, the next device meets it as well.
    """
    limits, route, now = case.limits, case.route, case.now
    lane, _ = case.lanes[0]
    company = len(case.lanes) > 1
    own_limit = not company and (
        lane.window.count(now, limits.window_ms) >= limits.device_per_window
        or verdict.limit == limits.device_per_window
    )
    odd = not (company or own_limit) and _theirs(case)
    if odd:
        route.oddly_limited(case.sent_at, now)
    if odd or own_limit:
        lane.failures += 1
        until = now + delay(case.jitter_ms(lane.failures - 1), verdict.asked_ms)
        lane.held(until, "rate_limited", named_until(now, verdict.asked_ms))
    else:
        # a request likely counts against its first device: if it is that one's 429, it shows once it travels alone
        lane.alone = True
        attempt = route.limited(verdict.words, case.sent_at, now, _assumed(case, verdict))
        route.limited_until = max(route.limited_until, now + delay(case.jitter_ms(attempt), verdict.asked_ms))
        route.named_limit_until = max(route.named_limit_until, named_until(now, verdict.asked_ms))
    return Judgement((), "exact" if case.exact else "")


def _assumed(case: Case, verdict: RateLimited) -> int:
    """A ceiling's first pace: as said, but no more than what was let through."""
    limits = case.limits
    if verdict.limit is None:
        return limits.ip_per_window
    through = case.route.history.since(case.now - limits.window_ms)
    return min(verdict.limit, max(limits.ip_per_window, through))


def _too_slow(case: Case, verdict: Failing) -> Judgement:
    """Halve a batch that timed out while the relay sent it. Its size is the reason, not one of its events."""
    case.route.body_size.timed_out(case.body_bytes, case.now, case.limits.max_body_bytes)
    for lane, _ in case.lanes:
        lane.failures += 1
    _held(case, _theirs(case), "backing_off", verdict.words, None)
    # An exact request is no longer exact: the relay sends its events again in smaller batches.
    return Judgement((), "halves" if case.exact and len(case.lanes) > 1 else "")


def _failing(case: Case, verdict: Failing) -> Judgement:
    """No yes and no no: the route is down, or the batch holds an event that brings the upstream down."""
    if verdict.while_sending and sum(events for _, events in case.lanes) > 1:
        return _too_slow(case, verdict)
    route, now = case.route, case.now
    theirs = _theirs(case)
    if len(case.lanes) > 1:
        for lane, _ in case.lanes:
            lane.failed_in_company(others_served=theirs)
    else:
        lane, events = case.lanes[0]
        lane.failed(events, now, others_served=theirs, served_at=route.served_at)
        if events == 1 and lane.is_poisoned(now):
            route.last_error = verdict.words
            return _give_up(lane, GivenUp("poison", verdict.status, verdict.words))
    return _held(case, theirs, "backing_off", verdict.words, verdict.asked_ms)


def _troubled(case: Case, trouble: Trouble, words: str) -> Judgement:
    """The route needs a person, or so it looks from here."""
    theirs = _theirs(case)
    if theirs:
        for lane, _ in case.lanes:
            lane.failures += 1
    return _held(case, theirs, trouble, words, None)


def _theirs(case: Case) -> bool:
    """Whether what went wrong is about the request's devices, not about the route; the devices remember it.

    It is theirs if others were served lately, and none failed since; and if others were served between
    their failures, for as long as anybody is served at all.
    """
    route, now = case.route, case.now
    for lane, _ in case.lanes:
        lane.failed_again(now, route.served_at)
    theirs = route.others_served([lane.id for lane, _ in case.lanes], case.sent_at, now)
    if not theirs and route.is_serving(now):
        theirs = all(lane.own_trouble for lane, _ in case.lanes)
    route.suspects.update(lane.id for lane, _ in case.lanes if not lane.own_trouble)
    return theirs


def _held(case: Case, theirs: bool, trouble: Trouble, words: str, asked_ms: int | None) -> Judgement:
    """Hold the lanes or the route. An exact request stays so for its first tries."""
    route, now = case.route, case.now
    if theirs:
        route.last_error = words
        for lane, _ in case.lanes:
            lane.held(now + _pause_ms(case, trouble, lane.failures - 1, asked_ms), trouble, named_until(now, asked_ms))
    else:
        attempt = route.troubled(trouble, words, case.sent_at, now)
        if attempt is not None:
            route.hold = now + _pause_ms(case, trouble, attempt, asked_ms)
            route.named_until = named_until(now, asked_ms)
    keep = case.exact and all(lane.is_patient() for lane, _ in case.lanes)
    return Judgement((), "exact" if keep else "")


def _pause_ms(case: Case, trouble: Trouble, attempt: int, asked_ms: int | None) -> int:
    """What heals by itself is tried again soon; what needs a person, at a slow pace."""
    return delay(case.jitter_ms(attempt), asked_ms) if trouble == "backing_off" else probe_delay(attempt)
