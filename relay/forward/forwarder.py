"""Asks the schedule what to send, moves the batches, and settles what became of them.

One request's way: schedule.next -> outbox.take (journalled and read in one commit) -> upstream.post
-> verdict -> schedule.responded -> outbox.settle -> schedule.settled. A slot of `upstream.max_in_flight`
is free again with the answer, and the next request's take shares the commit of this one's settle. The
outbox keeps their order, and a request whose settlement fails takes a slot again until it is on disk: so
what the upstream may have taken and the disk does not know of is never more than what may be in flight.

What happens to a batch in flight
- at SIGTERM: `drain` waits for its answer within `shutdown.drain`, and settles it. What has no
  answer by then is abandoned: it stays journalled.
- at kill -9: its journal entry is on disk since before the first byte left. The next start sends
  the same events again, first, and counts the request in the device's window.
- when the disk fails after the upstream's yes: the settlement is tried again until it is on disk.

It must not know what a status code means, or how an outbox stores.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

import structlog

from relay.forward.timestamps import corrected
from relay.forward.upstream import BatchSender
from relay.outbox import Backlog, Claimed, ClaimPart, Dead, Outbox, OutboxError, RestoredState, Settled
from relay.policy import batch
from relay.policy.backoff import full_jitter
from relay.policy.limits import Limits
from relay.policy.requests import Reply, Send, Share, Wait
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
from relay.runtime.log import Gate
from relay.runtime.metrics import Metrics
from relay.runtime.tasks import Tasks

log = structlog.get_logger("relay.forward")

_DISK_RETRY_INITIAL_MS = 100
_DISK_RETRY_MAX_MS = 5_000
_HOUSEKEEPING_S = 1.0
_STATE_LINE_MS, _STATE_LINES = 10_000, 16
"""So often a tenant is said to be in one state, and so many of them: apps can make up tenants without end."""
_FORGET_AT_ONCE = 500


class Forwarder:
    """Moves events from the outbox to the upstream for as long as it runs."""

    def __init__(
        self, outbox: Outbox, schedule: Schedule, client: BatchSender, clock: Clock, metrics: Metrics, tasks: Tasks
    ) -> None:
        self._outbox = outbox
        self._schedule = schedule
        self._client = client
        self._clock = clock
        self._metrics = metrics
        self._tasks = tasks
        self._changed = asyncio.Event()
        self._draining = False
        self._states: dict[int, str] = {}
        self._state_gate = Gate(metrics.log_lines_suppressed, per_ms=_STATE_LINE_MS, max_keys=_STATE_LINES)
        self.true_times = TrueTimes(client.origins())
        self._clock_was_never_set = False
        """Whether an event was received while the wall clock showed a time before the relay was made."""
        self._asked_the_time: set[str] = set()
        """Upstream origins that responded to the question for the time."""
        self._claim_failures = 0
        self._claim_again_at = 0
        self._sending = 0
        """Requests that are not settled."""

    # -- fed by the outbox and the service -------------------------------------------------------

    @property
    def backlog(self) -> Backlog:
        """To be told of what waits in which lane."""
        return self._backlog

    def _backlog(self, queue_id: int, key: tuple[int, str, str], events: int, body_bytes: int) -> None:
        if self._schedule.backlog(queue_id, key, events, body_bytes, self._clock.monotonic_ms()):
            self._changed.set()

    def restore(self, loaded: RestoredState) -> None:
        """What the outbox knows of before: rate windows, and requests whose fate is unknown."""
        now = self._clock.monotonic_ms()
        for queue in loaded.queues:
            self._schedule.restore(queue.queue_id, queue.key, queue.window, now, same_boot=queue.same_boot)
        self._schedule.resume([[Share(p.queue_id, p.events) for p in parts] for parts in loaded.unsettled], now)
        self._changed.set()

    def flush(self) -> None:
        """Send pending events now, within the limits, and end every pause that no server named."""
        self._schedule.flush(self._clock.monotonic_ms())
        self._changed.set()

    def configure(self, limits: Limits) -> None:
        """Apply other limits, to pending events too, and end every pause that no server named.

        The client has the other endpoints already.
        """
        self.true_times.configure(self._client.origins())
        self._asked_the_time &= set(self._client.origins())
        self._schedule.configure(limits, self._clock.monotonic_ms())
        self._changed.set()

    @property
    def clock_skew_ms(self) -> int | None:
        """How far the wall clock is ahead of the true time, in milliseconds; None while that is unknown."""
        return self.true_times.skew_ms(self._clock.monotonic_ms(), self._clock.wall_ms())

    def stamp(self) -> str:
        """Return the time for an event that is received now without one: the wall clock's, unless that is wrong."""
        wall_ms = self._clock.wall_ms()
        if wall_ms < EARLIEST_MS:
            self._clock_was_never_set = True
        return rfc3339(self.true_times.timestamp_ms(self._clock.monotonic_ms(), wall_ms))

    # -- the loop ----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Send what may be sent, for ever."""
        while True:
            self._changed.clear()
            until = self._send_what_may_be_sent()
            await self._wait(until)

    async def drain(self) -> None:
        """One attempt at everything that waits and may be sent; returns when nothing more may be.

        The caller bounds it in time and has stopped `run` before.
        """
        self._schedule.flush(self._clock.monotonic_ms())
        while True:
            self._changed.clear()
            self._send_what_may_be_sent()
            if not self._sending:
                return
            await self._changed.wait()

    async def maintain(self) -> None:
        """Forget lanes that have nothing left to remember, now and then."""
        while True:
            await asyncio.sleep(_HOUSEKEEPING_S)
            gone = self._schedule.forget_idle(self._clock.monotonic_ms(), _FORGET_AT_ONCE)
            if gone:
                try:
                    await self._outbox.forget(gone)
                except OutboxError as error:
                    # their rows stay until they are used and idle again
                    log.debug("lanes not forgotten", queues=len(gone), error=str(error))

    def _send_what_may_be_sent(self) -> int | None:
        """Start every request that may go now; returns when to ask again."""
        while True:
            now = self._clock.monotonic_ms()
            if now < self._claim_again_at:
                return self._claim_again_at
            step = self._schedule.next(now)
            if isinstance(step, Wait):
                return step.until
            self._sending += 1
            self._tasks.start(f"send tenant {step.tenant_id}", self._send(step, now))

    async def _wait(self, until: int | None) -> None:
        alarm = None
        if until is not None:
            delay_s = max(0, until - self._clock.monotonic_ms()) / 1000
            alarm = asyncio.get_running_loop().call_later(delay_s, self._changed.set)
        try:
            await self._changed.wait()
        finally:
            if alarm is not None:
                alarm.cancel()

    # -- one request ---------------------------------------------------------------------------------

    async def _send(self, send: Send, chosen_at: int) -> None:
        try:
            claimed = await self._claim(send, chosen_at) if await self._knows_the_time(send, chosen_at) else None
            if claimed is not None:
                await self._exchange(send, claimed, chosen_at)
        finally:
            self._sending -= 1
            self._schedule.settled(send, self._clock.monotonic_ms())
            self._changed.set()

    async def _knows_the_time(self, send: Send, chosen_at: int) -> bool:
        """Return whether the events may be sent. If not, the response to a batch without events stands for theirs.

        The relay asks each upstream origin once for the time, if it inserted timestamps by a clock that was never set:
        the origin's events would have that clock's time, or another origin's. A healthy upstream rejects a batch
        without events.
        """
        clock, origin = self._clock, self._client.origin(send.tenant_id)
        if not self._clock_was_never_set or origin in self._asked_the_time:
            return True
        if self.true_times.now_ms(origin, clock.monotonic_ms()) is not None:
            return True
        request = batch.body([])
        response = await self._post(send, request, 0, fresh=True)
        if not isinstance(response, NoResponse):
            self._asked_the_time.add(origin)
        meaning = verdict(response, 0)
        now = clock.monotonic_ms()
        if isinstance(meaning, Delivered | EventsRejected | BatchTooLarge):
            self._schedule.count_request(send.tenant_id, now)
            return True
        reply = Reply(dict(send.shares), len(request), meaning, chosen_at)
        self._schedule.responded(send, reply, now, clock.chance())
        self._log_state_change(send.tenant_id, now)
        return False

    async def _claim(self, send: Send, chosen_at: int) -> dict[int, Sequence[bytes]] | None:
        """The bodies of each lane, journalled as in flight; None if the disk does not give them now."""
        parts = self._parts(send)
        if not parts:
            return None
        try:
            origin = self._client.origin(send.tenant_id)
            claimed = await self._outbox.claim(parts, self.true_times.now_ms(origin, self._clock.monotonic_ms()))
        except OutboxError as error:
            # the upstream may have had them before: their stamps stay as they were sent
            self._outbox.release([part.queue_id for part in parts], perhaps_delivered=True)
            self._schedule.pause(send, self._after_failed_claim(chosen_at, str(error)))
            return None
        self._claim_failures = 0
        return {part.queue_id: _corrected(part) for part in claimed}

    def _after_failed_claim(self, chosen_at: int, message: str) -> int:
        """When anything is taken again: the disk is everybody's. Takes that failed together count once."""
        if chosen_at >= self._claim_again_at:
            if self._claim_failures == 0:
                log.warning("outbox cannot be read, sending waits", error=message)
            wait_ms = full_jitter(
                self._claim_failures, _DISK_RETRY_INITIAL_MS, _DISK_RETRY_MAX_MS, self._clock.chance()
            )
            self._claim_again_at = self._clock.monotonic_ms() + wait_ms
            self._claim_failures += 1
        return self._claim_again_at

    def _parts(self, send: Send) -> list[ClaimPart]:
        """How many of each lane's events fit the request, by their sizes."""
        now = self._clock.monotonic_ms()
        parts: list[ClaimPart] = []
        used_bytes = 0
        for share in send.shares:
            sizes = self._outbox.sizes(share.queue_id, share.max_events)
            events = len(sizes) if send.exact else batch.cut(sizes, share.max_events, send.max_body_bytes, used_bytes)
            if events:
                used_bytes += sum(sizes[:events]) + events
                parts.append(ClaimPart(share.queue_id, events, self._schedule.window_of(share.queue_id, now)))
        return parts

    async def _exchange(self, send: Send, claimed: dict[int, Sequence[bytes]], chosen_at: int) -> None:
        bodies = [body for share in send.shares for body in claimed.get(share.queue_id, ())]
        if not bodies:
            return
        request = batch.body(bodies)
        # An exact request may be one that met a connection about to close: another kept one may be no better.
        response = await self._post(send, request, len(bodies), fresh=send.exact)
        now = self._clock.monotonic_ms()
        reply = Reply(
            {queue_id: len(queue_bodies) for queue_id, queue_bodies in claimed.items()},
            len(request),
            verdict(response, len(bodies)),
            chosen_at,
        )
        outcomes = self._schedule.responded(send, reply, now, self._clock.chance())
        self._changed.set()  # for another request; its take comes after this one's settle
        self._log_state_change(send.tenant_id, now)
        settled = [
            Settled(
                outcome.queue_id,
                outcome.delivered,
                {index: Dead(*cause) for index, cause in outcome.dead_letters.items()},
                self._schedule.window_of(outcome.queue_id, now),
            )
            for outcome in outcomes
        ]
        news = {outcome.queue_id for outcome in outcomes}
        perhaps_delivered = isinstance(reply.verdict, Failing | Resend) and not (
            isinstance(response, NoResponse) and response.never_sent
        )
        self._outbox.release(
            [queue_id for queue_id in claimed if queue_id not in news], perhaps_delivered=perhaps_delivered
        )
        if settled:
            await self._settle(send, settled)

    async def _post(self, send: Send, request: bytes, events: int, *, fresh: bool) -> UpstreamResponse | NoResponse:
        self._metrics.upstream_batch_events.observe(events)
        self._metrics.upstream_batch_bytes.observe(len(request))
        origin = self._client.origin(send.tenant_id)
        sent_at = self._clock.monotonic_ms()
        response = await self._client.post(send.tenant_id, request, partial(self._stalled, send), fresh=fresh)
        received_at = self._clock.monotonic_ms()
        self._metrics.upstream_request_duration_seconds.observe((received_at - sent_at) / 1000)
        if isinstance(response, NoResponse):
            self._metrics.upstream_requests.labels("error").inc()
            return response
        self._metrics.upstream_requests.labels(self._metrics.code(response.status)).inc()
        date_ms = server_date_ms(response.headers)
        # A reload meanwhile may have sent the request elsewhere.
        if date_ms is not None and is_from_api(response) and origin == self._client.origin(send.tenant_id):
            self.true_times.learn(origin, date_ms, sent_at, received_at, self._clock.wall_ms())
        return response

    def _stalled(self, send: Send, stalled: bool) -> None:
        self._schedule.stalled(send, stalled=stalled)
        self._changed.set()

    async def _settle(self, send: Send, settled: Sequence[Settled]) -> None:
        """The upstream has spoken: that must reach the disk, however long the disk takes to heal."""
        attempt = 0
        while True:
            try:
                await self._outbox.settle(settled)
                return
            except OutboxError as error:
                if attempt == 0:
                    log.warning("outbox cannot be written, a settlement waits", error=str(error))
                    self._schedule.settlement_failed(send)
                wait_ms = full_jitter(attempt, _DISK_RETRY_INITIAL_MS, _DISK_RETRY_MAX_MS, self._clock.chance())
                await asyncio.sleep(wait_ms / 1000)
                attempt += 1

    def _log_state_change(self, tenant_id: int, now: int) -> None:
        endpoint = self._schedule.endpoint(tenant_id, now)
        before = self._states.get(tenant_id, "ok")
        if endpoint.state != before:
            self._states[tenant_id] = endpoint.state
            if endpoint.state == "ok":
                del self._states[tenant_id]
            if self._state_gate.admit((tenant_id, endpoint.state), now) is None:
                return
            say = log.info if endpoint.state == "ok" else log.warning
            say("upstream state", tenant_id=tenant_id, state=endpoint.state, was=before, message=endpoint.last_error)


def _corrected(claimed: Claimed) -> Sequence[bytes]:
    """The bodies as they are sent: byte for byte as stored, but for stamps of ours that were wrong."""
    if not claimed.timestamps:
        return claimed.bodies
    bodies = list(claimed.bodies)
    for index, stamp in claimed.timestamps.items():
        bodies[index] = corrected(bodies[index], stamp.true_ms, same_boot=stamp.same_boot)
    return bodies
