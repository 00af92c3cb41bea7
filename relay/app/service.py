"""Compose, start, reload and stop the relay. This is the only module that imports all parts.

Start
1. The log and the secrets: later errors are logged, with secrets masked.
2. The outbox: the relay may store events only while it has the outbox's lock.
3. The listeners: the relay stores received events from now on.
4. The index of device queues: the relay restores it and finds the requests that were in flight at the last end.
5. The forwarder: it sends the events that were in flight first.
6. The watchers: disk, age of events, key and certificate files, network.
The relay reports "ready" to the service manager after step 3, because it stores events from then on. Step 4 runs in
the background.

Stop (SIGTERM, SIGINT)
1. The listeners stop. They store no new events; an app still has its rejected events. Sockets of systemd stay open:
   the next relay serves their new connections and their datagrams.
2. The forwarder sends pending events once, within `shutdown.drain`. Requests without a response stay in the journal,
   and the next start sends their events first.
3. The outbox commits appended events, writes a checkpoint and releases its lock.
A bug in step 1 or 2 is logged, and the next step follows. The process ends at most `shutdown.drain` + 3 s after the
signal, even if a step hangs. A second signal ends it at once. No stop loses an event that received a 202.

If a task fails, the service logs its name and ends with a non-zero exit code, so that a supervisor restarts it. A relay
that accepts events but does not send them would be worse. A hanging task has the same effect: the watcher sends the
keep-alive to the service manager only after the outbox's task has responded.
"""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import structlog

from relay import __version__
from relay.app import installation, signals
from relay.app.checked_settings import limits, usable
from relay.app.passed_sockets import PassedSockets
from relay.app.routes import Routes
from relay.app.secret_watch import warn_of_exposed, watch_keys, watched_files
from relay.app.shown_status import create_last_hour, create_status, described
from relay.app.systemd import Supervisor
from relay.config import ConfigError, Settings, changes, diff, needs_restart, secrets, with_changed_files
from relay.event.reader import Reader
from relay.forward.forwarder import Forwarder
from relay.forward.network_watch import NetworkWatch
from relay.forward.time_file import TimeFile
from relay.forward.upstream import UpstreamClient
from relay.http.listener import Listener
from relay.ingest.events_api import HttpIngest
from relay.ingest.udp.ingest import UdpIngest
from relay.ops.event_log import EventLog
from relay.ops.history import History
from relay.ops.live import Live
from relay.ops.server import Ops
from relay.ops.tail import Tail
from relay.outbox import OutboxError, Selection
from relay.outbox.factory import STORE_VERSION, create_outbox
from relay.policy.schedule import Schedule
from relay.runtime import log
from relay.runtime.address import ListenError
from relay.runtime.clock import Clock
from relay.runtime.machine import read_machine_ids
from relay.runtime.metrics import Metrics
from relay.runtime.secret import fingerprint
from relay.runtime.tasks import TaskFailed, Tasks

_WATCH_S = 1.0
_EXPIRE_EVERY = 10
"""Number of watch intervals between two checks of the age of events."""
_LISTENER_STOP_MS = 2_000

_log = structlog.get_logger("relay.service")

Loader = Callable[[], Settings]


