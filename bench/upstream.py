"""Run the sandbox in its own process. The argument is SandboxSettings as JSON. The program prints its URL as JSON."""

from __future__ import annotations

import asyncio
import json
import signal
import sys

import msgspec
from relay.app.run_service import event_loop_factory
from relay.runtime.clock import SystemClock
from relay.sandbox.server import Sandbox
from relay.sandbox.settings import SandboxSettings


async def _serve(settings: SandboxSettings) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    sandbox = Sandbox(settings, SystemClock())
    await sandbox.start()
    print(json.dumps({"url": sandbox.url}), flush=True)
    await stop.wait()
    await sandbox.stop()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=event_loop_factory()) as runner:
        runner.run(_serve(msgspec.json.decode(sys.argv[1], type=SandboxSettings)))
