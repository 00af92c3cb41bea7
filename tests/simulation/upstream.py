"""A simulated upstream with the limits of the real framework, the faults of the plan and a record of all requests.

A request arrives at some moment between send and response. The limiters are fixed windows from their first request,
and a rejected request does not count. The upstream accepts events at their arrival: if the response is lost, the result
is unknown to the relay only.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from random import Random
from typing import Literal

import msgspec
from relay.policy.verdict import NoResponse, UpstreamResponse

from tests.simulation.virtual import START_MS, SimClock
from tests.simulation.watch import Watch

EventKey = tuple[int, int]
"""The identity of an event: (device, number)."""
Flaw = Literal["", "named", "from 1", "unnamed", "crash", "403", "404", "501", "302", "reset", "page"]
"""What an event makes the upstream do. "from 1": count from 1 when it names the event. "page": respond 200 with a web
page, as a firewall or portal does."""
CHECK_S = 0.25
TIMEOUT_S = 30.0
HTML = b"<html><head><title>503</title></head><body>Service Unavailable</body></html>"


class SimEvent(msgspec.Struct, frozen=True, omit_defaults=True):
    """The fields of an event that the simulation reads."""

    device: int
    n: int
    tenant: int
    flaw: Flaw = ""
    pad: str = ""
    occurred_at: str = ""


class _Body(msgspec.Struct):
    events: list[SimEvent]


@dataclass(slots=True)
class Fault:
    """A fault from `since` until `until`, in milliseconds of true time."""

    kind: Literal[
        "refused", "unstable", "blackhole", "silent device", "503", "401", "404", "database", "brownout",
        "event brownout", "firewall", "lossy", "429 device", "429 device limit",
    ]  # fmt: skip
    """"unstable": at random, a request does not leave the machine or its connection is reset before it arrives.

    "database": 500 to every request with events. "brownout": 500 to 80 % of all requests. "event
    brownout": the same for requests with events. "firewall": 403 to requests
    with event 0 of the devices.

    "429 device limit": every second request is rejected, and the response names the limit of the device.
    """
    since: int
    until: int
    tenant: int | None = None
    """The affected tenant; None: all tenants."""
    devices: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Origin:
    """The upstream origin of a tenant."""

    name: str
    date_off_ms: int = 0
    """Error of its clock in milliseconds; positive: ahead."""


DEFAULT_ORIGIN = Origin("https://events.example:443")


@dataclass(slots=True)
class Request:
    """One request from its first byte to the end of its response."""

    sent_at: int
    tenant: int
    events: list[SimEvent]
    body_bytes: int
    at: int = -1
    """Time of arrival at the upstream; -1 if it did not arrive."""
    response: UpstreamResponse | None = None
    """None if the upstream does not respond."""
    returned_at: int | None = None
    """Time at which the relay received the response."""

    @property
    def keys(self) -> list[EventKey]:
        return [(event.device, event.n) for event in self.events]

    @property
    def status(self) -> int:
        return self.response.status if self.response else 0


@dataclass
class Limiter:
    """A fixed window from its first request. Rejected requests do not count."""

    limit: int
    window_ms: int
    counts: dict[object, tuple[int, int]] = field(default_factory=dict)

    def limited_for_ms(self, key: object, now: int) -> int | None:
        """Count a request and return None, or return the remaining time of the window if the limit is reached."""
        opened, count = self.counts.get(key, (now, 0))
        if now - opened >= self.window_ms:
            opened, count = now, 0
        if count >= self.limit:
            return self.window_ms - (now - opened)
        self.counts[key] = (opened, count + 1)
        return None


class SimUpstream:
    """The forwarder's BatchSender in the simulation."""

    def __init__(
        self,
        clock: SimClock,
        rng: Random,
        *,
        device_limit: int = 120,
        ip_limit: int | None = None,
        sends_retry_after: bool = True,
        max_body_bytes: int = 1 << 20,
        latency_ms: tuple[int, int] = (5, 200),
        faults: list[Fault] | None = None,
        origins: Mapping[int, Origin] | None = None,
        trace: Callable[..., None] = lambda *_: None,
        watch: Watch,
    ) -> None:
        self.clock = clock
        self.faults = faults or []
        self.device_limiter = Limiter(device_limit, 60_000)
        self.ip_limiter = Limiter(ip_limit, 60_000) if ip_limit else None
        self.sends_retry_after = sends_retry_after
        self.max_body_bytes = max_body_bytes
        self.latency_ms = latency_ms
        self.sent: list[Request] = []
        self.arrivals: list[Request] = []
        self.accepted: dict[EventKey, list[Request]] = defaultdict(list)
        self.tries: dict[EventKey, list[int]] = defaultdict(list)
        """Times at which each bad event arrived in a request of its own."""
        self.origin_of = origins or {}
        self.asked_at: list[tuple[int, int]] = []
        """Time and tenant of each request without events."""
        self._rng = rng
        self._trace = trace
        self._watch = watch

    def origin(self, tenant_id: int) -> str:
        return self.origin_of.get(tenant_id, DEFAULT_ORIGIN).name

    def origins(self) -> Sequence[str]:
        return list(dict.fromkeys(origin.name for origin in (DEFAULT_ORIGIN, *self.origin_of.values())))

    def distinct_tenants(self) -> Sequence[int | None]:
        return [None, *self.origin_of]

    def reconnect(self) -> None:
        """See BatchSender. The simulation has no connections."""

    async def post(
        self, tenant_id: int, body: bytes, silent: Callable[[int], None], *, fresh: bool = False
    ) -> UpstreamResponse | NoResponse:
        request = Request(self.clock.true_ms(), tenant_id, msgspec.json.decode(body, type=_Body).events, len(body))
        if request.events:
            self.sent.append(request)
        self._watch.sent(request, self.origin(tenant_id))

        loop = asyncio.get_running_loop()

        def check() -> None:
            nonlocal timer
            silent(self.clock.true_ms() - request.sent_at)
            timer = loop.call_later(CHECK_S, check)

        timer = loop.call_later(CHECK_S, check)
        try:
            return await (self._exchange(request) if request.events else self._empty_request(tenant_id))
        finally:
            timer.cancel()
            silent(0)
            self._watch.responded(request)

    async def _exchange(self, request: Request) -> UpstreamResponse | NoResponse:
        loop, tenant_id = asyncio.get_running_loop(), request.tenant
        there_ms, back_ms = (self._rng.randint(*self.latency_ms) for _ in range(2))
        unstable = self._has_fault("unstable", tenant_id)
        if self._has_fault("refused", tenant_id) or (unstable and self._rng.random() < 0.3):
            await asyncio.sleep(0.001)
            self._watch.unreachable(self.origin(tenant_id))
            return NoResponse("cannot connect: Connection refused", never_sent=True, is_unreachable=True)
        if unstable:
            await asyncio.sleep(0.001)
            return NoResponse("connection failed: Connection reset by peer")
        arrived: asyncio.Future[None] = loop.create_future()
        # A sent request arrives even if the relay crashes.
        loop.call_later(there_ms / 1000, self._arrive, request, arrived)
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await arrived
                if request.response is None:
                    if any(event.flaw == "reset" for event in request.events):
                        return NoResponse("connection failed: Connection reset by peer")
                    await loop.create_future()
                await asyncio.sleep(back_ms / 1000)
        except TimeoutError:
            return NoResponse("no response within 30 s")
        request.returned_at = self.clock.true_ms()
        self._watch.reachable(self.origin(tenant_id))
        assert request.response is not None
        return request.response

    async def _empty_request(self, tenant_id: int) -> UpstreamResponse | NoResponse:
        """Respond to a request without events, which the relay sends to learn the time or the cause of a failure."""
        if self._has_fault("refused", tenant_id):
            self._watch.unreachable(self.origin(tenant_id))
            return NoResponse("cannot connect: Connection refused", never_sent=True, is_unreachable=True)
        self.asked_at.append((self.clock.true_ms(), tenant_id))
        await asyncio.sleep(0.02)
        response = self._failure(tenant_id)
        if response is None:
            await asyncio.sleep(TIMEOUT_S)
            return NoResponse("no response within 30 s")
        self._watch.reachable(self.origin(tenant_id))
        return self._dated(response, tenant_id)

    def _failure(self, tenant_id: int, events: Sequence[SimEvent] = ()) -> UpstreamResponse | None:
        """Return the response of a failing upstream; None if it does not respond. A 422 means that it works."""
        if self._has_fault("blackhole", tenant_id):
            return None
        if self._has_fault("503", tenant_id):
            return self._respond(self._rng.choice([502, 503, 504]), HTML)
        if self._has_fault("401", tenant_id):
            return self._respond(401, b'{"success":false,"error":"Invalid or missing API key"}')
        if self._has_fault("404", tenant_id):
            return self._respond(404, b'{"message":"Not Found"}')
        is_flaky = self._has_fault("brownout", tenant_id) or (events and self._has_fault("event brownout", tenant_id))
        if (events and self._has_fault("database", tenant_id)) or (is_flaky and self._rng.random() < 0.8):
            return self._respond(500, b'{"message":"Server Error"}')
        return self._respond(422, b'{"message":"The events field is required."}')

    def _arrive(self, request: Request, arrived: asyncio.Future[None]) -> None:
        request.at = self.clock.true_ms()
        self.arrivals.append(request)
        self._watch.arrived(request)
        response = self._response(request)
        request.response = None if response is None else self._dated(response, request.tenant)
        self._trace("arrival", request.at, request.tenant, request.keys[0], len(request.events), request.status)
        if not arrived.done():
            arrived.set_result(None)

    def _response(self, request: Request) -> UpstreamResponse | None:
        tenant_id, events, now = request.tenant, request.events, request.at
        device = events[0].device
        if any(self._has_fault("silent device", tenant_id, number) for number in {event.device for event in events}):
            return None
        failure = self._failure(tenant_id, events)
        if failure is None or failure.status != 422:
            return failure
        if request.body_bytes > self.max_body_bytes:
            return self._respond(413, b"<html><h1>413 Request Entity Too Large</h1></html>")
        for limiter, key in ((self.device_limiter, device), (self.ip_limiter, "ip")):
            limited_for_ms = limiter.limited_for_ms(key, now) if limiter else None
            if limited_for_ms is not None:
                return self._too_many(limited_for_ms)
        if self._has_fault("429 device", tenant_id, device):
            return self._too_many(self._rng.randrange(60_000))
        if self._has_fault("429 device limit", tenant_id, device) and len(self.arrivals) % 2:
            headers = {"x-ratelimit-limit": str(self.device_limiter.limit)}
            return self._respond(429, b'{"success":false,"error":"Too many requests"}', headers)
        flaws = [event.flaw for event in events if event.flaw]
        if any(event.n == 0 and self._has_fault("firewall", tenant_id, event.device) for event in events):
            flaws = ["403"]
        if flaws:
            if len(events) == 1:
                self.tries[request.keys[0]].append(now)
            return self._rejection(flaws[0], events)
        self._watch.accepted(request)
        for key in request.keys:
            self.accepted[key].append(request)
        if self._has_fault("lossy", tenant_id) and self._rng.random() < 0.3:
            return None
        return self._respond(202, b'{"success":true}')

    def _rejection(self, flaw: Flaw, events: list[SimEvent]) -> UpstreamResponse | None:
        """Return the response to a request with bad events, the first of which has this flaw; None for a reset."""
        match flaw:
            case "named" | "from 1" | "unnamed":
                return self._respond(422, _validation(events))
            case "crash":
                return self._respond(500, b'{"message":"Server Error"}')
            case "reset":
                return None
            case "page":
                return self._respond(200, b"<html><body>Request blocked</body></html>")
            case "302":
                return self._respond(302, b"", {"location": "https://portal.example/login"})
            case _:
                return self._respond(int(flaw), b"<html><body>Request blocked</body></html>")

    def _too_many(self, limited_for_ms: int) -> UpstreamResponse:
        headers = {"retry-after": str(-(-limited_for_ms // 1000))} if self.sends_retry_after else {}
        return self._respond(429, b'{"success":false,"error":"Too many requests"}', headers)

    def _respond(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> UpstreamResponse:
        return UpstreamResponse(status, headers or {}, body, self.clock.wall_ms())

    def _dated(self, response: UpstreamResponse, tenant_id: int) -> UpstreamResponse:
        """Return the response with the Date that the clock of the tenant's origin shows."""
        date_ms = START_MS + self.clock.true_ms() + self.origin_of.get(tenant_id, DEFAULT_ORIGIN).date_off_ms
        return replace(response, headers={**response.headers, "date": formatdate(date_ms // 1000, usegmt=True)})

    def _has_fault(self, kind: str, tenant_id: int, device: int | None = None) -> bool:
        now = self.clock.true_ms()
        return any(
            fault.kind == kind
            and fault.since <= now < fault.until
            and fault.tenant in (None, tenant_id)
            and (device is None or device in fault.devices)
            for fault in self.faults
        )


def _validation(events: list[SimEvent]) -> bytes:
    """Return the body of a 422, which names the bad events unless one of them has an unnamed flaw."""
    if any(event.flaw == "unnamed" for event in events):
        return b'{"message":"The given data was invalid.","errors":{"events":["The events field is required."]}}'
    named = [i + (event.flaw == "from 1") for i, event in enumerate(events) if event.flaw]
    errors = {f"events.{i}.event_type": ["is invalid"] for i in named}
    return msgspec.json.encode({"message": "The given data was invalid.", "errors": errors})
