"""Decide what a failed request means: the endpoint is unavailable, or a device or one of its events is at fault."""

from __future__ import annotations

from typing import Literal, TypeAlias

from relay.policy.cause import Answered, Cause, Finding, Suspicion
from relay.policy.completed_request import CompletedRequest, Judgement, dead_letter
from relay.policy.diagnosis import (
    CONTENT_MS,
    POISON_MS,
    BatchDelayed,
    BatchFailed,
    FailureSeen,
    LaterChosen,
    LaterFailed,
    ProbingLater,
    SharedBatchFailed,
)
from relay.policy.endpoint_health import Failure
from relay.policy.omitted_events import DeadLetterCause
from relay.policy.verdict import (
    BatchTooLarge,
    Delivered,
    EventsRejected,
    Failing,
    Misconfigured,
    RateLimited,
    Unauthorized,
    Verdict,
)

_BROWNOUT_MS = 900_000
"""Time over which failures of delivered events show that an upstream fails at random."""

FailedVerdict: TypeAlias = Unauthorized | Misconfigured | Failing


def _too_slow(request: CompletedRequest, verdict: Failing) -> Judgement:
    """Halve a batch that timed out while the relay sent it, because the reason is its size and not an event."""
    request.endpoint.body_size.timed_out(request.body_bytes, request.now, request.limits.max_body_bytes)
    for queue, _ in request.queues:
        queue.diagnose(BatchDelayed())
    _pause(request, attribute_failure(request), "backing_off", verdict.message, None)
    # An exact request must not remain exact, because the relay sends its events again in smaller batches.
    return Judgement((), "halves" if request.exact and len(request.queues) > 1 else "")


def failed(request: CompletedRequest, verdict: FailedVerdict) -> Judgement:
    """Handle a failure without a decision about events: of the endpoint, of one device, or by one of its events."""
    if (
        isinstance(verdict, Failing)
        and verdict.while_sending
        and sum(request.sent(*each) for each in request.queues) > 1
    ):
        return _too_slow(request, verdict)
    endpoint, now = request.endpoint, request.now
    failure = _failure(verdict)
    retry_after_ms = verdict.retry_after_ms if isinstance(verdict, Failing) else None
    suspicion = Suspicion(failure, verdict.message, retry_after_ms, verdict.may_be_content)
    cause = endpoint.cause_of([queue for queue, _ in request.queues], suspicion, now)
    if endpoint.served_others(request.sent_at):
        cause = "device"
    if len(request.queues) > 1:
        for queue, _ in request.queues:
            queue.diagnose(SharedBatchFailed(cause == "device"))
    elif request.contains_later():
        queue, _ = request.queues[0]
        queue.diagnose(LaterFailed(request.seqs[queue.id][0]))
    elif verdict.may_be_content and (cause != "endpoint" or failure == "backing_off"):
        queue, events = request.queues[0]
        at_once = failure != "backing_off"
        success_at = endpoint.evidence.success_at
        queue.diagnose(BatchFailed(events, now, cause == "device", success_at, at_once, verdict.status))
        if events == 1 and cause == "device":
            if _is_proven(request, CONTENT_MS if at_once else POISON_MS):
                endpoint.note_error(verdict.message, now)
                message = f"rejected because of its content: {verdict.message}"
                return dead_letter(queue, DeadLetterCause("poison", verdict.status, message))
            if _needs_contrast(request):
                omitted = queue.diagnosis.before_later(request.seqs[queue.id][0], queue.events)
                queue.diagnose(LaterChosen(omitted))
    elif cause != "endpoint":
        request.queues[0][0].diagnose(BatchDelayed())
    if cause == "endpoint":
        return _pause(request, False, failure, verdict.message, retry_after_ms)
    return _pause_devices(request, suspicion, cause)


def _is_proven(request: CompletedRequest, over_ms: int) -> bool:
    """Return whether the first event fails because of its content: others were delivered between its failures."""
    diagnosis, evidence = request.queues[0][0].diagnosis, request.endpoint.evidence
    if diagnosis.alone is None or not diagnosis.is_poisoned(over_ms, request.now):
        return False
    if diagnosis.alone.contrast == "shown":
        return not evidence.often_fails(request.now - _BROWNOUT_MS)
    return evidence.mostly_succeeds(diagnosis.alone.since)


def _needs_contrast(request: CompletedRequest) -> bool:
    """Return whether only a later event of the device can show that the first one fails because of its content.

    The API responded to each batch without events meanwhile. In a brownout, it does not respond to all, or other events
    fail before they are delivered.
    """
    (queue, _), endpoint, now = request.queues[0], request.endpoint, request.now
    if queue.events == 1 or not queue.diagnosis.needs_contrast(now):
        return False
    if endpoint.evidence.often_fails(now - _BROWNOUT_MS):
        return False
    return endpoint.search.found_api_since(now - CONTENT_MS) and not endpoint.evidence.has_witness([queue.id], now)


