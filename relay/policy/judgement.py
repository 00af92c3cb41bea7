"""Decide what a verdict means for the events, the device queues and the endpoint of one request.

`verdict` interprets the response, `device_queue` and `endpoint` hold the state, and this module changes that state.
An event becomes a dead letter in three cases only:

- The upstream rejects the event by its index and accepts the rest of the request, or rejects a request that contains
  only this event.
- The upstream responds 413 to a request that contains only this event.
- A request that contains only this event keeps failing while other events are delivered (a poison event).
"""

from __future__ import annotations

from collections.abc import Mapping

from relay.policy.completed_request import (
    NOTHING,
    CompletedRequest,
    Judgement,
    QueueOutcome,
    dead_letter,
)
from relay.policy.diagnosis import (
    HEALTHY,
    BatchDelayed,
    BatchRejected,
    BatchRemoved,
    EventsNamed,
    EventTooLarge,
    LaterFailed,
    LimitMet,
)
from relay.policy.failed_request import answered, answered_idle, attribute_failure, endpoint_failed, failed
from relay.policy.network import NotSent, explains_loss
from relay.policy.omitted_events import DeadLetterCause, OmittedEvent
from relay.policy.verdict import (
    BatchTooLarge,
    Delivered,
    EventsRejected,
    Failing,
    Misconfigured,
    NothingLeft,
    RateLimited,
    Resend,
    Unauthorized,
    Verdict,
)

_NO_DEAD_LETTERS: Mapping[int, DeadLetterCause] = {}


def judge(request: CompletedRequest, verdict: Verdict) -> Judgement:
    """Return the outcome of a request, and update the state of its device queues and its endpoint."""
    match verdict:
        case _ if not request.queues:
            return NOTHING
        case NothingLeft(message):
            return _not_sent(request, message)
        case Failing(message) if verdict.is_lost and explains_loss(request.endpoint.origin.network, request.now):
            return _not_sent(request, message, was_lost=True)
        case Resend():
            return Judgement((), "exact")
    request.endpoint.origin.responded()
    if request.omitted and request.contains_later() and (message := _rejection(verdict)):
        return _later_rejected(request, message)
    match verdict:
        case Delivered():
            if verdict.rejected and request.endpoint.rejections.ignore_names_at(request.now):
                return _unnamed(request, EventsRejected(verdict.status, _rejection(verdict)))
            return _delivered(request, verdict)
        case EventsRejected():
            return _rejected(request, verdict)
        case BatchTooLarge():
            return _too_large(request, verdict)
        case RateLimited():
            return _limited(request, verdict)
        case Unauthorized() | Misconfigured() | Failing():
            return failed(request, verdict)


def judge_answer(request: CompletedRequest, verdict: Verdict, *, is_idle: bool) -> None:
    """Apply the response to a batch without events; `is_idle`: no events are pending. A 429 starts no shared limit."""
    match verdict:
        case NothingLeft(message):
            _not_sent(request, message)
        case _:
            request.endpoint.origin.responded()
    answered(request, verdict)
    if is_idle and not isinstance(verdict, NothingLeft):
        answered_idle(request, verdict)


def _not_sent(request: CompletedRequest, message: str, *, was_lost: bool = False) -> Judgement:
    """Handle a request of which nothing left this machine, or that was lost soon after such a one.

    It says nothing about the upstream, the devices or their events.
    """
    limits, endpoint = request.limits, request.endpoint
    endpoint.note_error(message, request.now)
    endpoint.origin.change_network(
        NotSent(request.sent_at, request.now, limits.retry_initial_ms, limits.retry_max_ms, request.u, was_lost)
    )
    return Judgement((), "exact" if request.exact else "")


