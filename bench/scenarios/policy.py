"""The policies alone with a manual clock: decisions per second with 10,000 device queues, and reproducible traces."""

from __future__ import annotations

import gc
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from random import Random
from zlib import crc32

from relay.policy.limits import Limits
from relay.policy.requests import Reply, Send, Wait
from relay.policy.schedule import Schedule
from relay.policy.verdict import Delivered, EventsRejected, Failing, RateLimited, Verdict

from bench.report import Row, at_least, at_most
from bench.setup import Bench

_LIMITS = Limits(
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
_QUEUES = 10_000
_EVENT_BYTES = 400
_API = EventsRejected(422, "422 The events field is required.")
"""The response to a batch without events."""


def policy(bench: Bench) -> Iterator[Row]:
    """Measure the processor time without a trace, so that other work on the machine has no effect."""
    requests = int(bench.size(40_000, 300_000))
    rates = []
    for _ in range(bench.pairs):
        world = _World(seed=7, queue_ids=_QUEUES, requests=requests)
        began = time.process_time()
        world.run()
        rates.append(world.decisions / (time.process_time() - began))
    yield Row(
        "policy decisions, 10,000 device queues",
        statistics.median(rates),
        "/s",
        at_least(200_000),
        (min(rates), max(rates)),
        f"calls of backlog, next, responded and settled per second of processor time; {requests:,} requests a run",
    )
    traces = {_World(seed=7, queue_ids=_QUEUES, requests=requests // 4).traced() for _ in range(2)}
    yield Row("  same seed, same trace: different traces", len(traces) - 1, "", at_most(0))
    yield Row("  longest call of a flush of 100,000 device queues", _longest_call_ms(100_000), "ms", at_most(50))


def _longest_call_ms(queue_ids: int) -> float:
    """Return the processor time of the longest call from a flush until all device queues are ready."""
    schedule, now = Schedule(_LIMITS), 1_000_000
    for queue_id in range(queue_ids):
        schedule.backlog(queue_id, (1, "tv", f"device-{queue_id}"), 1, _EVENT_BYTES, now)
    gc.collect()
    gc.freeze()  # The collector does not belong to the call during which it runs.
    began = time.thread_time()
    schedule.flush(now)
    longest_s = time.thread_time() - began
    step: Send | Wait = Wait(now)
    while isinstance(step, Send) or step.until == now:
        began = time.thread_time()
        step = schedule.next(now)
        longest_s = max(longest_s, time.thread_time() - began)
    gc.unfreeze()
    return longest_s * 1000


class _World:
    """An upstream that accepts nearly every request after 20 ms, and devices that continue to send."""

    def __init__(self, seed: int, queue_ids: int, requests: int) -> None:
        rng = Random(seed)
        self.decisions = 0
        self._requests = requests
        self._schedule = Schedule(_LIMITS)
        self._keys = [(1 + queue_id % 2, "tv", f"device-{queue_id}") for queue_id in range(queue_ids)]
        self._pending = [rng.randrange(1, 50) for _ in range(queue_ids)]
        # The world itself must cost little, because its time counts.
        self._verdicts = cycle([_verdict(rng) for _ in range(10_007)])
        self._draws = cycle([rng.random() for _ in range(10_009)])
        self._arrivals = cycle([(rng.randrange(queue_ids), rng.randrange(1, 20)) for _ in range(10_037)])

    def traced(self) -> int:
        """Run, and return a checksum of all decisions and their times."""
        trace = 0

        def note(now: int, send: Send) -> None:
            nonlocal trace
            trace = crc32(repr((now, send)).encode(), trace)

        self.run(note)
        return trace

    def run(self, note: Callable[[int, Send], None] | None = None) -> None:
        schedule, now, sent = self._schedule, 1_000_000, 0
        self.decisions += len(self._pending)
        for queue_id, events in enumerate(self._pending):
            self._schedule.backlog(queue_id, self._keys[queue_id], events, events * _EVENT_BYTES, now)
        in_flight: deque[tuple[int, Send]] = deque()
        while sent < self._requests:
            self.decisions += 1
            step = schedule.next(now)
            if isinstance(step, Send):
                in_flight.append((now, step))
                sent += 1
                if note:
                    note(now, step)
            elif in_flight:
                sent_at, send = in_flight.popleft()
                now = max(now, sent_at + 20)
                self._respond(send, sent_at, now)
            elif step.until is not None:
                now = max(now, step.until)
            else:
                raise RuntimeError(
                    f"the schedule waits forever: {schedule.endpoints(now)}, {sum(self._pending)} pending"
                )

    def _respond(self, send: Send, sent_at: int, now: int) -> None:
        schedule, pending = self._schedule, self._pending
        if not send.shares:
            schedule.answered(send, Reply({}, 0, _API, sent_at), now, next(self._draws))
            return
        claimed = {queue_id: min(most, pending[queue_id]) for queue_id, most, _ in send.shares}
        reply = Reply(claimed, sum(claimed.values()) * _EVENT_BYTES, next(self._verdicts), sent_at)
        for queue_id, is_delivered, _, _ in schedule.responded(send, reply, now, next(self._draws)):
            if is_delivered:
                self._grow(queue_id, -claimed[queue_id], now)
        for queue_id, events in islice(self._arrivals, 2):
            self._grow(queue_id, events, now)
        schedule.settled(send, now)
        self.decisions += 2

    def _grow(self, queue_id: int, by_events: int, now: int) -> None:
        events = self._pending[queue_id] = self._pending[queue_id] + by_events
        self._schedule.backlog(queue_id, self._keys[queue_id], events, events * _EVENT_BYTES, now)
        self.decisions += 1


def _verdict(rng: Random) -> Verdict:
    draw = rng.random()
    if draw < 0.001:
        return Failing("503 down", None, 503)
    if draw < 0.002:
        return RateLimited("429 slow down", None, None)
    return Delivered()
