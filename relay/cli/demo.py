"""`relay demo`: run a sandbox upstream, a relay and simulated devices in one process, for a first look.

The sandbox enforces the limits of the real upstream. The outbox is in a directory that is removed at the end. The
demo uses the default ports if they are free, and other ports otherwise.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import tempfile
from pathlib import Path

import click

from relay.app.run_service import EXIT_FAILED, EXIT_OK, event_loop_factory
from relay.app.service import Service
from relay.config import EndpointSettings, Http, Log, OutboxSettings, Settings, Udp, Upstream, secrets
from relay.runtime import log
from relay.runtime.clock import SystemClock
from relay.runtime.secret import Secret
from relay.runtime.tasks import Tasks
from relay.sandbox.devices import Devices
from relay.sandbox.server import Sandbox
from relay.sandbox.settings import SandboxSettings

_KEY = "demo-key"
HTTP_ADDRESS, UDP_ADDRESS = "127.0.0.1:8080", "127.0.0.1:8125"
_REPORT_EVERY_S = 5.0
_DEVICE_INTERVAL_S = 2.0


@click.command("demo")
@click.option(
    "--devices", default=20, show_default=True, type=click.IntRange(1, 1000), help="Number of simulated devices."
)
@click.option("--seconds", type=click.IntRange(min=1), help="Stop after this time. Default: run until Ctrl-C.")
@click.pass_context
def command(ctx: click.Context, devices: int, seconds: int | None) -> None:
    """Run a sandbox upstream, a relay with its status page, and simulated devices.

    The demo needs no configuration and no network. It stores events in a directory that it removes at the end.
    """
    with (
        tempfile.TemporaryDirectory(prefix="relay-demo-") as directory,
        asyncio.Runner(loop_factory=event_loop_factory()) as runner,
    ):
        ctx.exit(runner.run(_demo(Path(directory), devices, seconds)))


async def _demo(directory: Path, devices: int, seconds: int | None) -> int:
    clock = SystemClock()
    sandbox = Sandbox(SandboxSettings(api_key=_KEY), clock)
    await sandbox.start()
    settings = _settings(sandbox.url, directory)
    log.configure(settings.log, secrets(settings))
    service = Service(settings, lambda: settings, clock)
    await service.start()
    http = service.http_addresses[0]
    udp = service.udp_addresses[0]
    click.echo(_introduction(http, udp, sandbox.url, devices, clock.new_event_id()))
    tasks = Tasks()
    tasks.start("devices", Devices(f"http://{http}/v1/events", devices, _DEVICE_INTERVAL_S, clock).run())
    tasks.start("report", _report(service, sandbox))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, service.stopping.set)
    if seconds is not None:
        loop.call_later(seconds, service.stopping.set)
    failure = await service.wait()
    await tasks.cancel_all()
    await service.stop()
    click.echo(f"\nThe sandbox received {_received(sandbox)}.")
    await sandbox.stop()
    return EXIT_FAILED if failure else EXIT_OK


def _settings(url: str, directory: Path) -> Settings:
    route = EndpointSettings(url, Secret(_KEY))
    return Settings(
        upstream=Upstream(default=route, tenants={}),
        http=Http(listen=_free(HTTP_ADDRESS, socket.SOCK_STREAM)),
        udp=Udp(listen=_free(UDP_ADDRESS, socket.SOCK_DGRAM)),
        outbox=OutboxSettings(path=directory / "outbox.db"),
        log=Log(level="warning"),
    )


def _free(address: str, kind: socket.SocketKind) -> str:
    """Return `address` if its port is free, otherwise its host with port 0."""
    host, _, port = address.rpartition(":")
    with socket.socket(socket.AF_INET, kind) as probe:
        if kind is socket.SOCK_STREAM:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, int(port)))
        except OSError:
            return f"{host}:0"
    return address


def _introduction(http: str, udp: str, upstream: str, devices: int, event_id: str) -> str:
    in_use = [
        f"{default} is in use, so the relay uses {used}.\n"
        for default, used in ((HTTP_ADDRESS, http), (UDP_ADDRESS, udp))
        if used != default
    ]
    return f"""
A relay is running. {devices} simulated TV boxes send events to it, and a sandbox replaces the upstream.
{"".join(in_use)}
  POST events to     http://{http}/v1/events
  or send UDP to     {udp}
  status page        http://{http}/
  status             http://{http}/status.json
  metrics            http://{http}/metrics
  sandbox upstream   {upstream}  (the real limits: 120 requests a minute per device)

Send an event of your own from a second terminal:

  curl -i http://{http}/v1/events -H 'Content-Type: application/json' -d '{{"event_id": "{event_id}", \
"event_type": "post.view", "tenant_id": 1, "source": {{"platform": "tv", "device_id": "my-box"}}}}'

The relay responds with 202 after it has stored the event, and delivers it within 5 seconds. Follow it:

  curl http://{http}/v1/events/{event_id}

Press Ctrl-C to stop.
"""


async def _report(service: Service, sandbox: Sandbox) -> None:
    """Print the totals every few seconds."""
    while True:
        await asyncio.sleep(_REPORT_EVERY_S)
        ledger = service.outbox.ledger()
        click.echo(
            f"accepted {ledger.accepted:,}   pending {ledger.pending:,}   delivered {ledger.delivered:,}   "
            f"sandbox: {_received(sandbox)}"
        )


def _received(sandbox: Sandbox) -> str:
    report = sandbox.report()
    return (
        f"{report.distinct:,} events of {report.devices} devices in {report.requests:,} requests, "
        f"{report.duplicates} duplicates, {report.order_breaks} order breaks, "
        f"at most {report.most_of_device} requests of one device in a window"
    )