def _delivered(request: CompletedRequest, verdict: Delivered) -> Judgement:
    """Record the events as delivered, except events that the response rejects by index."""
    outcomes, served = [], []
    first = failures = 0
    for queue, events in request.queues:
        sent = request.sent(queue, events)
        dead_letters = _NO_DEAD_LETTERS
        if verdict.rejected:
            dead_letters = _named_dead_letters(verdict.rejected, verdict.status, first, sent)
        failed_before = queue.diagnosis.failures
        reordered = 0 if queue.diagnosis is HEALTHY else request.reordered(queue, dead_letters)
        queue.delivered(events, events - sent + len(dead_letters))
        if failed_before and not (queue.needs_own_request() or queue.diagnosis.smaller_succeeded):
            failures += failed_before  # No event was the reason: all of them are delivered.
        outcomes.append(QueueOutcome(queue.id, True, dead_letters, reordered))
        first += sent
        if sent:
            served.append(queue.id)
    request.endpoint.succeeded(served, failures, request.now)
    request.endpoint.patience.succeeded(request.now - request.sent_at)
    request.endpoint.body_size.delivered(request.body_bytes, request.now, request.limits.max_body_bytes)
    if queue.diagnosis is not HEALTHY and queue.diagnosis.is_isolated():  # A later event was delivered.
        queue.start_pause(request.search_pause(queue.diagnosis, None))
    return Judgement(outcomes)


def _rejection(verdict: Verdict) -> str:
    match verdict:
        case EventsRejected() | BatchTooLarge():
            return verdict.message
        case Delivered(status, rejected) if rejected:
            return f"{status} {next(iter(rejected.values()))}"
        case _:
            return ""


def _later_rejected(request: CompletedRequest, message: str) -> Judgement:
    """Let the first event be in turn again. The later one is judged when it is the first one."""
    (queue, _), endpoint = request.queues[0], request.endpoint
    endpoint.responded(request.now)
    endpoint.note_error(message, request.now)
    queue.diagnose(LaterFailed(request.seqs[queue.id][0]))
    queue.start_pause(request.search_pause(queue.diagnosis, None))
    return NOTHING


def _named_dead_letters(
    messages: Mapping[int, str], status: int, first: int, events: int
) -> Mapping[int, DeadLetterCause]:
    """Return the rejected events of a device queue with `events` events from index `first` of the request on."""
    return {
        index - first: DeadLetterCause("refused", status, f"{status} {message}")
        for index, message in messages.items()
        if first <= index < first + events
    }


def _rejected(request: CompletedRequest, verdict: EventsRejected) -> Judgement:
    """Believe the names of a rejection, unless the remainder of an earlier one showed that they are wrong."""
    rejections = request.endpoint.rejections
    if request.is_remainder():
        rejections.ignore_names(request.now)
    if not verdict.named or rejections.ignore_names_at(request.now):
        return _unnamed(request, verdict)
    return _named(request, verdict)


def _named(request: CompletedRequest, verdict: EventsRejected) -> Judgement:
    """Omit the named events from the next attempt. Their indexes count through the whole request.

    If the upstream accepts the remainder, they become dead letters; at once if nothing remains.
    """
    request.endpoint.responded(request.now)
    nothing_remains = len(verdict.named) == sum(request.sent(*each) for each in request.queues)
    outcomes: list[QueueOutcome] = []
    first = 0
    for queue, events in request.queues:
        sent = request.sent(queue, events)
        dead_letters = _named_dead_letters(verdict.named, verdict.status, first, sent)
        first += sent
        outcomes.append(QueueOutcome(queue.id, False, dead_letters))
        omitted = tuple(OmittedEvent(request.seqs[queue.id][index], cause) for index, cause in dead_letters.items())
        queue.diagnose(BatchRemoved(events) if nothing_remains else EventsNamed(omitted))
    return Judgement(outcomes) if nothing_remains else Judgement((), "exact")


def _unnamed(request: CompletedRequest, verdict: EventsRejected) -> Judgement:
    """Halve a request with a bad event that the response does not name: by device queues first, then by events."""
    endpoint = request.endpoint
    if not verdict.about_events and endpoint.rejections.are_unexplained:
        return endpoint_failed(request, "misconfigured", verdict.message)
    queue, events = request.queues[0]
    is_found = len(request.queues) == 1 and events == 1
    if len(request.queues) == 1 and events > 1:
        queue.diagnose(BatchRejected(events))
    if is_found and verdict.about_events:
        endpoint.rejections.count_unnamed(queue.id)
    if verdict.about_events and endpoint.rejections.include_everything(
        recent_success=endpoint.evidence.has_recent_success(request.now)
    ):
        # The relay continues to find bad events, at the rate of probes.
        endpoint_failed(request, "misconfigured", verdict.message)
    else:
        endpoint.responded(request.now)
    if len(request.queues) > 1:
        return Judgement((), "halves")
    if not is_found:
        return NOTHING
    if not verdict.about_events:
        _count_unexplained(request, verdict.message)
    return dead_letter(queue, DeadLetterCause("refused", verdict.status, verdict.message))