class Service:
    """One relay: `start`, `wait` for a stop signal or a failed task, `stop`."""

    def __init__(
        self,
        settings: Settings,
        load_settings: Loader,
        clock: Clock,
        supervisor: Supervisor | None = None,
        passed: PassedSockets = PassedSockets(),  # noqa: B008 - immutable
    ) -> None:
        """`load_settings` reads the configuration again; it raises ConfigError.

        `supervisor` is the service manager, and `passed` are the listening sockets that it passed.
        """
        self.settings = self._started_with = settings
        self._supervisor = supervisor or Supervisor({})
        # Taken as soon as the files were read, so that a change during the start is detected.
        self._keys_at_start = fingerprint(watched_files(settings))
        self.stopping = asyncio.Event()
        self._load_settings = load_settings
        self._clock = clock
        self.metrics = Metrics()
        self._tasks = Tasks()
        self._ids = None if settings.outbox.identity == "fixed" else read_machine_ids()
        self._was_moved = False
        self.outbox = create_outbox(settings.outbox, clock, self.metrics, self._tasks, ids=self._ids)
        self._client = UpstreamClient(settings.upstream, clock)
        self.schedule = Schedule(limits(settings), self._client.origin, lambda: self.settings.upstream.tenants)
        self._forwarder = Forwarder(self.outbox, self.schedule, self._client, clock, self.metrics, self._tasks)
        self._time_file = TimeFile(settings.outbox.path, clock, self._forwarder.true_times.known)
        reader = self._reader(settings)
        self._http = HttpIngest(reader, self.outbox, settings.http, self.metrics)
        self._udp = UdpIngest(
            reader, self.outbox, settings.udp, settings.http.max_body_bytes, self.metrics, clock, passed.udp
        )
        self._systemd_listeners = passed.listeners
        self._history = History(self.outbox, self.metrics, clock, self.schedule.states)
        self._last_hour = create_last_hour(settings, clock, self.metrics, self.outbox)
        status = create_status(
            self.outbox,
            self.schedule,
            self._history,
            self._last_hour,
            clock,
            self.metrics,
            settings=lambda: self.settings,
            addresses=lambda: (self._listeners[0].addresses, self.udp_addresses, self._systemd_listeners),
            clock_skew_ms=lambda: self._forwarder.clock_skew_ms,
        )
        self._event_log = EventLog(self.outbox, self.metrics.feed, clock)
        self._live = Live(status, self._history, clock, self.metrics)
        self._ops = Ops(
            status=status,
            live=self._live,
            tail=Tail(self.outbox, self._event_log, self.metrics.feed, self._live, clock),
            outbox=self.outbox,
            control=self,
            token=settings.ops.token,
            metrics=self.metrics,
            refresh=self._refresh,
            configuration=lambda: described(self.settings),
        )
        self._routes = Routes(settings, self._http, self._ops)
        self._listeners = self._routes.listeners(self.metrics, clock, passed)
        self._forwarding: asyncio.Task[None] | None = None
        self._loaded = False
        self.metrics.build_info(__version__, platform.python_version(), STORE_VERSION)
        self.metrics.config_last_reload_successful.set(1)

    # -- life --------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start the relay, see the module. Raises OutboxLocked and ListenError after stopping all parts."""
        await self.outbox.open(self._forwarder.may_forget)
        self._forwarder.true_times.restore(self._time_file.load())
        self._last_hour.load()
        try:
            for listener in self._listeners:
                await listener.start()
            if self.settings.udp.listen:
                await self._udp.start()
        except ListenError:
            await self._stop_listening()
            await self.outbox.close()
            raise
        warn_of_exposed(self.settings)
        self._report_move()
        self._supervisor.ready()
        self._forwarding = self._tasks.start("forwarder", self._load_and_forward())
        self._tasks.start("housekeeping", self._forwarder.maintain())
        self._tasks.start("true time", self._time_file.keep())
        self._tasks.start("watch", self._watch())
        self._tasks.start(
            "key watch", watch_keys(lambda: watched_files(self.settings), self._keys_at_start, self._reload_files)
        )
        self._tasks.start("network watch", NetworkWatch(self._clock, self._forwarder.network_changed).run())
        self._tasks.start("history", self._history.keep())
        self._tasks.start("event log", self._event_log.keep())
        self._tasks.start("last hour", self._last_hour.keep())
        _log.info(
            "relay started",
            version=__version__,
            http=self.http_addresses,
            udp=self.udp_addresses,
            from_systemd=self._systemd_listeners,
            upstream=self.settings.upstream.default.url,
            outbox=str(self.settings.outbox.path),
            pending=self.outbox.ledger().pending,
        )

    async def wait(self) -> TaskFailed | None:
        """Wait until `stopping` is set or a task fails. Return the failure, or None."""
        failure = self._tasks.failure
        ends: set[asyncio.Future[Any]] = {self._tasks.start("stop signal", self.stopping.wait()), failure}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        return failure.result() if failure.done() else None

    async def stop(self) -> None:
        """Stop the relay, see the module. This takes at most `shutdown.drain`, 2 s for the listeners, and a commit."""
        _log.info("stopping", pending=self.outbox.ledger().pending)
        self._supervisor.stopping()
        await self._stop_listening()
        if self._loaded and not self._tasks.failure.done():
            with _bug_logged("drain"):
                await self._drain()
        await self._tasks.cancel_all()
        await self._time_file.save()
        await self._last_hour.save()
        await self.outbox.close()
        await self._client.close()
        _log.info("stopped", **self.outbox.ledger()._asdict())

    @property
    def http_addresses(self) -> list[str]:
        """Return the HTTP addresses with the bound ports. Those of a separate ops listener are last."""
        return [address for listener in self._listeners for address in listener.addresses]

    @property
    def udp_addresses(self) -> list[str]:
        """Return the UDP addresses with the bound ports."""
        return self._udp.addresses

    @property
    def longest_stop_s(self) -> float:
        """Return the seconds after which the process ends even if the stop is not complete."""
        return self.settings.shutdown.drain_ms / 1000 + signals.GRACE_S

    # -- operations --------------------------------------------------------------------------------

    def flush(self) -> None:
        """Send pending events now, within the limits. End all pauses that no server requested."""
        self._forwarder.flush()

    def reload(self) -> bool:
        """Read the configuration and the secret files again. Apply all changes and return True, or none and False."""
        self._supervisor.reloading()
        settings = self._read_settings(self._load_settings)
        if settings is not None:
            self._apply(settings)
        self._supervisor.ready()
        return settings is not None

    # -- internals ---------------------------------------------------------------------------------

    def _reload_files(self) -> None:
        """Apply changed key and certificate files, but not the configuration file, which may be partly edited."""
        settings = self._read_settings(lambda: usable(with_changed_files(self.settings)))
        if settings is not None:
            self._apply(settings)

    def _read_settings(self, load_settings: Loader) -> Settings | None:
        try:
            return load_settings()
        except ConfigError as error:
            self.metrics.config_last_reload_successful.set(0)
            _log.error("configuration rejected, the previous one stays in effect", error=str(error))
            return None

    def _apply(self, settings: Settings) -> None:
        # Each reload reports all changes since the start that need a restart.
        not_applied = needs_restart(diff(self._started_with, settings))
        changed = changes(self.settings, settings)
        log.set_level(settings.log.level)
        # The previous secrets stay masked, because a request in flight may still be logged.
        log.set_secrets([*secrets(self.settings), *secrets(settings)])
        changed |= dict.fromkeys(self._client.configure(settings.upstream), "renewed")
        self.outbox.configure(settings.outbox)
        self._ops.token = settings.ops.token
        reader = self._reader(settings)
        self._http.reader = reader
        self._udp.use_reader(reader)
        self._routes.reloaded()
        self.settings = settings
        warn_of_exposed(settings)
        self._forwarder.configure(limits(settings))
        self.metrics.config_last_reload_successful.set(1)
        _log.info(
            "configuration applied",
            changed={key: change for key, change in changed.items() if key not in not_applied},
            needs_restart=not_applied,
        )

    def _reader(self, settings: Settings) -> Reader:
        defaults = settings.defaults
        if defaults.device_id == "auto":
            defaults = replace(defaults, device_id=self._installation_id(settings))
        return Reader(
            defaults,
            settings.http.max_event_bytes,
            self._clock.new_event_id,
            self._forwarder.timestamp,
            mask=log.hide_secrets,
            allowed_tenants=settings.upstream.allowed_tenants,
        )

    def _installation_id(self, settings: Settings) -> str:
        found = installation.identify(settings.outbox.path.parent, self._ids, self._clock.new_event_id)
        self._was_moved |= found.was_moved
        return found.device_id

    def _report_move(self) -> None:
        if self.outbox.was_moved or self._was_moved:
            self.metrics.installation_changed.inc()
            _log.warning(
                "this installation is a copy from another machine, or its disk was moved",
                installation_id="new" if self._was_moved else "unchanged",
                pending_events="adopted" if self.settings.outbox.adopt else "quarantined until `relay adopt`",
            )

    async def _load_and_forward(self) -> None:
        while not self._loaded:
            try:
                await self.outbox.load(self._forwarder)
                self._loaded = True
            except OutboxError as error:
                _log.warning("outbox cannot be read, sending is delayed", error=str(error))
                await asyncio.sleep(_WATCH_S)
        await self._forwarder.run()

    async def _drain(self) -> None:
        """Send pending events once. Requests without a response in time stay in the journal."""
        if self._forwarding:
            self._forwarding.cancel()
        try:
            async with asyncio.timeout(self.settings.shutdown.drain_ms / 1000):
                await self._forwarder.drain()
        except TimeoutError:
            _log.info("drain ended by shutdown.drain", in_flight=self.schedule.in_flight())

    async def _stop_listening(self) -> None:
        self._live.stop()
        await asyncio.gather(*map(_stop_listener, self._listeners))
        with _bug_logged("udp"):
            self._udp.stop()

    async def _watch(self) -> None:
        """Check listeners and disk each second, and the age of events each tenth second. Never returns."""
        checks = 0
        while True:
            await asyncio.sleep(_WATCH_S)
            checks += 1
            for listener in self._listeners:
                await listener.check()
            await self.outbox.check()
            if checks % _EXPIRE_EVERY == 0:
                await self._expire()
            await self._keep_alive()

    async def _keep_alive(self) -> None:
        """Send the keep-alive to the service manager after a response of the outbox's task.

        An error of the outbox is a response, too, because a restart does not repair a disk. While the outbox is loaded,
        its task does not respond.
        """
        if self._supervisor.watches and self._loaded:
            with suppress(OutboxError):
                await self.outbox.dead_letters(Selection(), 1)  # This selects no dead letter.
        states = ", ".join(sorted(state for state, count in self.schedule.states().items() if count))
        self._supervisor.alive(f"{self.outbox.ledger().pending} events pending, upstream {states or 'not tried yet'}")

    async def _expire(self) -> None:
        try:
            dropped = await self.outbox.expire()
        except OutboxError as error:
            _log.debug("old events cannot be dropped now", error=str(error))
            return
        if dropped:
            _log.warning("events dropped for their age", events=dropped, max_age_ms=self.settings.outbox.max_age_ms)

    def _refresh(self) -> None:
        """Update the gauges that neither the outbox nor the schedule's status updates."""
        self._udp.refresh()
        self.metrics.upstream_in_flight.set(self.schedule.in_flight())


async def _stop_listener(listener: Listener) -> None:
    with _bug_logged("listener"):
        await listener.stop(_LISTENER_STOP_MS)


@contextmanager
def _bug_logged(step: str) -> Iterator[None]:
    """Log an exception of one step of the stop, so that the next steps follow."""
    try:
        yield
    except Exception as bug:
        _log.error("a step of the stop failed", step=step, exc_info=bug)
