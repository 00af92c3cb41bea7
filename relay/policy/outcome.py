"""What a verdict means for the events, lanes and route of one request.

`verdict` knows the answer, `lane` and `route` remember; here the one meets the other. Nothing is
given up but by an explicit rule of the contract's section 7: a refusal that names the event or
that met it alone, 413 to it alone, or a lone failure that outlasts everybody else's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from relay.policy.backoff import delay, full_jitter, probe_delay
from relay.policy.lane import Lane
from relay.policy.limits import Limits
from relay.policy.route import Route, Trouble
from relay.policy.verdict import (
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
"""Lone events refused in a row by a status that is not about events, before it is the route that is wrong."""


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


class Request(NamedTuple):
    """An answered request: the lanes that had events in it, with how many."""

    lanes: Sequence[tuple[Lane, int]]
    body_bytes: int
    sent_at: int
    exact: bool


class Case(NamedTuple):
    """What a verdict is to be applied to, and the time and chance of it; `u` is uniform in [0, 1)."""

    limits: Limits
    route: Route
    request: Request
    now: int
    u: float

    def jitter_ms(self, attempt: int) -> int:
        return full_jitter(attempt, self.limits.retry_initial_ms, self.limits.retry_max_ms, self.u)


_NOTHING = Judgement(())


def judge(case: Case, verdict: Verdict) -> Judgement:
    """Decide, and let the lanes and the route remember."""
    route, request, now = case.route, case.request, case.now
    if not request.lanes:
        return _NOTHING
    match verdict:
        case Delivered():
            route.served([lane.id for lane, _ in request.lanes], now)
            for lane, events in request.lanes:
                lane.delivered(events)
            return Judgement([LaneOutcome(lane.id, True, {}) for lane, _ in request.lanes])
        case Refused(named=named) if named:
            route.alive(now)
            return Judgement(_named(request, verdict))
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


def _give_up(lane: Lane, given_up: GivenUp) -> Judgement:
    """The lane's first event is given up."""
    lane.forget_doubts()
    return Judgement([LaneOutcome(lane.id, False, {0: given_up})])


def _named(request: Request, verdict: Refused) -> list[LaneOutcome]:
    """Only the events the upstream named are given up; indexes count through the whole request."""
    outcomes: list[LaneOutcome] = []
    first = 0
    for lane, events in request.lanes:
        given_up = {
            index - first: GivenUp("refused", verdict.status, f"{verdict.status} {words}")
            for index, words in verdict.named.items()
            if first <= index < first + events
        }
        first += events
        lane.forget_doubts()
        if given_up:
            outcomes.append(LaneOutcome(lane.id, False, given_up))
    return outcomes


def _unnamed(case: Case, verdict: Refused) -> Judgement:
    """Some event is bad, and the body does not say which: halve, by lanes first, then by events."""
    route, request = case.route, case.request
    if len(request.lanes) > 1:
        route.alive(case.now)
        return Judgement((), "halves")
    lane, events = request.lanes[0]
    if not lane.refused(events):
        route.alive(case.now)
        return _NOTHING
    if not verdict.about_events:
        route.strangers += 1
        if route.strangers > STRANGERS_MAX:
            return _troubled(case, "misconfigured", verdict.words)
    route.alive(case.now)
    return _give_up(lane, GivenUp("refused", verdict.status, verdict.words))


def _too_large(case: Case, verdict: TooLarge) -> Judgement:
    """Halve by bytes, and remember the size; an event that is too large alone is given up."""
    route, request = case.route, case.request
    route.alive(case.now)
    route.last_error = verdict.words
    lane, events = request.lanes[0]
    if len(request.lanes) == 1 and events == 1:
        return _give_up(lane, GivenUp("too_large", verdict.status, verdict.words))
    route.max_body_bytes = max(1, min(route.max_body_bytes, request.body_bytes) // 2)
    return _NOTHING


def _limited(case: Case, verdict: RateLimited) -> Judgement:
    """The device's own limit holds the device; a 429 below it means a shared ceiling."""
    limits, route, request, now = case.limits, case.route, case.request, case.now
    again: Literal["", "exact"] = "exact" if request.exact else ""
    lane, _ = request.lanes[0]
    own_limit = len(request.lanes) == 1 and (
        lane.window.count(now, limits.window_ms) >= limits.device_per_window
        or (verdict.limit or 0) >= limits.device_per_window
    )
    if own_limit:
        lane.failures += 1
        lane.held(now + delay(case.jitter_ms(lane.failures - 1), verdict.asked_ms), "rate_limited")
    else:
        attempt = route.limited(verdict.words, request.sent_at, now, verdict.limit or limits.ip_per_window)
        route.hold = max(route.hold, now + delay(case.jitter_ms(attempt), verdict.asked_ms))
    return Judgement((), again)


def _failing(case: Case, verdict: Failing) -> Judgement:
    """No yes and no no: the route is down, or the batch holds an event that brings the upstream down."""
    route, request, now = case.route, case.request, case.now
    others = route.others_served(request.lanes, request.sent_at, now)
    for lane, events in request.lanes:
        lane.failed(events, now, others_served=others, in_company=len(request.lanes) > 1)
    lane, events = request.lanes[0]
    if len(request.lanes) == 1 and events == 1 and lane.is_poisoned(now, route.served_at):
        route.last_error = verdict.words
        return _give_up(lane, GivenUp("poison", verdict.status, verdict.words))
    return _troubled(case, "backing_off", verdict.words, verdict.asked_ms)


def _troubled(case: Case, trouble: Trouble, words: str, asked_ms: int | None = None) -> Judgement:
    """Hold the lanes if others are being served, else the route. An exact request stays so for its first tries."""
    route, request, now = case.route, case.request, case.now
    lanes = [lane for lane, _ in request.lanes]
    if route.others_served(request.lanes, request.sent_at, now):
        route.last_error = words
        for lane in lanes:
            if trouble != "backing_off":
                lane.failures += 1
            lane.held(now + _pause_ms(case, trouble, lane.failures - 1, asked_ms), trouble)
    else:
        attempt = route.troubled(trouble, words, request.sent_at, now)
        if attempt is not None:
            route.hold = now + _pause_ms(case, trouble, attempt, asked_ms)
    route.suspects.update(lane.id for lane in lanes)
    keep = request.exact and all(lane.is_patient() for lane in lanes)
    return Judgement((), "exact" if keep else "")


def _pause_ms(case: Case, trouble: Trouble, attempt: int, asked_ms: int | None) -> int:
    """What heals by itself is tried again soon; what needs a person, at a slow pace."""
    return delay(case.jitter_ms(attempt), asked_ms) if trouble == "backing_off" else probe_delay(attempt)
