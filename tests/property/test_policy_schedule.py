"""The schedule keeps its promises in every sequence of arrivals, responses, drops and crashes, and never stops."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from relay.policy import endpoints
from relay.policy.requests import Send, Share, Wait
from relay.policy.verdict import (
    BatchTooLarge,
    Delivered,
    EventsRejected,
    Failing,
    Misconfigured,
    RateLimited,
    Resend,
    Unauthorized,
    Verdict,
)
from tests.unit.policy.harness import Harness, restarted

WINDOW_MS = 60_000
QUEUES = 6
TENANTS = 3

verdicts: st.SearchStrategy[Verdict] = st.one_of(
    st.just(Delivered()),
    st.just(Delivered()),
    st.builds(EventsRejected, st.sampled_from([400, 422]), st.just("422 bad")),
    st.builds(EventsRejected, st.just(409), st.just("409 no"), st.just({}), st.just(False)),
    st.builds(
        EventsRejected, st.just(422), st.just("422 bad"), st.dictionaries(st.integers(0, 3), st.just("bad"), min_size=1)
    ),
    st.just(BatchTooLarge(413, "413")),
    st.builds(
        RateLimited,
        st.just("429"),
        st.sampled_from([None, 0, 10_000, 10**9]),
        st.sampled_from([None, 1, 4, 20, 10**9]),
    ),
    st.just(Unauthorized("401")),
    st.just(Misconfigured("404")),
    st.builds(Resend, st.just("closed")),
    st.builds(Failing, st.just("503"), st.sampled_from([None, 0, 60_000]), st.sampled_from([None, 500, 503])),
)


class ScheduleMachine(RuleBasedStateMachine):
    """A schedule with a counting outbox and an upstream with arbitrary responses."""

    @initialize(
        mix=st.sampled_from(["never", "when_ip_limited", "always"]),
        limit=st.integers(1, 6),
        slots=st.integers(1, 4),
        max_events=st.integers(1, 12),
        unproven=st.integers(0, TENANTS),
    )
    def start(self, mix: str, limit: int, slots: int, max_events: int, unproven: int) -> None:
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(endpoints, "MAX_UNPROVEN", unproven)
        self.harness = Harness(
            mix_devices=mix, device_per_window=limit, max_in_flight=slots, max_events=max_events, window_ms=WINDOW_MS
        )
        self.in_flight: list[Send] = []
        self.sent: dict[int, list[int]] = defaultdict(list)  # Times of requests by queue id.
        self.dropped: dict[int, set[int]] = defaultdict(set)

    # -- actions

    @rule(queue_id=st.integers(0, QUEUES - 1), events=st.integers(1, 30))
    def offer(self, queue_id: int, events: int) -> None:
        self.harness.offer(queue_id, events, tenant=1 + queue_id % TENANTS)

    @rule(ms=st.one_of(st.integers(0, 10), st.integers(0, 10_000), st.integers(0, 10 * WINDOW_MS)))
    def pass_time(self, ms: int) -> None:
        self.harness.pass_time(ms)

    @rule()
    def send(self) -> None:
        for send in self.harness.sends():
            self.note(send)

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data(), verdict=verdicts, after_ms=st.integers(0, 40_000), u=st.floats(0, 1, exclude_max=True))
    def respond(self, data: st.DataObject, verdict: Verdict, after_ms: int, u: float) -> None:
        send = self.in_flight.pop(data.draw(st.integers(0, len(self.in_flight) - 1)))
        if isinstance(verdict, EventsRejected):
            events = sum(map(len, self.harness.claimed(send).values()))
            named = {index: message for index, message in verdict.named.items() if index < events}
            verdict = EventsRejected(verdict.status, verdict.message, named, verdict.about_events)
        self.harness.respond(send, verdict, after_ms=after_ms, u=u)

    @precondition(lambda self: self.in_flight)
    @rule()
    def outbox_fails(self) -> None:
        send = self.in_flight.pop()
        for queue_id in self.harness.claimed(send):
            self.sent[queue_id].pop()
        self.harness.schedule.pause(send, self.harness.now + 5_000)
        self.harness.schedule.settled(send, self.harness.now)

    @rule()
    def flush(self) -> None:
        self.harness.schedule.flush(self.harness.now)

    @rule()
    def configure(self) -> None:
        self.harness.schedule.configure(self.harness.limits, self.harness.now)

    @rule(queue_id=st.integers(0, QUEUES - 1), events=st.integers(1, 20))
    def drop(self, queue_id: int, events: int) -> None:
        """Drop events by age or size, but never events in flight."""
        if any(share.queue_id == queue_id for send in (*self.in_flight, *self.harness.chosen) for share in send.shares):
            return
        pending = self.harness.pending.get(queue_id, [])
        if pending:
            self.dropped[queue_id].update(pending[:events])
            self.harness.drop(queue_id, min(events, len(pending)))

    @rule()
    def forget(self) -> None:
        for queue_id in self.harness.forget():
            assert not self.harness.pending.get(queue_id)

    @rule(same_boot=st.booleans())
    def crash_and_restart(self, same_boot: bool) -> None:
        unsettled = [
            [
                Share(share.queue_id, len(claimed[share.queue_id]) + len(share.omitted), share.omitted)
                for share in send.shares
                if share.queue_id in claimed
            ]
            for send in (*self.in_flight, *self.harness.chosen)
            for claimed in [self.harness.claimed(send)]
        ]
        before = self.harness.now
        self.harness = restarted(self.harness, same_boot=same_boot, unsettled=unsettled)
        self.in_flight = []
        shift = self.harness.now - before
        self.sent = defaultdict(list, {queue_id: [at + shift for at in times] for queue_id, times in self.sent.items()})

    # -- invariants

    def note(self, send: Send) -> None:
        for share in send.shares:
            assert all(share.queue_id != other.queue_id for one in self.in_flight for other in one.shares), (
                "one in flight"
            )
        self.in_flight.append(send)
        claimed = self.harness.claimed(send)
        for share in send.shares:
            assert self.harness.tenants[share.queue_id] == send.tenant_id
            if share.queue_id not in claimed:
                continue
            self.sent[share.queue_id].append(self.harness.now)
            latest = self.sent[share.queue_id][-self.harness.limits.device_per_window - 1 :]
            if len(latest) > self.harness.limits.device_per_window:
                assert latest[-1] - latest[0] > WINDOW_MS, "device limit"

    @invariant()
    def slots(self) -> None:
        in_flight = [*self.in_flight, *self.harness.chosen]
        assert self.harness.schedule.in_flight() == len(in_flight) <= self.harness.limits.max_in_flight

    @invariant()
    def endpoints_are_counted_by_state(self) -> None:
        views = self.harness.schedule.endpoints(self.harness.now)
        counts = {state: count for state, count in self.harness.schedule.states().items() if count}
        assert counts == Counter(view.state for view in views)

    @invariant()
    def the_next_wait_never_ends_in_the_past(self) -> None:
        step = self.harness.next()
        if isinstance(step, Send):
            self.harness.sent_at[step] = self.harness.now
            self.note(step)
        else:
            assert step.until is None or step.until > self.harness.now

    @invariant()
    def every_event_is_accounted_for_and_in_order(self) -> None:
        harness = self.harness
        for queue_id, offered in harness.offered.items():
            delivered = harness.delivered.get(queue_id, [])
            assert delivered == sorted(set(delivered)), "in order, once"
            accounted = [
                *delivered,
                *harness.dead_letters.get(queue_id, ()),
                *self.dropped[queue_id],
                *harness.pending[queue_id],
            ]
            assert sorted(accounted) == list(range(offered)), "kept"

    def teardown(self) -> None:
        if not hasattr(self, "harness"):
            return
        self.drain()
        self.patch.undo()

    def drain(self) -> None:
        """Without further faults everything drains, and each step makes progress or moves the time."""
        harness = self.harness
        for send in self.in_flight:
            harness.respond(send, Delivered())
        steps = 0
        while any(harness.pending.values()):
            step = harness.next()
            if isinstance(step, Wait):
                assert step.until is not None, "the schedule waits forever with pending events"
                assert step.until > harness.now, "livelock"
                harness.now = step.until
            else:
                harness.sent_at[step] = harness.now
                harness.respond(step, Delivered())
            steps += 1
            assert steps < 5_000, "the outbox does not drain"


TestSchedule = ScheduleMachine.TestCase
TestSchedule.settings = settings(max_examples=200, stateful_step_count=60)
