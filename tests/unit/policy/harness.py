"""A schedule with a counting outbox and a manual clock.

Events are integers, numbered from 0 for each device queue. All events have the same size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from relay.policy.limits import Limits
from relay.policy.omitted_events import DeadLetterCause
from relay.policy.overview import EndpointView
from relay.policy.requests import Reply, Send, Share, Wait, count_fitting
from relay.policy.schedule import Schedule
from relay.policy.verdict import (
    Delivered,
    EventsRejected,
    Failing,
    Misconfigured,
    NothingLeft,
    RateLimited,
    Unauthorized,
    Verdict,
)

LIMITS = Limits(
    linger_ms=5_000,
    max_events=500,
    max_body_bytes=512 << 10,
    mix_devices="when_ip_limited",
    window_ms=60_000,
    device_per_window=120,
    ip_per_window=20,
    retry_initial_ms=1_000,
    retry_max_ms=300_000,
    max_in_flight=8,
)
EVENT_BYTES = 400
DELIVERED = Delivered()
FAILING = Failing("503 down", None, 503)
UNAUTHORIZED = Unauthorized("401 no")
MISCONFIGURED = Misconfigured("404 gone")
REJECTED = EventsRejected(422, "422 bad")
UNREACHABLE = NothingLeft("cannot connect: Network is unreachable")
RESET = Failing("connection failed: Connection reset by peer")
LIMITED = RateLimited("429 slow down", None, None)

Claimed = Mapping[int, Sequence[int]]


class Harness:
    """Offer events, send the requests of the schedule, respond as the test requires, and record the outcomes."""

    def __init__(self, schedule: Schedule | None = None, **changes: object) -> None:
        self.limits = replace(LIMITS, **changes)  # type: ignore[arg-type]
        self.schedule = schedule or Schedule(self.limits)
        self.now = 1_000_000
        self.sent_at: dict[Send, int] = {}
        self.tenants: dict[int, int] = {}
        self.pending: dict[int, list[int]] = {}
        self.known: set[int] = set()
        """Device queues in the schedule."""
        self.offered: dict[int, int] = {}
        self.delivered: dict[int, list[int]] = {}
        self.dead_letters: dict[int, dict[int, DeadLetterCause]] = {}
        self.asked_at: list[int] = []
        """Times of the batches without events."""
        self.answer: Verdict | None = None
        """The response to a batch without events; None: the same as to the latest request."""
        self._latest: Verdict = DELIVERED
        self.chosen: list[Send] = []
        """Requests chosen before a batch without events."""

    def offer(self, queue_id: int, events: int = 1, *, tenant: int = 1) -> None:
        first = self.offered.get(queue_id, 0)
        self.offered[queue_id] = first + events
        self.tenants[queue_id] = tenant
        self.pending.setdefault(queue_id, []).extend(range(first, first + events))
        self.report(queue_id)

    def know(self, *queue_ids: int, tenant: int = 1) -> None:
        """Make devices known: deliver one event of each."""
        for queue_id in queue_ids:
            self.offer(queue_id, tenant=tenant)
        while any(self.pending[queue_id] for queue_id in queue_ids):
            self.round()

    def drop(self, queue_id: int, events: int) -> None:
        """Drop the oldest events of a device queue, as the outbox does by age or size."""
        del self.pending[queue_id][:events]
        self.report(queue_id)

    def report(self, queue_id: int) -> None:
        self.known.add(queue_id)
        events = len(self.pending[queue_id])
        key = (self.tenants[queue_id], "tv", f"device-{queue_id}")
        self.schedule.backlog(queue_id, key, events, events * EVENT_BYTES, self.now)

    def forget(self) -> list[int]:
        removed = self.schedule.forget_idle(self.now, 100, 0)
        self.known.difference_update(removed)
        return removed

    def pass_time(self, ms: int) -> None:
        self.now += ms

    def next(self) -> Send | Wait:
        if self.chosen:
            return self.chosen.pop(0)
        step = self.schedule.next(self.now)
        while isinstance(step, Send) and not step.shares:
            self._respond_to_empty_batch(step)
            step = self.schedule.next(self.now)
        if isinstance(step, Send):
            self.sent_at[step] = self.now
        return step

    def sends(self) -> list[Send]:
        """Return all requests that may be sent now."""
        sends = []
        while isinstance(step := self.next(), Send):
            sends.append(step)
        return sends

    def send(self) -> Send:
        """Return the next request, and move the clock to its time."""
        while True:
            step = self.next()
            if isinstance(step, Send):
                return step
            assert step.until is not None, "the schedule waits forever"
            assert step.until > self.now
            self.now = step.until

    def claimed(self, send: Send) -> dict[int, list[int]]:
        """Return the events of a request by queue id, cut to size as in the forwarder."""
        claimed: dict[int, list[int]] = {}
        used_bytes = 0
        for share in send.shares:
            pending = self.pending[share.queue_id]
            sizes = [EVENT_BYTES] * len(pending)
            events = count_fitting(sizes, share.max_events, send.max_body_bytes, used_bytes)
            if send.exact:
                events = min(share.max_events, len(pending))
            if events:
                omitted = {event.seq for event in share.omitted}
                claimed[share.queue_id] = [n for n in pending[:events] if n not in omitted]
                used_bytes += events * (EVENT_BYTES + 1)
        return claimed

    def respond(
        self,
        send: Send,
        response: Verdict | Callable[[Claimed], Verdict] = DELIVERED,
        *,
        after_ms: int = 10,
        u: float = 0.5,
    ) -> Claimed:
        """Apply the response to a request and settle it. Return the events of the request by queue id."""
        sent_at = self.sent_at.pop(send)
        claimed = self.claimed(send)
        verdict = self._latest = response(claimed) if callable(response) else response
        self.now += after_ms
        events = {queue_id: len(numbers) for queue_id, numbers in claimed.items()}
        reply = Reply(events, sum(events.values()) * (EVENT_BYTES + 1) + 13, verdict, sent_at, claimed)
        omitted = {share.queue_id: share.omitted for share in send.shares}
        for outcome in self.schedule.responded(send, reply, self.now, u):
            numbers = claimed[outcome.queue_id]
            dead = {numbers[index]: cause for index, cause in outcome.dead_letters.items()}
            if outcome.delivered:
                delivered = [n for n in numbers if n not in dead]
                dead |= {event.seq: event.cause for event in omitted[outcome.queue_id] if event.cause}
                self.delivered.setdefault(outcome.queue_id, []).extend(delivered)
            if dead:
                self.dead_letters.setdefault(outcome.queue_id, {}).update(dead)
            removed = {*dead, *numbers} if outcome.delivered else {*dead}
            self.pending[outcome.queue_id] = [n for n in self.pending[outcome.queue_id] if n not in removed]
            self.report(outcome.queue_id)
        self.schedule.settled(send, self.now)
        while self.schedule._endpoints.of(send.tenant_id).search.is_asking:
            step = self.schedule.next(self.now)
            if isinstance(step, Wait):
                break
            if step.shares:
                self.sent_at[step] = self.now
                self.chosen.append(step)
            else:
                self._respond_to_empty_batch(step, u)
        return claimed

    def _respond_to_empty_batch(self, send: Send, u: float = 0.5) -> None:
        self.asked_at.append(self.now)
        self.schedule.answered(send, Reply({}, 13, self.answer or self._latest, self.now), self.now, u)

    def round(self, response: Verdict | Callable[[Claimed], Verdict] = DELIVERED, *, u: float = 0.5) -> Claimed:
        """Send the next request, also if it must be waited for, and respond to it."""
        return self.respond(self.send(), response, u=u)

    def endpoint(self, tenant: int | None = 1) -> EndpointView:
        """Return the endpoint of a tenant; None: the shared one."""
        return next(view for view in self.schedule.endpoints(self.now) if view.tenant_id == tenant)

    def drained(self, queue_id: int) -> bool:
        return not self.pending.get(queue_id)


def queues(send: Send) -> list[int]:
    return [share.queue_id for share in send.shares]


def restarted(harness: Harness, *, same_boot: bool = True, unsettled: Sequence[Sequence[Share]] = ()) -> Harness:
    """Return the same outbox after a crash: pending events, packed windows and unsettled requests survive."""
    after = Harness(Schedule(harness.limits))
    after.limits = harness.limits
    after.now = harness.now if same_boot else 5_000
    after.tenants, after.pending, after.offered = harness.tenants, harness.pending, harness.offered
    after.delivered, after.dead_letters = harness.delivered, harness.dead_letters
    for queue_id in sorted(harness.known):
        after.report(queue_id)
        packed = harness.schedule.window_of(queue_id, harness.now)
        key = (after.tenants[queue_id], "tv", f"device-{queue_id}")
        after.schedule.restore(queue_id, key, packed, after.now, 0 if same_boot else None)
    after.schedule.resume(unsettled, after.now)
    return after
