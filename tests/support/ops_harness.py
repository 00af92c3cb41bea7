"""Ops over an outbox and a schedule that stand still; `conftest` serves it on a loopback port."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiohttp import ClientSession
from relay.ops.history import History
from relay.ops.live import Live
from relay.ops.server import Ops
from relay.ops.status import Status
from relay.outbox import DeadLetter, Gauges, Ledger, OutboxFull, Selection
from relay.policy.endpoint import EndpointState
from relay.policy.overview import EndpointView, QueueSummary, QueueView
from relay.runtime.metrics import Metrics

STARTED_MS = 5_000
"""Monotonic."""


WRITABLE = Gauges(4096, 1 << 20, 0, writable=True, dead_letters=0, problem="")


class StillClock:
    """Monotonic 5 s at the start; the wall clock can be set."""

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
    shown_routes: list[EndpointView] = field(default_factory=list)
    busy: list[QueueView] = field(default_factory=list)
    held: list[QueueView] = field(default_factory=list)

    idle_lanes: int = 0
    looks: int = 0
    """How often all lanes were looked at."""
    viewed: int = 0
    """How many views of routes were made."""

    def states(self) -> Mapping[EndpointState, int]:
        return Counter(route.state for route in self.shown_routes)

    def endpoints(self, now: int, first: Collection[int], others: int) -> list[EndpointView]:
        strangers = [route for route in self.shown_routes if route.tenant_id not in first]
        strangers.sort(key=lambda route: len(self.shown_routes) > others and route.state == "ok")
        chosen = {*first, *(route.tenant_id for route in strangers[:others])}
        views = [route for route in self.shown_routes if route.tenant_id in chosen]
        self.viewed += len(views)
        return views

    def queues(self, limit: int, now: int) -> QueueSummary:
        self.looks += 1
        known = self.idle_lanes + len(self.busy)
        return QueueSummary(known, len(self.busy), len(self.held), self.busy[:limit], self.held[:limit])


@dataclass
class DeadLetterOutbox:
    """What ops uses of an outbox: totals, and dead letters that can be chosen."""

    totals: Ledger = field(default_factory=Ledger)
    state: Gauges = field(default_factory=lambda: WRITABLE)
    letters: dict[int, DeadLetter] = field(default_factory=dict)
    requeued: list[int] = field(default_factory=list)
    fails: bool = False

    def ledger(self) -> Ledger:
        return self.totals

    def gauges(self) -> Gauges:
        return self.state._replace(dead_letters=len(self.letters))

    async def dead_letters(self, selection: Selection, limit: int, after: int = 0) -> Sequence[DeadLetter]:
        return [letter for letter in self._chosen(selection) if letter.id > after][:limit]

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
    """Ops on a loopback port; `call` asks it."""

    def __init__(self) -> None:
        self.clock = StillClock()
        self.schedule = StillSchedule()
        self.outbox = DeadLetterOutbox()
        self.control = FlushCounter()
        self.metrics = Metrics()
        self.refreshed = 0
        self.history = History(self.outbox, self.metrics, self.clock)  # type: ignore[arg-type]
        self.tenants: list[int] = []
        self.clock_skew_ms: int | None = 1_500
        self.status = Status(
            self.outbox,  # type: ignore[arg-type]
            self.schedule,
            self.history,
            self.clock,
            refusals=self.metrics.rejections,
            disk_free_bytes=lambda: 1 << 30,
            tenants=lambda: self.tenants,
            clock_skew_ms=lambda: self.clock_skew_ms,
        )
        self.live = Live(self.status, self.history, self.clock, self.metrics)
        self.ops = Ops(
            status=self.status,
            live=self.live,
            outbox=self.outbox,  # type: ignore[arg-type]
            control=self.control,
            token=None,
            metrics=self.metrics,
            refresh=self._refresh,
        )
        self.base = ""
        self.session: ClientSession

    def _refresh(self) -> None:
        self.refreshed += 1

    async def call(self, path: str, method: str = "GET", **options: Any) -> Response:
        async with self.session.request(method, self.base + path, **options) as answer:
            return Response(answer.status, answer.headers, await answer.read())

    async def post(self, path: str, data: Any, **headers: str) -> Response:
        body = data if isinstance(data, bytes) else json.dumps(data).encode()
        return await self.call(path, "POST", data=body, headers={"Content-Type": "application/json", **headers})