def _count_unexplained(request: CompletedRequest, message: str) -> None:
    """Count a single event rejected by a status that is not about events. At the maximum, the endpoint is at fault."""
    request.endpoint.rejections.count_unexplained()
    if request.endpoint.rejections.are_unexplained:
        endpoint_failed(request, "misconfigured", message)


def _too_large(request: CompletedRequest, verdict: BatchTooLarge) -> Judgement:
    """Halve the body size of the endpoint, or make a single event that is too large a dead letter.

    A single event is first retried if a larger body was delivered before. After several such events without a success,
    the endpoint is at fault: the size is probably not the reason.
    """
    endpoint, now = request.endpoint, request.now
    queue, events = request.queues[0]
    if len(request.queues) > 1 or events > 1:
        endpoint.responded(now)
        endpoint.note_error(verdict.message, request.now)
        endpoint.body_size.too_large(request.body_bytes, now, request.limits.max_body_bytes)
        return NOTHING
    if endpoint.rejections.are_unexplained:
        return endpoint_failed(request, "misconfigured", verdict.message)
    endpoint.responded(now)
    endpoint.note_error(verdict.message, request.now)
    queue.diagnose(EventTooLarge())
    if request.body_bytes <= endpoint.body_size.largest_delivered and queue.diagnosis.has_few_failures():
        queue.start_pause(request.pause(queue.diagnosis.failures - 1, "backing_off", None))
        return NOTHING
    _count_unexplained(request, verdict.message)
    return dead_letter(queue, DeadLetterCause("too_large", verdict.status, verdict.message))


def _limited(request: CompletedRequest, verdict: RateLimited) -> Judgement:
    """Pause the device after a 429 at its device limit. A 429 below that limit means a shared limit.

    A 429 to one device while other devices succeed pauses only this device. If the limit is shared, the next device
    receives a 429, too. The upstream probably counts a request of several devices for its first device.
    """
    if not request.endpoint.limit.is_limited:
        request = request._replace(queues=request.queues[:1])
    limits, endpoint, now = request.limits, request.endpoint, request.now
    queue, _ = request.queues[0]
    is_mixed = len(request.queues) > 1
    own_limit = not is_mixed and (
        queue.occupied(now, limits) >= limits.device_per_window or verdict.limit == limits.device_per_window
    )
    one_device_only = not (is_mixed or own_limit) and attribute_failure(request)
    if one_device_only:
        endpoint.limit.limited_one_device(request.sent_at, now)
    if one_device_only or own_limit:
        if endpoint.health.state == "untested":
            endpoint.responded(now)
        queue.diagnose(BatchDelayed())
        queue.start_pause(request.pause(queue.diagnosis.failures - 1, "rate_limited", verdict.retry_after_ms))
    else:
        # An isolated request shows which limit applies.
        queue.diagnose(LimitMet())
        attempt = endpoint.limited(verdict.message, request.sent_at, now, _initial_rate(request, verdict))
        endpoint.limit.start_pause(request.pause(attempt, "rate_limited", verdict.retry_after_ms))
    return Judgement((), "exact" if request.exact else "")


def _initial_rate(request: CompletedRequest, verdict: RateLimited) -> int:
    """Return the first rate of a shared limit: as the upstream states, but at most the responses of one window."""
    limits = request.limits
    if verdict.limit is None:
        return limits.ip_per_window
    responses = request.endpoint.limit.responses_since(request.now - limits.window_ms)
    return min(verdict.limit, max(limits.ip_per_window, responses))
