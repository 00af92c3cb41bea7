"""Several relays on one database, with devices that send to any of them and faults of relays and database.

Each relay has the real SharedOutbox, Schedule and Forwarder, its own clock, and a connection to a database in memory. A
relay is killed, stopped for a while (SIGSTOP, also between the last look at the lease and the first byte), or cut off
from the database, which also becomes unavailable for all. A supervisor starts a relay again whose tasks have failed.
`SharedWatch` checks each step from the view of the upstream and of the database.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from random import Random

from relay.config import OutboxSettings
from relay.forward.forwarder import Forwarder
from relay.outbox import OutboxUnavailable
from relay.outbox.postgres.outbox import SharedOutbox
from relay.policy.schedule import Schedule
from relay.policy.verdict import NoResponse, UpstreamResponse
from relay.runtime.metrics import Metrics
from relay.runtime.tasks import Tasks

from tests.contract.boxes import ledger_of
from tests.simulation.upstream import EventKey, Request, SimUpstream
from tests.simulation.virtual import SimClock
from tests.simulation.world import LIMITS, Device, _event
from tests.support.memory_database import MemoryDatabase, MemoryStore

SHARED_LIMITS = replace(LIMITS, linger_ms=500, max_events=20, window_ms=10_000, device_per_window=12)
LEASE_MS = 3_000
_APP_TIMEOUT_S = 15.0


class Process:
    """What SIGSTOP stops and a partition cuts off."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.runs = asyncio.Event()
        self.runs.set()
        self.is_cut_off = False
        self.stops_before_next_request_s = 0.0
        """If positive: the process is stopped for this time before the first byte of its next request."""

    def stop(self, duration_s: float) -> None:
        self.runs.clear()
        asyncio.get_running_loop().call_later(duration_s, self.runs.set)


class SimDatabase(MemoryDatabase):
    """A connection with latency and faults. A statement that fails may have been executed."""

    def __init__(self, store: MemoryStore, process: Process, world: SharedWorld) -> None:
        super().__init__(store)
        self._process = process
        self._world = world

    async def _turn(self) -> None:
        await self._process.runs.wait()
        await asyncio.sleep(self._process.rng.uniform(0.0005, 0.02))
        await self._process.runs.wait()
        if self._process.is_cut_off or self._world.is_database_down:
            await asyncio.sleep(0.1)
            raise OutboxUnavailable("the database does not respond")
        await super()._turn()


class SimClient:
    """The upstream as one relay reaches it.

    A stopped process sends its request when it continues, and then notices that the lease has ended.
    """

    def __init__(self, relay: int, process: Process, upstream: SimUpstream, watch: SharedWatch, tasks: Tasks) -> None:
        self._relay = relay
        self._process = process
        self._upstream = upstream
        self._watch = watch
        self._tasks = tasks
        self.origin = upstream.origin
        self.origins = upstream.origins
        self.distinct_tenants = upstream.distinct_tenants
        self.reconnect = upstream.reconnect

    async def post(
        self, tenant_id: int, body: bytes, stalled: Callable[[bool], None], *, fresh: bool = False
    ) -> UpstreamResponse | NoResponse:
        process = self._process
        if process.stops_before_next_request_s:
            process.stop(process.stops_before_next_request_s)
            process.stops_before_next_request_s = 0.0

        async def sent() -> UpstreamResponse | NoResponse:
            await process.runs.wait()
            self._watch.sender = self._relay
            return await self._upstream.post(tenant_id, body, stalled, fresh=fresh)

        if process.runs.is_set():
            return await sent()
        late = self._tasks.start("request of a stopped process", sent())
        try:
            response = await asyncio.shield(late)
        except asyncio.CancelledError:
            await asyncio.shield(self._tasks.start("reset of a late request", self._reset(late)))
            raise
        await process.runs.wait()
        return response

    async def _reset(self, late: asyncio.Task[UpstreamResponse | NoResponse]) -> None:
        """Abort a request after its first byte, as soon as the process continues."""
        await self._process.runs.wait()
        await asyncio.sleep(0)
        late.cancel()


