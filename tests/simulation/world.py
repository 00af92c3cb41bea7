"""One box or one site with apps, a relay that may crash and an upstream, all created from one seed.

The relay consists of the real Schedule and the real Forwarder over the memory outbox. An app sends the events of its
device in batches, one after the other, and repeats each batch until it gets a 202. `checks` uses the records of the
world.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import islice
from random import Random

import msgspec
from relay.config import OutboxSettings
from relay.event.reader import Event
from relay.forward.forwarder import Forwarder
from relay.outbox import AppendResult, Backlog, ClaimPart, DeadLetter, Ledger, RestoredState, Selection
from relay.policy.limits import Limits
from relay.policy.schedule import Schedule
from relay.policy.upstream_origin import EndpointState
from relay.runtime.metrics import Metrics
from relay.runtime.tasks import TaskFailed, Tasks

from tests.simulation.outbox import SimOutbox
from tests.simulation.upstream import EventKey, Fault, Flaw, Origin, SimEvent, SimUpstream
from tests.simulation.virtual import SimClock
from tests.simulation.watch import Watch

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
MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
_APP_RETRY_MS = 1_000
_SETTLE_MS = 100
_SETTLED_AFTER_HEALING_MS = 6_000
"""Time from the end of disk faults until all outcomes are stored, in milliseconds."""
_FIRST_EXTRA_DEVICE = 1_000_000


@dataclass(slots=True)
class Device:
    """The traffic of one app: a batch of `burst` events every `gap_ms` on average, until the world stops it."""

    number: int
    tenant: int = 1
    gap_ms: int = MINUTE_MS
    burst: int = 1
    backlog: int = 0
    """Additional events at the beginning."""
    flaw: Callable[[int], Flaw] = lambda n: ""
    pad: str = ""
    own_time: str = ""
    """The `occurred_at` of the app; "": the relay inserts the timestamp."""
    offered: int = 0
    """Number of events with a 202, which have the numbers below it."""
    accepted: int = 0
    """Number of events that the upstream accepted, which have the numbers below it."""
    offering: int = 0
    """Size of the batch without a 202; 0: no batch."""


@dataclass(slots=True)
class Crash:
    at: int
    down_ms: int = 1_000
    reboot: bool = False


@dataclass
class Plan:
    """The plan of a run. Times are milliseconds since the beginning."""

    devices: Sequence[Device]
    duration_ms: int = HOUR_MS
    limits: Limits = LIMITS
    crashes: Sequence[Crash] = ()
    faults: list[Fault] = field(default_factory=list)
    origins: Mapping[int, Origin] = field(default_factory=dict)
    """Upstream origins by tenant; all other tenants have the default origin."""
    device_limit: int = 120
    ip_limit: int | None = None
    sends_retry_after: bool = True
    max_body_bytes: int = 1 << 20
    max_devices: int = 50_000
    latency_ms: tuple[int, int] = (5, 200)
    acts: Sequence[tuple[int, Callable[[World], None]]] = ()
    """Actions on the world: (time, action)."""
    drain_ms: int = 3 * HOUR_MS
    """Maximum time from the end of all faults until everything has drained."""
    has_witness: bool = True
    """Whether an additional device of each tenant sends new events meanwhile."""
    site: str = ""
    """The beginning of each device id. It changes the phases of the devices, at which their linger times end."""


@dataclass(frozen=True, slots=True)
class Start:
    at: int
    unsettled: list[list[EventKey]]
    """Events of the requests in flight at the last crash."""


class World:
    def __init__(self, plan: Plan, seed: int) -> None:
        self.plan = plan
        self.seed = seed
        self.rng = Random(seed)
        self.clock = SimClock(Random(self.rng.random()))
        self.watch = Watch(plan.limits, self.ledger)
        self.upstream = SimUpstream(
            self.clock,
            Random(self.rng.random()),
            device_limit=plan.device_limit,
            ip_limit=plan.ip_limit,
            sends_retry_after=plan.sends_retry_after,
            max_body_bytes=plan.max_body_bytes,
            latency_ms=plan.latency_ms,
            faults=plan.faults,
            origins=plan.origins,
            trace=self.trace,
            watch=self.watch,
        )
        self.devices = {device.number: device for device in plan.devices}
        self.offered_at: dict[EventKey, int] = {}
        self.crashes = 0
        self.starts: list[Start] = []
        self.ended_at = 0
        self.reordered = 0
        """Events that the relays counted as delivered after a later one."""
        self.states: dict[int, EndpointState] = {}
        """States of the endpoints at the end, by tenant."""
        self.dead_letters: Sequence[DeadLetter] = ()
        outbox_settings = OutboxSettings(max_devices=plan.max_devices)
        self.outbox = SimOutbox(outbox_settings, self.clock, Random(f"disk {seed}"))
        self.relay: Relay | None = None
        self._due: list[tuple[int, int]] = []
        self._disk_failed_at = self._disk_healed_at = -_SETTLED_AFTER_HEALING_MS
        self._hash = hashlib.sha256()

    @property
    def fingerprint(self) -> str:
        """Return a hash of all steps of the run."""
        return self._hash.hexdigest()[:16]

    def ledger(self) -> Ledger:
        """Return the ledger of the current outbox."""
        return self.outbox.ledger()

    def trace(self, *what: object) -> None:
        self._hash.update(repr(what).encode())

    # -- life --------------------------------------------------------------------------------------

    async def simulate(self) -> None:
        """Run the plan with all its faults, and then drain without faults."""
        await self.start()
        acts: list[tuple[int, Crash | Callable[[World], None]]] = [(crash.at, crash) for crash in self.plan.crashes]
        acts += self.plan.acts
        acts.sort(key=lambda act: act[0])
        apps = Tasks().start("apps", self._apps())
        for at, act in acts:
            await self.until(at)
            if isinstance(act, Crash):
                await self._crash_and_restart(act)
            else:
                act(self)
        await self.until(self.plan.duration_ms)
        apps.cancel()
        await self.drain()

    async def drain(self) -> None:
        """Drain the outbox without faults. Only the additional devices send new events."""
        self.upstream.faults.clear()
        if self.outbox.failing:
            self.fail_disk(0)
        end = self.clock.true_ms() + self.plan.drain_ms
        light_devices = [
            Device(_FIRST_EXTRA_DEVICE + tenant, tenant)
            for tenant in {device.tenant for device in self.devices.values()}
            if self.plan.has_witness
        ]
        self.devices.update((device.number, device) for device in light_devices)
        while self.outbox.ledger().pending > sum(map(self._undelivered, light_devices)):
            assert self.clock.true_ms() < end, f"{self.outbox.ledger()} after all faults were over"
            for device in light_devices:
                if not device.offering:
                    device.offering = 1
                    self._offer(device)
            await asyncio.sleep(10.0)
            self.check_alive()
        while self.outbox.ledger().pending or any(device.offering for device in self.devices.values()):
            assert self.clock.true_ms() < end
            await asyncio.sleep(1.0)
        await asyncio.sleep(1.0)
        self.dead_letters = await self.outbox.dead_letters(Selection(all=True), 1_000_000)
        self.ended_at = self.clock.true_ms()
        assert self.relay
        self.reordered += self.relay.reordered()
        self.states = {view.tenant_id: view.state for view in self.relay.schedule.endpoints(self.clock.monotonic_ms())}
        self.trace("end", self.ended_at, self.outbox.ledger())

    def _undelivered(self, device: Device) -> int:
        """Return the number of stored events of a device without flaws that the upstream has not accepted yet."""
        while (device.number, device.accepted) in self.upstream.accepted:
            device.accepted += 1
        return device.offered - device.accepted

    def _is_pending(self, keys: Sequence[EventKey]) -> bool:
        return any(self.outbox.state_of(_event_id(device, n)) == "pending" for device, n in keys)

    def fail_disk(self, chance: float) -> None:
        """Let each call of the outbox fail with this probability from now on."""
        now = self.clock.true_ms()
        if chance and not self.outbox.failing:
            self._disk_failed_at = now
        self._disk_healed_at = 1 << 62 if chance else now
        self.outbox.failing = chance

    async def until(self, at: int) -> None:
        while self.clock.true_ms() < at:
            await asyncio.sleep(min(MINUTE_MS, at - self.clock.true_ms()) / 1000)
            self.check_alive()

    def check_alive(self) -> None:
        assert self.relay, "the relay is not running"
        self.relay.check_alive()
        assert self.outbox.ledger().balanced

    async def start(self) -> None:
        self.relay = Relay(self)
        unsettled = await self.relay.start()
        self.starts.append(Start(self.clock.true_ms(), [self._events(request) for request in unsettled]))
        self.watch.started(self.starts[-1].unsettled)
        self.trace("start", self.starts[-1])
        for device in self.devices.values():
            if device.offering:
                self._offer(device)

    def _events(self, request: Sequence[ClaimPart]) -> list[EventKey]:
        """Return the events of a journalled request."""
        held = []
        for part in request:
            for stored in islice(self.outbox.disk.queues[part.queue_id].pending, part.events):
                if stored.seq in part.omitted:
                    continue
                event = msgspec.json.decode(stored.event.body, type=SimEvent)
                held.append((event.device, event.n))
        return held

    async def _crash_and_restart(self, crash: Crash) -> None:
        await self.crash()
        await asyncio.sleep(crash.down_ms / 1000)
        if crash.reboot:
            self.clock.reboot()
        await self.start()

    async def crash(self) -> None:
        """Crash the relay as kill -9 does: only the content of the disk remains."""
        assert self.relay
        now = self.clock.true_ms()
        settling_since = now - _SETTLE_MS
        if now < self._disk_healed_at + _SETTLED_AFTER_HEALING_MS:
            settling_since = min(settling_since, self._disk_failed_at)
        latest = self.upstream.sent[-1000:]
        self.watch.in_doubt.update(
            id(one)
            for one in latest
            if one.returned_at and one.returned_at >= settling_since and self._is_pending(one.keys)
        )
        self.crashes += 1
        relay, self.relay = self.relay, None
        self.reordered += relay.reordered()
        self.outbox = self.outbox.crashed()
        await relay.kill()
        self.trace("crash", now)

    # -- apps --------------------------------------------------------------------------------------

    async def _apps(self) -> None:
        for device in self.devices.values():
            if device.backlog:
                device.offering = device.backlog
                self._offer(device)
            heappush(self._due, (self.rng.randrange(device.gap_ms), device.number))
        while True:
            at, number = self._due[0]
            if at > self.clock.true_ms():
                await asyncio.sleep((at - self.clock.true_ms()) / 1000)
                continue
            heappop(self._due)
            device = self.devices[number]
            heappush(self._due, (at + 1 + int(device.gap_ms * self.rng.expovariate(1.0)), number))
            if not device.offering:
                device.offering = device.burst
                self._offer(device)

    def _offer(self, device: Device) -> None:
        """Append the next batch of a device, and repeat it until it is stored."""
        if self.relay is None:
            return  # The next start repeats the batch.
        numbers = range(device.offered, device.offered + device.offering)
        relay = self.relay
        occurred_at = device.own_time or relay.forwarder.timestamp()
        response = self.outbox.append([_event(device, n, occurred_at, self.plan.site) for n in numbers])

        def responded(response: asyncio.Future[AppendResult]) -> None:
            error = response.exception()
            if relay is not self.relay or device.offered != numbers.start:
                return
            if error:
                asyncio.get_running_loop().call_later(_APP_RETRY_MS / 1000, self._offer, device)
                return
            now = self.clock.true_ms()
            for n in numbers:
                self.offered_at[(device.number, n)] = now
            device.offered += device.offering
            device.offering = 0

        response.add_done_callback(responded)


class Relay:
    """The tested parts, connected as in the service. It records the unsettled requests of a start."""

    def __init__(self, world: World) -> None:
        self.tasks = Tasks()
        self.tasks.failure.add_done_callback(_end_run)  # At once: a relay that goes on may never wait again.
        self.outbox = world.outbox
        self.schedule = Schedule(world.plan.limits, world.upstream.origin, lambda: world.plan.origins)
        self.metrics = Metrics()
        self.forwarder = Forwarder(self.outbox, self.schedule, world.upstream, world.clock, self.metrics, self.tasks)
        self._unsettled: Sequence[Sequence[ClaimPart]] = ()

    async def start(self) -> Sequence[Sequence[ClaimPart]]:
        """Start the relay. Return the requests in flight at the last crash."""
        await self.outbox.open(self.forwarder.may_forget)
        await self.outbox.load(self)
        self.tasks.start("forwarder", self.forwarder.run())
        self.tasks.start("housekeeping", self.forwarder.maintain())
        return self._unsettled

    def pending(self, backlogs: Sequence[Backlog]) -> None:
        self.forwarder.pending(backlogs)

    def granted(self, restored: RestoredState) -> None:
        self._unsettled = restored.unsettled
        self.forwarder.granted(restored)

    def check_alive(self) -> None:
        if self.tasks.failure.done():
            raise self.tasks.failure.result()

    def reordered(self) -> int:
        return int(self.metrics.registry.get_sample_value("relay_events_reordered_total") or 0)

    async def kill(self) -> None:
        await self.tasks.cancel_all()


def _end_run(failure: asyncio.Future[TaskFailed]) -> None:
    if not failure.cancelled():
        asyncio.get_running_loop().call_exception_handler({"exception": failure.result()})


def _event(device: Device, n: int, occurred_at: str, site: str = "") -> Event:
    rest = msgspec.json.encode(SimEvent(device.number, n, device.tenant, device.flaw(n), device.pad))
    body = b'{"occurred_at":"%s",%s' % (occurred_at.encode(), rest[1:])
    key = (device.tenant, "tv", f"{site}device-{device.number}")
    return Event(_event_id(device.number, n), key, body, not device.own_time)


def _event_id(device: int, n: int) -> bytes:
    return (device << 64 | n).to_bytes(16)
