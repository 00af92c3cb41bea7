"""Run one service in this process: configuration, event loop, signals, log and exit code.

`service` composes the parts of a relay. This module contains everything that exists once per process.
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

from relay.app import passed_sockets, process, signals
from relay.app.checked_settings import usable
from relay.app.passed_sockets import PassedSockets
from relay.app.service import Loader, Service
from relay.app.systemd import Supervisor
from relay.config import Settings, load, secrets
from relay.runtime import log
from relay.runtime.clock import SystemClock

EXIT_OK, EXIT_FAILED = 0, 1

_log = structlog.get_logger("relay.service")


def main(config_file: Path | None) -> int:
    """Run the relay (`relay run`) and return the exit code.

    Raises ConfigError, OutboxLocked, OutboxError or ListenError if the relay cannot start.
    """
    process.harden()

    def load_settings() -> Settings:
        return usable(load(config_file, os.environ))

    passed = passed_sockets.take(os.environ, os.getpid())
    settings = load_settings()
    passed_sockets.check(passed, settings)
    with asyncio.Runner(loop_factory=event_loop_factory()) as runner:
        return runner.run(run(settings, load_settings, passed))


async def run(settings: Settings, load_settings: Loader, passed: PassedSockets) -> int:
    """Run a relay until a stop signal or a failed task, and return the exit code."""
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_loop_error)
    service = Service(settings, load_settings, SystemClock(), Supervisor(os.environ), passed)
    # Before the log, because the log's thread must inherit the signal mask.
    signals.receive(partial(_on_stop_signal, loop, service))
    metrics = service.metrics
    log.configure(settings.log, secrets(settings), suppressed=metrics.log_lines_suppressed, lost=metrics.log_lines_lost)
    loop.add_signal_handler(signal.SIGHUP, service.reload)
    await service.start()
    failure = await service.wait()
    if failure:
        signals.end_within(service.longest_stop_s, EXIT_FAILED)
        _log.critical("a task failed, the relay stops", task=str(failure), exc_info=failure.__cause__)
    await service.stop()
    return EXIT_FAILED if failure else EXIT_OK


def event_loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return the factory of uvloop if it is installed. None means asyncio's event loop."""
    try:
        import uvloop  # noqa: PLC0415 - armv7 has no wheel of uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _on_stop_signal(loop: asyncio.AbstractEventLoop, service: Service, number: signal.Signals) -> float:
    """Stop the service from another thread. Return the maximum duration of the stop in seconds."""

    def stop() -> None:
        _log.info("stop signal received", signal=number.name)
        service.stopping.set()

    with suppress(RuntimeError):  # The loop is closed, so the process is about to end.
        loop.call_soon_threadsafe(stop)
    return service.longest_stop_s


def _loop_error(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log an error that asyncio cannot raise to a caller: a failed accept or a failing callback."""
    error = context.get("exception")
    _log.error("error in the event loop", problem=context.get("message", ""), error=f"{type(error).__name__}: {error}")