class SharedWatch:
    """Checks that hold at each step."""

    def __init__(self, store: MemoryStore, device_per_window: int, window_ms: int) -> None:
        self.sender = 0
        self.sent_twice: set[EventKey] = set()
        self.most_in_window = 0
        self._store = store
        self._limit = device_per_window
        self._window_ms = window_ms
        self._open: dict[int, dict[int, int]] = defaultdict(dict)
        """By device: the relays with a request in flight, by id of the request."""
        self._arrivals: dict[int, deque[int]] = defaultdict(deque)
        self._latest: dict[int, int] = defaultdict(lambda: -1)
        self._accepted: set[EventKey] = set()

    def sent(self, request: Request, origin: str) -> None:
        for device in {device for device, _ in request.keys}:
            others = {relay for relay in self._open[device].values() if not self._store.is_fenced(relay)}
            is_fenced = self._store.is_fenced(self.sender)
            assert is_fenced or not others, f"device {device}: {self.sender} sends beside {others}"
            self._open[device][id(request)] = self.sender

    def responded(self, request: Request) -> None:
        for device in {device for device, _ in request.keys}:
            self._open[device].pop(id(request), None)

    def arrived(self, request: Request) -> None:
        assert ledger_of(self._store).balanced
        for device in {device for device, _ in request.keys}:
            times = self._arrivals[device]
            times.append(request.at)
            while times[0] <= request.at - self._window_ms:
                times.popleft()
            self.most_in_window = max(self.most_in_window, len(times))
            assert len(times) <= self._limit, f"device {device}: {len(times)} requests since {times[0]} ms"

    def accepted(self, request: Request) -> None:
        for device, n in request.keys:
            if (device, n) in self._accepted:
                self.sent_twice.add((device, n))
                continue
            assert n == self._latest[device] + 1, f"device {device}: {n} after {self._latest[device]}"
            self._latest[device] = n
            self._accepted.add((device, n))

    def stalled(self, request: Request) -> None: ...

    def unreachable(self, origin: str) -> None: ...

    def reachable(self, origin: str) -> None: ...


@dataclass
class SharedPlan:
    relays: int
    devices: Sequence[Device]
    faults: Sequence[tuple[int, Callable[[SharedWorld], None]]] = ()
    """(Time, fault)."""
    duration_ms: int = 60_000
    drain_ms: int = 600_000
    double_posts: float = 0.1
    """Part of the batches that a device sends to two relays at once."""
    latency_ms: tuple[int, int] = (5, 200)


@dataclass
class RunningRelay:
    """The parts of one relay, connected as in the service."""

    world: SharedWorld
    number: int
    process: Process
    tasks: Tasks = field(default_factory=Tasks)
    replica: int = 0

    async def start(self) -> None:
        world = self.world
        clock = SimClock(Random(world.rng.random()))
        metrics = Metrics()
        database = SimDatabase(world.store, self.process, world)
        settings = OutboxSettings(lease_ms=LEASE_MS, replica_name=f"relay-{self.number}")
        self.outbox = SharedOutbox(settings, clock, metrics, self.tasks, database)
        await self.outbox.open()
        self.replica = world.store.next_replica - 1
        client = SimClient(self.replica, self.process, world.upstream, world.watch, world.tasks)
        self.schedule = Schedule(SHARED_LIMITS, client.origin)
        self.forwarder = Forwarder(self.outbox, self.schedule, client, clock, metrics, self.tasks)
        self.tasks.start("load and forward", self._forward())

    async def _forward(self) -> None:
        await self.outbox.load(self.forwarder)
        self.tasks.start("housekeeping", self.forwarder.maintain())
        await self.forwarder.run()

    def check_states(self) -> None:
        """Check that the relay blames neither the upstream, which never fails here, nor a device."""
        now = self.forwarder._clock.monotonic_ms()
        assert all(endpoint.last_error is None for endpoint in self.schedule.endpoints(now))
        assert all(queue.why in ("", "limit", "outbox") for queue in self.schedule.queues(100, now).longest_paused)

    async def kill(self) -> None:
        """End as kill -9 does: nothing is released, and nothing more reaches the database."""
        self.process.is_cut_off = True
        self.process.runs.set()
        await self.tasks.cancel_all()
        await self.outbox._own_tasks.cancel_all()

    async def stop(self) -> None:
        await self.tasks.cancel_all()
        await self.outbox.close()


