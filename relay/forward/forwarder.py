"""Send the batches that the schedule selects, and settle them in the outbox.

Steps of one request: schedule.next -> outbox.claim (journalled and read in one commit) -> upstream.post
-> verdict -> schedule.responded -> outbox.settle -> schedule.settled. The response frees the request slot
(`upstream.max_in_flight`), so that the claim of the next request shares the commit with this settlement. The outbox
executes them in order. A request with a failed settlement occupies a request slot again until the settlement is on
disk. Therefore the number of requests that the upstream may have accepted but that are not settled on disk never
exceeds `upstream.max_in_flight`.

A batch in flight
- at SIGTERM: `drain` waits for its response within `shutdown.drain` and settles it. Without a response, the batch
  stays in the journal.
- at kill -9: its journal entry was on disk before the first byte was sent. The next start sends the same events first
  and counts the request in the device's rate window.
- if the disk fails after the upstream accepted it: the settlement is retried until it is on disk.

This module depends neither on the meaning of status codes nor on the storage of the outbox.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

import structlog

from relay.forward.lease_bound import LeaseEnded, post_within_lease
from relay.forward.queue_holder import QueueHolder
from relay.forward.state_log import StateLog
from relay.forward.timestamps import corrected_bodies
from relay.forward.upstream import BatchSender
from relay.outbox import Claimed, ClaimPart, Dead, Outbox, OutboxError, Settled
from relay.policy.backoff import full_jitter
from relay.policy.device_queue import may_forget
from relay.policy.limits import Limits
from relay.policy.requests import Reply, Send, Wait, count_fitting, request_body
from relay.policy.schedule import Schedule
from relay.policy.true_time import EARLIEST_MS, TrueTimes
from relay.policy.verdict import (
    BatchTooLarge,
    Delivered,
    EventsRejected,
    Failing,
    NoResponse,
    Resend,
    UpstreamResponse,
    is_from_api,
    server_date_ms,
    verdict,
)
from relay.runtime.clock import Clock, rfc3339
from relay.runtime.metrics import Metrics
from relay.runtime.spaced_action import SpacedAction
from relay.runtime.tasks import Tasks

log = structlog.get_logger("relay.forward")

_DISK_RETRY_INITIAL_MS = 100
_DISK_RETRY_MAX_MS = 5_000
_LEASE_PAUSE_MS = 1_000
"""Pause of device queues after the end of their lease, in case that it is renewed."""
_MAINTENANCE_S = 1.0
_FLUSH_INTERVAL_S = 1.0
_FORGET_AT_ONCE = 500
"""Maximum number of device queues that are forgotten without a pause for other work: about 5 ms."""
_REMEMBERED_PART = 4  # At most this part of outbox.max_devices is for idle known devices.
_FORGET_SHARE = 8
"""Each second at least 1 / _FORGET_SHARE of the idle device queues are examined."""


class Forwarder(QueueHolder):
    """Sends events from the outbox to the upstream."""

    def __init__(
        self, outbox: Outbox, schedule: Schedule, client: BatchSender, clock: Clock, metrics: Metrics, tasks: Tasks
    ) -> None:
        super().__init__(schedule, clock)
        self._outbox = outbox
        self._client = client
        self._metrics = metrics
        self._tasks = tasks
        self._flushes = SpacedAction(self._flush, _FLUSH_INTERVAL_S)

        self._state_log = StateLog(metrics)
        self.true_times = TrueTimes(client.origins())
        self._clock_was_never_set = False
        """Whether an event was received while the wall clock was before the first release of the relay."""
        self._asked_the_time: set[str] = set()
        """Upstream origins that responded to a request for the time."""
        self._claim_failures = 0
        self._claim_again_at = 0
        """Monotonic time in milliseconds before which no events are claimed, after a failed claim."""
        self._sending = 0
        """Number of requests with events that are not settled."""

    # -- calls of the outbox and the service -----------------------------------------------------

    def may_forget(self, window: bytes) -> bool:
        """See Outbox.open."""
        return may_forget(window, self._clock.monotonic_ms(), self._schedule.limits.window_ms)

    def flush(self) -> None:
        """Send pending events now, within the limits. End all pauses that no server requested.

        A flush processes every device queue and probes failing endpoints, so there is at most one in a second.
        """
        self._flushes.request()

    def _flush(self) -> None:
        self._schedule.flush(self._clock.monotonic_ms())
        self._changed.set()

    def network_changed(self) -> None:
        """Try now, on new connections, because the network of this machine changed."""
        self._client.reconnect()
        self._schedule.flush(self._clock.monotonic_ms())
        self._changed.set()

    def configure(self, limits: Limits) -> None:
        """Apply new limits, also to pending events. End all pauses that no server requested.

        Configure the client with the new endpoints before this call.
        """
        self.true_times.configure(self._client.origins())
        self._asked_the_time &= set(self._client.origins())
        self._schedule.configure(limits, self._clock.monotonic_ms())
        self._changed.set()

    @property
    def clock_skew_ms(self) -> int | None:
        """Return how far the wall clock is ahead of the true time in milliseconds, or None if that is unknown."""
        return self.true_times.skew_ms(self._clock.monotonic_ms(), self._clock.wall_ms())

    def timestamp(self) -> str:
        """Return the timestamp for an event received now: the wall time, corrected if it is known to be wrong."""
        wall_ms = self._clock.wall_ms()
        if wall_ms < EARLIEST_MS:
            self._clock_was_never_set = True
        return rfc3339(self.true_times.timestamp_ms(self._clock.monotonic_ms(), wall_ms))

    # -- the loop ----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Send events as soon as the schedule allows it. Never returns."""
        self._schedule.start(self._client.distinct_tenants(), self._clock.monotonic_ms(), self._clock.chance())
        while True:
            self._changed.clear()
            until = self._start_requests()
            await self._wait(until)

    async def drain(self) -> None:
        """Send all pending events once, within the limits. Return when no request is left.

        Batches without events do not count.

        The caller stops `run` before and limits the time.
        """
        self._schedule.flush(self._clock.monotonic_ms())
        while True:
            self._changed.clear()
            until = self._start_requests()
            if until is not None and until <= self._clock.monotonic_ms():
                await asyncio.sleep(0)  # The schedule continues the flush.
            elif self._sending:
                await self._changed.wait()
            else:
                return

    async def maintain(self) -> None:
        """Forget idle device queues regularly, in proportion to their number. Never returns."""
        unforgotten: list[int] = []
        while True:
            await asyncio.sleep(_MAINTENANCE_S)
            remembered = (now := self._outbox.gauges()).max_devices // (_REMEMBERED_PART * max(1, len(now.replicas)))
            for _ in range(1 + self._schedule.idle_queues() // (_FORGET_SHARE * _FORGET_AT_ONCE)):
                unforgotten += self._schedule.forget_idle(self._clock.monotonic_ms(), _FORGET_AT_ONCE, remembered)
                unforgotten = await self._forget(unforgotten)
            self._state_log.forget(self._schedule.has_endpoint)

    async def _forget(self, idle: list[int]) -> list[int]:
        """Forget idle device queues in the outbox. Return those to forget later, because the disk fails."""
        try:
            await (self._outbox.forget(idle) if idle else asyncio.sleep(0))
        except OutboxError as error:
            log.debug("idle device queues cannot be removed now", queues=len(idle), error=str(error))
            return idle
        return []

    def _start_requests(self) -> int | None:
        """Start all requests that the schedule allows now. Return the time of the next one, None if unknown."""
        while True:
            now = self._clock.monotonic_ms()
            if now < self._claim_again_at:
                return self._claim_again_at
            step = self._schedule.next(now)
            if isinstance(step, Wait):
                return step.until
            self._sending += bool(step.shares)
            sending = self._send(step, now) if step.shares else self._ask(step, now)
            self._tasks.start(f"send tenant {step.tenant_id}", sending)

    async def _wait(self, until: int | None) -> None:
        """Wait for a change, at most until a monotonic time in milliseconds."""
        timer = None
        if until is not None:
            delay_s = max(0, until - self._clock.monotonic_ms()) / 1000
            timer = asyncio.get_running_loop().call_later(delay_s, self._changed.set)
        try:
            await self._changed.wait()
        finally:
            if timer is not None:
                timer.cancel()

    # -- one request ---------------------------------------------------------------------------------

    async def _send(self, send: Send, chosen_at: int) -> None:
        try:
            if self._clock_was_never_set and not await self._learns_the_time(send, chosen_at):
                return
            claimed = await self._claim(send, chosen_at)
            if claimed is not None:
                await self._exchange(send, claimed, chosen_at)
        finally:
            self._sending -= 1
            self._schedule.settled(send, self._clock.monotonic_ms())
            self._changed.set()

    async def _learns_the_time(self, send: Send, chosen_at: int) -> bool:
        """Return whether the claimed events may be sent. Otherwise apply the response to an empty batch to them.

        If the relay inserted timestamps from a clock that was never set, it first requests the time from each upstream
        origin once, with an empty batch. Otherwise it would send wrong timestamps. A working upstream rejects an empty
        batch.
        """
        clock, origin = self._clock, self._client.origin(send.tenant_id)
        if origin in self._asked_the_time or self.true_times.now_ms(origin, clock.monotonic_ms()) is not None:
            return True
        request = request_body([])
        response = await self._post(send, request, 0, fresh=True)
        if not isinstance(response, NoResponse):
            self._asked_the_time.add(origin)
        meaning = verdict(response, 0)
        now = clock.monotonic_ms()
        if isinstance(meaning, Delivered | EventsRejected | BatchTooLarge):
            self._schedule.count_request(send, now)
            return True
        claimed = {share.queue_id: share.max_events - len(share.omitted) for share in send.shares}
        reply = Reply(claimed, len(request), meaning, chosen_at)
        self._schedule.responded(send, reply, now, clock.chance())
        self._state_log.note(self._schedule.endpoint(send), now)
        return False

    async def _ask(self, send: Send, chosen_at: int) -> None:
        """Send a batch without events, whose response shows whether the API responds at all."""
        request = request_body([])
        response = await self._post(send, request, 0, fresh=True)
        now, reply = self._clock.monotonic_ms(), Reply({}, len(request), verdict(response, 0), chosen_at)
        self._state_log.note(self._schedule.answered(send, reply, now, self._clock.chance()), now)
        self._changed.set()

    async def _claim(self, send: Send, chosen_at: int) -> Sequence[Claimed] | None:
        """Claim events and return them, or None if the outbox cannot be read now."""
        parts = self._parts(send)
        if not parts:
            return None
        try:
            origin = self._client.origin(send.tenant_id)
            claimed = await self._outbox.claim(parts, self.true_times.now_ms(origin, self._clock.monotonic_ms()))
        except OutboxError as error:
            # The upstream may have received these events before, so their timestamps must not change.
            self._outbox.release([part.queue_id for part in parts], perhaps_delivered=True)
            self._schedule.pause(send, self._after_failed_claim(chosen_at, str(error)))
            return None
        self._claim_failures = 0
        return claimed

    def _after_failed_claim(self, chosen_at: int, message: str) -> int:
        """Return the monotonic time in milliseconds of the next claim of any queue, because all share the disk.

        Concurrent failures count as one.
        """
        if chosen_at >= self._claim_again_at:
            if self._claim_failures == 0:
                log.warning("outbox cannot be read, sending is delayed", error=message)
            wait_ms = full_jitter(
                self._claim_failures, _DISK_RETRY_INITIAL_MS, _DISK_RETRY_MAX_MS, self._clock.chance()
            )
            self._claim_again_at = self._clock.monotonic_ms() + wait_ms
            self._claim_failures += 1
        return self._claim_again_at

    def _parts(self, send: Send) -> list[ClaimPart]:
        """Return for each device queue the number of events that fit into the request, by their sizes."""
        now = self._clock.monotonic_ms()
        parts: list[ClaimPart] = []
        used_bytes = 0
        for share in send.shares:
            sizes = self._outbox.sizes(share.queue_id, share.max_events)
            events = (
                len(sizes) if send.exact else count_fitting(sizes, share.max_events, send.max_body_bytes, used_bytes)
            )
            if events:
                used_bytes += sum(sizes[:events]) + events
                omitted = {event.seq: event.cause and Dead(*event.cause) for event in share.omitted}
                parts.append(ClaimPart(share.queue_id, events, self._schedule.window_of(share.queue_id, now), omitted))
        return parts

    async def _exchange(self, send: Send, claimed: Sequence[Claimed], chosen_at: int) -> None:
        queue_ids = [part.queue_id for part in claimed]
        bodies = [body for part in claimed for body in corrected_bodies(part)]
        if not bodies:
            self._outbox.release(queue_ids)
            return
        request = request_body(bodies)
        # An exact request may repeat a request that failed on a closed kept-alive connection. Use a new connection.
        post = partial(self._post, send, request, len(bodies), fresh=send.exact)
        response = await post_within_lease(self._outbox, self._clock, self._tasks, post)
        now = self._clock.monotonic_ms()
        if isinstance(response, LeaseEnded):
            if response.was_sent:
                self._metrics.upstream_requests.labels("error").inc()
                self._schedule.count_request(send, now)
            self._outbox.release(queue_ids, perhaps_delivered=response.was_sent)
            self._schedule.pause(send, now + _LEASE_PAUSE_MS, now if response.was_sent else None)
            return
        reply = Reply(
            {part.queue_id: len(part.seqs) for part in claimed},
            len(request),
            verdict(response, len(bodies)),
            chosen_at,
            {part.queue_id: part.seqs for part in claimed},
        )
        outcomes = self._schedule.responded(send, reply, now, self._clock.chance())
        self._changed.set()  # The next request may start. Its claim follows the settlement of this one.
        self._state_log.note(self._schedule.endpoint(send), now)
        settled = [
            Settled(
                outcome.queue_id,
                outcome.delivered,
                {index: Dead(*cause) for index, cause in outcome.dead_letters.items()},
                self._schedule.window_of(outcome.queue_id, now),
            )
            for outcome in outcomes
        ]
        ended = {outcome.queue_id for outcome in outcomes}
        if unsettled := [queue_id for queue_id in queue_ids if queue_id not in ended]:
            was_sent = not (isinstance(response, NoResponse) and response.never_sent)
            perhaps_delivered = was_sent and isinstance(reply.verdict, Failing | Resend)
            self._outbox.release(unsettled, perhaps_delivered=perhaps_delivered)
        if settled:
            await self._settle(send, settled)
            if reordered := sum(outcome.reordered for outcome in outcomes):
                self._metrics.events_reordered.inc(reordered)
            if self._metrics.feed.is_followed:
                self._report_delivered(claimed, settled)

    def _report_delivered(self, claimed: Sequence[Claimed], settled: Sequence[Settled]) -> None:
        dead = {outcome.queue_id: outcome.dead for outcome in settled if outcome.delivered}
        for part in claimed:
            if part.queue_id in dead:
                delivered = [body for at, body in enumerate(part.bodies) if at not in dead[part.queue_id]]
                self._metrics.feed.changed("delivered", delivered)

    async def _post(self, send: Send, request: bytes, events: int, *, fresh: bool) -> UpstreamResponse | NoResponse:
        self._metrics.upstream_batch_events.observe(events)
        self._metrics.upstream_batch_bytes.observe(len(request))
        origin = self._client.origin(send.tenant_id)
        sent_at = self._clock.monotonic_ms()
        response = await self._client.post(send.tenant_id, request, partial(self._silent, send), fresh=fresh)
        received_at = self._clock.monotonic_ms()
        self._metrics.upstream_request_duration_seconds.observe((received_at - sent_at) / 1000)
        if isinstance(response, NoResponse):
            self._metrics.upstream_requests.labels("error").inc()
            return response
        self._metrics.upstream_requests.labels(self._metrics.code(response.status)).inc()
        date_ms = server_date_ms(response.headers)
        # A reload may have changed the endpoint during the request.
        if date_ms is not None and is_from_api(response) and origin == self._client.origin(send.tenant_id):
            self.true_times.learn(origin, date_ms, sent_at, received_at, self._clock.wall_ms())
        return response

    def _silent(self, send: Send, silent_ms: int) -> None:
        if self._schedule.silent(send, silent_ms, self._clock.monotonic_ms()):
            self._changed.set()

    async def _settle(self, send: Send, settled: Sequence[Settled]) -> None:
        """Store the outcome of a response. Retry without limit, because the upstream may have accepted the events."""
        attempt = 0
        while True:
            try:
                await self._outbox.settle(settled)
                return
            except OutboxError as error:
                if attempt == 0:
                    log.warning("outbox cannot be written, the settlement is retried", error=str(error))
                    self._schedule.settlement_failed(send)
                wait_ms = full_jitter(attempt, _DISK_RETRY_INITIAL_MS, _DISK_RETRY_MAX_MS, self._clock.chance())
                await asyncio.sleep(wait_ms / 1000)
                attempt += 1
