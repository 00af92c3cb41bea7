"""Which files and functions of the package one event enters, from the socket to the settled cursor.

A relay runs in this process, over HTTP on loopback, with a sandbox as its upstream. Connection, head and device are
warm: two events are sent before. A profile of every thread records the code of the package that starts between the
first byte of the event and the commit of its delivery: reading, validation, commit, 202, claim, request, verdict and
settlement. Counted are:

-   functions: every `def`, methods and properties included, and coroutines that resume;
-   apart from them lambdas, comprehensions and generator expressions, because Python 3.12 and later inline most
    comprehensions. The strict number of functions is the sum of both.

The ledger that this module polls is not counted. Periodic work that starts meanwhile is.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import threading
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from relay.app.service import Service
from relay.config import Batch, EndpointSettings, Http, OutboxSettings, Settings, Udp, Upstream
from relay.runtime.clock import SystemClock
from relay.runtime.secret import Secret
from relay.sandbox.server import Sandbox
from relay.sandbox.settings import SandboxSettings
from structlog.testing import capture_logs

from tests.architecture.source import ROOT

_PACKAGE, _SANDBOX = str(ROOT / "relay") + "/", str(ROOT / "relay" / "sandbox") + "/"
_WARM_EVENTS = 2


class Profile:
    """Notes the functions of the package, the sandbox left out, that start while it is on."""

    def __init__(self) -> None:
        self.is_on = False
        self.code: set[CodeType] = set()

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        file = frame.f_code.co_filename
        if self.is_on and event == "call" and file.startswith(_PACKAGE) and not file.startswith(_SANDBOX):
            self.code.add(frame.f_code)


async def count_path() -> tuple[int, int, int]:
    """Return the number of files, of functions, and of lambdas, comprehensions and generator expressions."""
    profile = Profile()
    sys.setprofile(profile)
    threading.setprofile(profile)
    try:
        # The relay's log would stand between the measurements.
        with capture_logs():
            await _send_events(profile)
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]  # as documented
    names = [code.co_name for code in profile.code]
    without_name = sum(name.startswith("<") for name in names)
    return len({code.co_filename for code in profile.code}), len(names) - without_name, without_name


async def _send_events(profile: Profile) -> None:
    sandbox = Sandbox(SandboxSettings(api_key="key"), SystemClock())
    await sandbox.start()
    try:
        with tempfile.TemporaryDirectory() as directory:
            settings = _settings(sandbox.url, Path(directory))
            service = Service(settings, lambda: settings, SystemClock())
            await service.start()
            try:
                await _send_warm(service, profile)
            finally:
                await service.stop()
    finally:
        await sandbox.stop()


async def _send_warm(service: Service, profile: Profile) -> None:
    host, _, port = service.http_addresses[0].rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    for number in range(1, _WARM_EVENTS + 2):
        profile.is_on = number > _WARM_EVENTS
        writer.write(_request(number))
        await reader.readuntil(b'{"success": true}')
        async with asyncio.timeout(30):
            while _delivered(service, profile) < number:
                await asyncio.sleep(0.001)
    profile.is_on = False
    writer.close()


def _delivered(service: Service, profile: Profile) -> int:
    was_on, profile.is_on = profile.is_on, False
    delivered = service.outbox.ledger().delivered
    profile.is_on = was_on
    return delivered


def _settings(url: str, directory: Path) -> Settings:
    return Settings(
        upstream=Upstream(default=EndpointSettings(url, Secret("key")), tenants={}),
        http=Http(listen="127.0.0.1:0"),
        udp=Udp(listen=""),
        outbox=OutboxSettings(path=directory / "outbox.db"),
        batch=Batch(linger_ms=0),
    )


def _request(number: int) -> bytes:
    event = {
        "event_id": f"550e8400-e29b-41d4-a716-{number:012}",
        "event_type": "path.of.an.event",
        "tenant_id": 1,
        "source": {"platform": "tv", "device_id": "A1B2C3D4-E5F6-7890-ABCD-EF1234567890"},
    }
    body = json.dumps(event).encode()
    head = f"POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body