def _pause_devices(request: CompletedRequest, suspicion: Suspicion, cause: Cause) -> Judgement:
    """Pause the device queues of a failed request, and not the endpoint.

    Without a device that is served, the endpoint is shown as failing, although its other devices may send.
    """
    endpoint, now = request.endpoint, request.now
    failure, message, retry_after_ms, may_be_content = suspicion
    if cause == "device":
        if not endpoint.evidence.has_witness([queue.id for queue, _ in request.queues], now):
            endpoint.failed(suspicion.shown, message, request.sent_at, now)
        endpoint.note_error(message, now)
    for queue, _ in request.queues:
        if may_be_content or cause == "undecided":
            queue.start_pause(request.search_pause(queue.diagnosis, retry_after_ms))
        else:
            queue.start_pause(request.pause(queue.diagnosis.failures - 1, failure, retry_after_ms))
    return Judgement((), _resend(request))


def answered(request: CompletedRequest, verdict: Verdict) -> None:
    """Apply the response to a batch without events to the search for the cause of failures."""
    endpoint, before = request.endpoint, request.endpoint.search
    finding = _finding(verdict, before.finding)
    endpoint.search_for_cause(Answered(finding))
    if finding == "api" and endpoint.health.state in ("unauthorized", "misconfigured"):
        endpoint.end_pause()  # The next probe shows whether events are accepted again.
    elif isinstance(verdict, Unauthorized | Misconfigured):
        _pause(request, False, _failure(verdict), verdict.message, None)
    elif before.suspicion is not None:
        has_witness = endpoint.evidence.has_witness((), request.now)
        if endpoint.search.cause(has_witness=has_witness) == "endpoint":
            failure, message, retry_after_ms, _ = before.suspicion
            _pause(request, False, failure, message, retry_after_ms)
        elif not has_witness:
            endpoint.failed(before.suspicion.shown, before.suspicion.message, request.sent_at, request.now)


def answered_idle(request: CompletedRequest, verdict: Verdict) -> None:
    """Apply the response to a batch without events to an endpoint without pending events.

    It is retried slowly until the API responds. A 429 shows as little as a 5xx.
    """
    if _finding(verdict, "none") == "api":
        request.endpoint.recovered(request.now)
    elif isinstance(verdict, EventsRejected | BatchTooLarge | RateLimited | Failing):
        retry_after_ms = verdict.retry_after_ms if isinstance(verdict, RateLimited | Failing) else None
        attempt = request.endpoint.failed("backing_off", verdict.message, request.sent_at, request.now)
        request.endpoint.postpone_probe(request.idle_pause(attempt or 0, retry_after_ms))


def _finding(verdict: Verdict, before: Finding) -> Finding:
    match verdict:
        case RateLimited() if before != "none":
            return before
        case Unauthorized() | Misconfigured():
            return "endpoint"
        case Delivered() | EventsRejected(about_events=True):
            return "api"
        case _:
            return "unknown"


def _failure(verdict: FailedVerdict) -> Failure:
    match verdict:
        case Unauthorized():
            return "unauthorized"
        case Misconfigured():
            return "misconfigured"
        case Failing():
            return "backing_off"


def endpoint_failed(request: CompletedRequest, failure: Failure, message: str) -> Judgement:
    """Handle too many rejections in a row, unless only this device receives them."""
    device_fault = attribute_failure(request)
    if device_fault:
        for queue, _ in request.queues:
            queue.diagnose(BatchDelayed())
    return _pause(request, device_fault, failure, message, None)


def attribute_failure(request: CompletedRequest) -> bool:
    """Record a failure of the device queues in the request. Return whether they are at fault and not the endpoint.

    They are at fault if other device queues succeeded recently and none of these failed since. They are also at fault
    if other device queues succeeded between their failures, as long as the endpoint has recent successes.
    """
    endpoint, now = request.endpoint, request.now
    for queue, _ in request.queues:
        queue.diagnose(FailureSeen(now, endpoint.evidence.success_at))
    device_fault = endpoint.served_others(request.sent_at) or endpoint.evidence.others_succeed(
        [queue.id for queue, _ in request.queues], request.sent_at, now
    )
    if not device_fault and endpoint.evidence.has_recent_success(now):
        device_fault = all(queue.diagnosis.at_fault for queue, _ in request.queues)
    endpoint.evidence.failed(queue.id for queue, _ in request.queues if not queue.diagnosis.at_fault)
    return device_fault


def _pause(
    request: CompletedRequest, device_fault: bool, failure: Failure, message: str, retry_after_ms: int | None
) -> Judgement:
    """Pause the device queues or the endpoint."""
    endpoint, now = request.endpoint, request.now
    if device_fault:
        endpoint.note_error(message, request.now)
        for queue, _ in request.queues:
            queue.start_pause(request.pause(queue.diagnosis.failures - 1, failure, retry_after_ms))
    else:
        attempt = endpoint.failed(failure, message, request.sent_at, now)
        if attempt is not None:
            endpoint.postpone_probe(request.pause(attempt, failure, retry_after_ms))
    return Judgement((), _resend(request))


def _resend(request: CompletedRequest) -> Literal["", "exact"]:
    """Return whether an exact request stays exact, as it does for its first retries, or a later event is next."""
    if any(isinstance(queue.diagnosis.state, ProbingLater) for queue, _ in request.queues):
        return "exact"
    if request.contains_later():
        return ""
    stays_exact = request.exact and all(queue.diagnosis.has_few_failures() for queue, _ in request.queues)
    return "exact" if stays_exact else ""
