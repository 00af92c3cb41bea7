"""Receive SIGTERM and SIGINT in a separate thread, so that they work even while the event loop is blocked.

Rules:
- The first signal stops the event loop and sets a deadline. The process ends at the deadline in any case.
- The second signal ends the process at once, with the exit code 128 + its number.
- This thread uses nothing that can hang: no lock, no log line, no file.

An immediate end loses no event. Every event that received a 202 is on disk, and the next start sends the events that
were in flight again.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
GRACE_S = 2.5
"""Time for a stop in addition to `shutdown.drain`. The contract allows 3 s until the process has ended."""


def receive(on_stop: Callable[[signal.Signals], float]) -> None:
    """Receive the stop signals. Call it in the main thread before other threads start.

    `on_stop` runs in another thread at the first signal. It must return at once, with the seconds after which the
    process ends in any case.
    """
    # Threads that start later inherit the mask, so that only `_wait` receives these signals.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    threading.Thread(target=_wait, args=(on_stop,), name="signals", daemon=True).start()


def end_within(seconds: float, code: int) -> None:
    """End the process with this exit code after the given time, if it still runs."""

    def wait() -> None:
        threading.Event().wait(seconds)
        os._exit(code)

    threading.Thread(target=wait, name="deadline", daemon=True).start()


def _wait(on_stop: Callable[[signal.Signals], float]) -> None:
    end_within(on_stop(signal.Signals(signal.sigwait(STOP_SIGNALS))), 0)
    os._exit(128 + signal.sigwait(STOP_SIGNALS))
