"""Decide what a failed request means: the endpoint is unavailable, or a device or one of its events is at fault."""

from __future__ import annotations

from relay.policy.completed_request import CompletedRequest, Judgement, dead_letter
from relay.policy.diagnosis import BatchDelayed, BatchFailed, FailureSeen, SharedBatchFailed
from relay.policy.endpoint_health import Failure
from relay.policy.omitted_events import DeadLetterCause
from relay.policy.verdict import Failing


def _too_slow(request: CompletedRequest, verdict: Failing) -> Judgement:
    """Halve a batch that timed out while the relay sent it, because the reason is its size and not an event."""
    request.endpoint.body_size.timed_out(request.body_bytes, request.now, request.limits.max_body_bytes)
    for queue, _ in request.queues:
        queue.diagnose(BatchDelayed())
    _pause(request, attribute_failure(request), "backing_off", verdict.message, None)
    # An exact request must not remain exact, because the relay sends its events again in smaller batches.
    return Judgement((), "halves" if request.exact and len(request.queues) > 1 else "")


def failing(request: CompletedRequest, verdict: Failing) -> Judgement:
    """Handle a failure without a decision about events: the endpoint is unavailable, or an event is poison."""
    if verdict.while_sending and sum(events for _, events in request.queues) > 1:
        return _too_slow(request, verdict)
    endpoint, now = request.endpoint, request.now
    device_fault = attribute_failure(request)
    if len(request.queues) > 1:
        for queue, _ in request.queues:
            queue.diagnose(SharedBatchFailed(device_fault))
    else:
        queue, events = request.queues[0]
        queue.diagnose(BatchFailed(events, now, device_fault, endpoint.evidence.success_at))
        if events == 1 and queue.diagnosis.is_poisoned(now):
            endpoint.note_error(verdict.message, request.now)
            return dead_letter(queue, DeadLetterCause("poison", verdict.status, verdict.message))
    return _pause(request, device_fault, "backing_off", verdict.message, verdict.retry_after_ms)


def endpoint_failed(request: CompletedRequest, failure: Failure, message: str) -> Judgement:
    """Handle a response to all requests of the endpoint, such as 401 or 404, unless only this device receives it."""
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
    """Pause the device queues or the endpoint. An exact request stays exact for its first retries."""
    endpoint, now = request.endpoint, request.now
    if device_fault:
        endpoint.note_error(message, request.now)
        for queue, _ in request.queues:
            queue.start_pause(request.pause(queue.diagnosis.failures - 1, failure, retry_after_ms))
    else:
        attempt = endpoint.failed(failure, message, request.sent_at, now)
        if attempt is not None:
            endpoint.postpone_probe(request.pause(attempt, failure, retry_after_ms))
    stays_exact = request.exact and all(queue.diagnosis.has_few_failures() for queue, _ in request.queues)
    return Judgement((), "exact" if stays_exact else "")
