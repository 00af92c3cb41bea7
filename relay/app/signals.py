"""SIGTERM and SIGINT, received in a thread of their own: they work also while the event loop is blocked.

Rules:
- The first signal asks the event loop to stop, and sets the deadline after which the process ends in any case.
- The second signal ends the process at once, with 128 and its number.
- This thread waits for nothing that can hang: no lock, no log line, no file.

An immediate end loses no event. Everything that received a 202 is on disk, and the next start sends again what
was in flight.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
GRACE_S = 2.5
"""Time for a stop beside `shutdown.drain`. The contract allows 3 s until the process has ended."""


def receive(told_to_stop: Callable[[signal.Signals], float]) -> None:
    """Receive the stop signals from now on. Call it in the main thread, before other threads start.

    `told_to_stop` runs in another thread at the first signal. It must return at once, with the seconds
    after which the process ends in any case.
    """
    # Threads that start later inherit the mask, so that only `_wait` receives these signals.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    threading.Thread(target=_wait, args=(told_to_stop,), name="signals", daemon=True).start()


def end_within(seconds: float, code: int) -> None:
    """End the process with this exit code once the seconds are over, if it still runs then."""

    def wait() -> None:
        threading.Event().wait(seconds)
        os._exit(code)

    threading.Thread(target=wait, name="deadline", daemon=True).start()


def _wait(told_to_stop: Callable[[signal.Signals], float]) -> None:
    end_within(told_to_stop(signal.Signals(signal.sigwait(STOP_SIGNALS))), 0)
    os._exit(128 + signal.sigwait(STOP_SIGNALS))