class SharedWorld:
    def __init__(self, plan: SharedPlan, seed: int) -> None:
        self.plan = plan
        self.rng = Random(seed)
        self.tasks = Tasks()
        self.clock = SimClock(Random(self.rng.random()))
        self.store = MemoryStore()
        self.watch = SharedWatch(self.store, SHARED_LIMITS.device_per_window, SHARED_LIMITS.window_ms)
        self.upstream = SimUpstream(
            self.clock,
            Random(self.rng.random()),
            device_limit=1 << 30,
            latency_ms=plan.latency_ms,
            watch=self.watch,  # type: ignore[arg-type]
        )
        self.is_database_down = False
        self.relays: dict[int, RunningRelay] = {}
        self.restarts = 0

    async def simulate(self) -> None:
        for number in range(self.plan.relays):
            await self.start(number)
        self.tasks.start("supervisor", self._supervise())
        apps = [self.tasks.start("app", self._app(device)) for device in self.plan.devices]
        for at, fault in sorted(self.plan.faults, key=lambda each: each[0]):
            await self._until(at)
            fault(self)
        await self._until(self.plan.duration_ms)
        for app in apps:
            app.cancel()
        await asyncio.gather(*apps, return_exceptions=True)
        await self._drain()
        for relay in self.relays.values():
            await relay.stop()
        await self.tasks.cancel_all()

    async def start(self, number: int) -> None:
        relay = RunningRelay(self, number, Process(Random(self.rng.random())))
        while True:
            await relay.start()
            if relay.outbox._parts is not None:
                break
            await relay.kill()
            await asyncio.sleep(1.0)
            relay = RunningRelay(self, number, Process(Random(self.rng.random())))
        self.relays[number] = relay

    async def kill(self, number: int, down_s: float) -> None:
        relay = self.relays.pop(number, None)
        if relay is not None:
            await relay.kill()
            await asyncio.sleep(down_s)
            self.restarts += 1
            await self.start(number)

    async def terminate(self, number: int, down_s: float) -> None:
        relay = self.relays.pop(number, None)
        if relay is not None:
            await relay.stop()
            await asyncio.sleep(down_s)
            self.restarts += 1
            await self.start(number)

    async def _supervise(self) -> None:
        """Start a relay again whose tasks have failed, as a service manager does."""
        while True:
            await asyncio.sleep(0.2)
            for number, relay in list(self.relays.items()):
                relay.check_states()
                if relay.tasks.failure.done():
                    failure = relay.tasks.failure.result()
                    assert "OutboxLost" in str(failure), failure
                    self.tasks.start("restart", self.terminate(number, 0.5))

    async def _until(self, at: int) -> None:
        while self.clock.true_ms() < at:
            await asyncio.sleep(min(1_000, at - self.clock.true_ms()) / 1000)
            if self.tasks.failure.done():
                raise self.tasks.failure.result()

    async def _drain(self) -> None:
        end = self.clock.true_ms() + self.plan.drain_ms
        while self.store.log or any(device.offering for device in self.plan.devices):
            assert self.clock.true_ms() < end, f"{ledger_of(self.store)} after all faults were over"
            for device in self.plan.devices:
                if device.offering:
                    await self._offer(device)
            await self._until(self.clock.true_ms() + 1_000)

    async def _app(self, device: Device) -> None:
        """Send batches one after the other, each until a relay has stored it."""
        while True:
            await asyncio.sleep(self.rng.expovariate(1.0) * device.gap_ms / 1000)
            device.offering = device.burst
            await self._offer(device)

    async def _offer(self, device: Device) -> None:
        while device.offering:
            posts = [self._post(device)]
            if self.rng.random() < self.plan.double_posts:
                posts.append(self._post(device))
            if True in await asyncio.gather(*posts):
                device.offered += device.offering
                device.offering = 0
            else:
                await asyncio.sleep(0.2)

    async def _post(self, device: Device) -> bool:
        """Send the batch to any relay. Return whether it was stored."""
        if not self.relays:
            return False
        relay = self.rng.choice(list(self.relays.values()))
        numbers = range(device.offered, device.offered + device.offering)
        response = relay.outbox.append([_event(device, n, "2026-11-23T08:00:00.000Z") for n in numbers])
        try:
            async with asyncio.timeout(_APP_TIMEOUT_S):
                await response
        except (OutboxUnavailable, TimeoutError):
            return False
        return True
