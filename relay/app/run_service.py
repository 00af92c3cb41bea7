"""The process around one service: configuration, event loop, signals, log, and the exit code.

`service` composes the parts; here stands what there is once per process.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from relay.app import process, signals
from relay.app.service import Loader, Service, usable
from relay.app.systemd import Supervisor
from relay.config import Settings, load, secrets
from relay.runtime import log
from relay.runtime.clock import SystemClock

EXIT_OK, EXIT_DIED = 0, 1

_log = structlog.get_logger("relay.service")


def main(config_file: Path | None) -> int:
    """`relay run`: the exit code.

    Raises ConfigError, OutboxLocked, OutboxError and ListenError when it cannot start.
    """
    process.harden()

    def load_settings() -> Settings:
        return usable(load(config_file, os.environ))

    settings = load_settings()
    with asyncio.Runner(loop_factory=event_loop_factory()) as runner:
        return runner.run(run(settings, load_settings))


async def run(settings: Settings, load_settings: Loader) -> int:
    """One relay from start to stop, driven by signals."""
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_loop_error)
    service = Service(settings, load_settings, SystemClock(), Supervisor(os.environ))
    # Before the log: the log's thread must inherit the mask of signals.
    signals.receive(partial(_told_to_stop, loop, service))
    metrics = service.metrics
    log.configure(settings.log, secrets(settings), suppressed=metrics.log_lines_suppressed, lost=metrics.log_lines_lost)
    loop.add_signal_handler(signal.SIGHUP, service.reload)
    await service.start()
    death = await service.wait()
    if death:
        signals.end_within(service.longest_stop_s, EXIT_DIED)
        _log.critical("a part of the relay died, it stops", part=str(death), exc_info=death.__cause__)
    await service.stop()
    return EXIT_DIED if death else EXIT_OK


def event_loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's where its wheel exists, else asyncio's own."""
    try:
        import uvloop  # noqa: PLC0415 - there is none for armv7
    except ImportError:
        return None
    return uvloop.new_event_loop


def _told_to_stop(loop: asyncio.AbstractEventLoop, service: Service, number: signal.Signals) -> float:
    """Ask the loop, from another thread, to stop the service; the seconds that a stop takes at most."""

    def stop() -> None:
        _log.info("told to stop", signal=number.name)
        service.stopping.set()

    with suppress(RuntimeError):  # the loop is closed: the process is about to end
        loop.call_soon_threadsafe(stop)
    return service.longest_stop_s


def _loop_error(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What asyncio could not give to anybody: a failing accept, a callback's bug."""
    error = context.get("exception")
    _log.error("event loop", problem=context.get("message", ""), error=f"{type(error).__name__}: {error}")
