"""Batches without events after a start without requests: what each response shows, and when the next one follows."""

from __future__ import annotations

import pytest
from relay.policy.requests import Reply, Send, Wait
from relay.policy.schedule import Schedule
from relay.policy.upstream_origin import EndpointState
from relay.policy.verdict import BatchTooLarge, EventsRejected, RateLimited, Verdict

from tests.unit.policy.harness import (
    DELIVERED,
    FAILING,
    LIMITED,
    LIMITS,
    MISCONFIGURED,
    REJECTED,
    UNAUTHORIZED,
    UNREACHABLE,
    Harness,
)

START = 1_000_000
TRIED_AT = START + 10_000 + 30_000


def quiet(*configured: int, u: float = 0.5) -> Harness:
    """Return a schedule that started with these tenants' own upstreams and without events."""
    harness = Harness(Schedule(LIMITS, configured=lambda: configured))
    harness.schedule.start([None, *configured], harness.now, u)
    return harness


def ask(harness: Harness) -> Send:
    """Return the next request, which has no events, and move the clock to its time."""
    while isinstance(step := harness.schedule.next(harness.now), Wait):
        assert step.until is not None, "the schedule waits forever"
        harness.now = step.until
    assert step.shares == ()
    return step


def answer(harness: Harness, verdict: Verdict, send: Send | None = None, *, u: float = 0.5) -> EndpointState:
    send = send or ask(harness)
    reply = Reply({}, 13, verdict, harness.now)
    harness.now += 10
    return harness.schedule.answered(send, reply, harness.now, u).state()


@pytest.mark.parametrize(("u", "delay_ms"), [(0.0, 10_000), (0.5, 40_000), (0.9999, 69_994)])
def test_an_upstream_to_which_nothing_was_sent_is_tried_at_a_random_time(u: float, delay_ms: int) -> None:
    harness = quiet(u=u)
    assert harness.schedule.next(harness.now) == Wait(START + delay_ms)
    assert ask(harness) == Send(0, (), 0, exact=True)
    assert harness.now == START + delay_ms


@pytest.mark.parametrize(
    ("verdict", "state", "error", "pause_ms"),
    [
        (REJECTED, "ok", None, None),
        (DELIVERED, "ok", None, None),
        (UNAUTHORIZED, "unauthorized", "401 no", 31_500),
        (MISCONFIGURED, "misconfigured", "404 gone", 31_500),
        (FAILING, "backing_off", "503 down", 31_500),
        (LIMITED, "backing_off", "429 slow down", 31_500),
        (RateLimited("429", 100_000, None), "backing_off", "429", 105_000),
        (EventsRejected(422, "422 <html>", about_events=False), "backing_off", "422 <html>", 31_500),
        (BatchTooLarge(413, "413"), "backing_off", "413", 31_500),
        (UNREACHABLE, "backing_off", UNREACHABLE.message, 500),
    ],
    ids=repr,
)
def test_the_state_and_the_next_try_follow_from_the_response(
    verdict: Verdict, state: EndpointState, error: str | None, pause_ms: int | None
) -> None:
    harness = quiet()
    assert answer(harness, verdict) == state
    view = harness.endpoint(None)
    assert (view.last_error and view.last_error.message) == error
    step = harness.schedule.next(harness.now)
    assert isinstance(step, Wait)
    assert (step.until and step.until - harness.now) == pause_ms
    assert harness.schedule.queues(9, harness.now).endpoint_states == {}, "no events are pending"


def test_a_failing_upstream_is_tried_until_the_api_responds() -> None:
    harness = quiet()
    delays = []
    send = ask(harness)
    for _ in range(6):
        answer(harness, UNAUTHORIZED, send, u=0)
        before = harness.now
        send = ask(harness)
        delays.append(harness.now - before)
    assert delays == [30_000, 60_000, 120_000, 240_000, 300_000, 300_000]
    assert answer(harness, REJECTED, send) == "ok"
    assert harness.endpoint(None).last_error is None
    assert harness.schedule.next(harness.now) == Wait(None)


def test_a_changed_configuration_tries_a_failing_upstream_at_once() -> None:
    harness = quiet()
    answer(harness, UNAUTHORIZED)
    harness.schedule.configure(harness.limits, harness.now)
    before = harness.now
    assert answer(harness, REJECTED) == "ok"
    assert harness.now == before + 10


def test_each_distinct_upstream_is_tried_once() -> None:
    harness = quiet(7, 8)
    sends = [ask(harness) for _ in range(3)]
    assert [send.tenant_id for send in sends] == [0, 7, 8]
    assert harness.now == TRIED_AT
    for send, verdict in zip(sends, [REJECTED, UNAUTHORIZED, REJECTED], strict=True):
        answer(harness, verdict, send)
    assert harness.schedule.states() == {"ok": 2, "unauthorized": 1}
    harness.pass_time(LIMITS.window_ms)
    harness.forget()
    freed = {tenant: view.state for tenant, view in harness.schedule.freed_endpoints(harness.now).items()}
    assert freed == {None: "ok", 8: "ok"}


@pytest.mark.parametrize("response", [DELIVERED, REJECTED])
def test_an_upstream_to_which_events_were_sent_is_not_tried(response: Verdict) -> None:
    harness = quiet(7)
    harness.offer(1, tenant=3)
    harness.round(response)
    assert ask(harness).tenant_id == 7


def test_an_event_of_a_configured_tenant_is_sent_at_once_after_a_failed_try() -> None:
    harness = quiet(7)
    for send in [ask(harness) for _ in range(2)]:
        answer(harness, FAILING, send)
    before = harness.now
    harness.offer(1, 500, tenant=7)
    harness.respond(harness.send())
    assert harness.now <= before + 10
    assert harness.endpoint(7).state == "ok"


def test_an_event_of_another_tenant_replaces_the_try_of_the_default_upstream() -> None:
    harness = quiet()
    send = ask(harness)
    harness.offer(1, 500, tenant=3)
    assert [view.tenant_id for view in harness.schedule.endpoints(harness.now)] == [3]
    answer(harness, UNAUTHORIZED, send)
    assert harness.schedule.states() == {"untested": 1}
    harness.respond(harness.send())
    assert harness.schedule.states() == {"ok": 1}
    assert harness.schedule.in_flight() == 0


def test_a_429_starts_no_shared_limit() -> None:
    harness = quiet()
    answer(harness, RateLimited("429", None, 20))
    assert not harness.schedule._endpoints.origin(None, harness.now).limit.is_limited


def test_a_device_that_is_forgotten_during_a_try_leaves_its_endpoint_until_the_response() -> None:
    harness = quiet(7)
    _, send = ask(harness), ask(harness)
    assert send.tenant_id == 7
    harness.offer(1, tenant=7)
    harness.drop(1, 1)
    harness.pass_time(2 * LIMITS.window_ms)
    assert harness.forget() == [1]
    assert answer(harness, REJECTED, send) == "ok"
    harness.pass_time(LIMITS.window_ms)
    harness.forget()
    assert 7 in harness.schedule.freed_endpoints(harness.now)
