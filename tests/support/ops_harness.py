"""The operations interface over an outbox and a schedule with values set by a test.

`conftest` serves it on a loopback port.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiohttp import ClientSession
from relay.ops.event_log import EventLog
from relay.ops.explanations import ConfiguredUpstream
from relay.ops.history import History
from relay.ops.last_hour import Kind
from relay.ops.live import Live
from relay.ops.server import Ops
from relay.ops.status import Facts, Status
from relay.ops.tail import Tail
from relay.outbox import DeadLetter, Gauges, Ledger, OutboxFull, Selection
from relay.policy.overview import EndpointView, QueueSummary, QueueView
from relay.policy.upstream_origin import EndpointState
from relay.runtime.metrics import Metrics

from tests.support.letter_pages import page

STARTED_MS = 5_000
"""Monotonic time of the start."""

WRITABLE = Gauges(4096, 1 << 20, 0, writable=True, dead_letters=0, problem="", devices=3, max_devices=50_000)


FACTS = Facts("box-17", ["127.0.0.1:8080"], ["127.0.0.1:8125"], ["udp"], 7 * 86_400_000, 60_000, 120)


class StillClock:
    """A clock that a test sets. Its monotonic time is 5 s at the start."""

    boot_id = "boot"

    def __init__(self) -> None:
        self.monotonic = STARTED_MS
        self.wall = 0

    def monotonic_ms(self) -> int:
        return self.monotonic

    def wall_ms(self) -> int:
        return self.wall

    def chance(self) -> float:
        return 0.5

    def new_event_id(self) -> str:
        return "00000000-0000-4000-8000-000000000000"


@dataclass
class StillSchedule:
    """A schedule with views set by a test."""

    shown_endpoints: list[EndpointView] = field(default_factory=list)
    freed: dict[int | None, EndpointView] = field(default_factory=dict)
    busy: list[QueueView] = field(default_factory=list)
    paused: list[QueueView] = field(default_factory=list)

    idle_queues: int = 0
    reads: int = 0
    """Number of times all device queues were read."""
    viewed: int = 0
    """Number of endpoint views created."""

    def states(self) -> Mapping[EndpointState, int]:
        return Counter(endpoint.state for endpoint in self.shown_endpoints)

    def endpoints(self, now: int, first: Collection[int | None], others: int) -> list[EndpointView]:
        unlisted = [endpoint for endpoint in self.shown_endpoints if endpoint.tenant_id not in first]
        unlisted.sort(key=lambda endpoint: len(self.shown_endpoints) > others and endpoint.state == "ok")
        chosen = {*first, *(endpoint.tenant_id for endpoint in unlisted[:others])}
        views = [endpoint for endpoint in self.shown_endpoints if endpoint.tenant_id in chosen]
        self.viewed += len(views)
        return views

    def freed_endpoints(self, now: int) -> Mapping[int | None, EndpointView]:
        return self.freed

    def queues(self, limit: int, now: int) -> QueueSummary:
        self.reads += 1
        known = self.idle_queues + len(self.busy)
        tenants = {queue.key[0] for queue in (*self.busy, *self.paused)}
        waiting = Counter(endpoint.state for endpoint in self.shown_endpoints if endpoint.tenant_id in tenants)
        limited = sum(queue.why in ("limit", "rate_limited") for queue in self.paused)
        busy, paused = self.busy[:limit], self.paused[:limit]
        return QueueSummary(known, len(self.busy), len(self.paused), busy, paused, limited, waiting)


@dataclass
class DeadLetterOutbox:
    """The part of an outbox that the operations interface uses: totals and dead letters."""

    totals: Ledger = field(default_factory=Ledger)
    state: Gauges = field(default_factory=lambda: WRITABLE)
    letters: dict[int, DeadLetter] = field(default_factory=dict)
    requeued: list[int] = field(default_factory=list)
    fails: bool = False
    durability = "full"

    def ledger(self) -> Ledger:
        return self.totals

    def gauges(self) -> Gauges:
        return self.state._replace(dead_letters=len(self.letters))

    async def dead_letters(self, selection: Selection, limit: int, after: int = 0) -> Sequence[DeadLetter]:
        found = page([(each.id, each) for each in self._chosen(selection)], after, newest_first=selection.newest_first)
        return [letter for _, letter in found][:limit]

    async def requeue(self, selection: Selection, limit: int) -> int:
        if self.fails:
            raise OutboxFull("the outbox is full: raise outbox.max_size")
        chosen = [letter.id for letter in self._chosen(selection)][:limit]
        self.requeued += chosen
        return self._remove(chosen)

    async def discard(self, selection: Selection, limit: int) -> int:
        return self._remove([letter.id for letter in self._chosen(selection)][:limit])

    async def adopt(self, limit: int) -> int:
        return self._decide(limit)

    async def discard_quarantined(self, limit: int) -> int:
        return self._decide(limit)

    def _decide(self, limit: int) -> int:
        if self.fails:
            raise OutboxFull("the outbox is full: raise outbox.max_size")
        decided = min(limit, self.state.quarantined)
        self.state = self.state._replace(quarantined=self.state.quarantined - decided)
        return decided

    def _chosen(self, selection: Selection) -> list[DeadLetter]:
        assert selection.all or selection.ids or selection.device_id is not None or selection.reason is not None
        return [
            letter
            for letter in self.letters.values()
            if (not selection.ids or letter.id in selection.ids)
            and selection.device_id in (None, letter.device_key[2])
            and selection.reason in (None, letter.reason)
        ]

    def _remove(self, ids: Sequence[int]) -> int:
        for one in ids:
            del self.letters[one]
        return len(ids)


def configured(tenant_id: int | None) -> ConfiguredUpstream:
    """Return an upstream whose URL is in the configuration file and whose key is in a file named there."""
    key = "upstream" if tenant_id is None else f"upstream.tenants.{tenant_id}"
    return ConfiguredUpstream(
        f"https://up.example/{tenant_id or ''}",
        f"{key}.url",
        "file /etc/relay/config.toml",
        f"{key}.api_key",
        f"file /etc/event-relay/key named by {key}.api_key_file",
    )


class FlushCounter:
    def __init__(self) -> None:
        self.flushes = 0

    def flush(self) -> None:
        self.flushes += 1


def dead_letter(number: int, *, device: str = "tv-1", reason: Any = "refused", body: bytes = b"{}") -> DeadLetter:
    return DeadLetter(number, f"id-{number}", (1, "tv", device), reason, 422, "wrong", "2026-11-23T08:00:00.000Z", body)


@dataclass
class Response:
    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Served:
    """The operations interface on a loopback port. `call` sends a request to it."""

    def __init__(self) -> None:
        self.clock = StillClock()
        self.schedule = StillSchedule()
        self.outbox = DeadLetterOutbox()
        self.control = FlushCounter()
        self.metrics = Metrics()
        self.refreshed = 0
        self.history = History(self.outbox, self.metrics, self.clock, self.schedule.states)  # type: ignore[arg-type]
        self.tenants: list[int] = []
        self.last_hour: dict[tuple[Kind, str], int] = {}
        self.clock_skew_ms: int | None = 1_500
        self.status = Status(
            self.outbox,  # type: ignore[arg-type]
            self.schedule,
            self.history,
            self.clock,
            facts=lambda: FACTS,
            rejections=self.metrics.rejections,
            disk_free_bytes=lambda: 1 << 30,
            upstreams=lambda: {tenant_id: configured(tenant_id) for tenant_id in (None, *self.tenants)},
            tenant_names=lambda: {1: "Parlor", 2: "PlayTV"},
            last_hour=lambda: self.last_hour,
            clock_skew_ms=lambda: self.clock_skew_ms,
        )
        self.event_log = EventLog(self.outbox, self.metrics.feed, self.clock)  # type: ignore[arg-type]
        self.live = Live(self.status, self.history, self.clock, self.metrics)
        self.ops = Ops(
            status=self.status,
            live=self.live,
            tail=Tail(self.outbox, self.event_log, self.metrics.feed, self.live, self.clock),  # type: ignore[arg-type]
            outbox=self.outbox,  # type: ignore[arg-type]
            control=self.control,
            token=None,
            metrics=self.metrics,
            refresh=self._refresh,
            configuration=lambda: {"upstream.api_key": {"value": "***", "source": "file /etc/event-relay/key"}},
        )
        self.base = ""
        self.session: ClientSession

    def _refresh(self) -> None:
        self.refreshed += 1

    async def call(self, path: str, method: str = "GET", **options: Any) -> Response:
        async with self.session.request(method, self.base + path, **options) as response:
            return Response(response.status, response.headers, await response.read())

    async def post(self, path: str, data: Any, **headers: str) -> Response:
        body = data if isinstance(data, bytes) else json.dumps(data).encode()
        return await self.call(path, "POST", data=body, headers={"Content-Type": "application/json", **headers})
