"""`relay sandbox`: run a stand-in upstream, for app developers without network or key."""

from __future__ import annotations

import asyncio
import signal
from functools import partial

import click
import msgspec

from relay.cli import exits
from relay.cli.common import Utf8
from relay.cli.terminal import printable
from relay.runtime.address import ListenError, listen_error, parse_address
from relay.runtime.clock import Clock, SystemClock, rfc3339
from relay.sandbox.record import RecordedRequest
from relay.sandbox.server import Sandbox
from relay.sandbox.settings import SandboxSettings
from relay.sandbox.validate import raw_events

EXAMPLE = (
    '{"events":[{"event_id":"550e8400-e29b-41d4-a716-446655440000","event_type":"post.view",'
    '"tenant_id":1,"source":{"platform":"tv","device_id":"tv-1"}}]}'
)


@click.command("sandbox")
@click.option(
    "--listen",
    default="127.0.0.1:8090",
    show_default=True,
    metavar="HOST:PORT",
    help="Address of the sandbox. Port 0 selects a free port.",
)
@click.option(
    "--api-key",
    default="sandbox-key",
    show_default=True,
    type=Utf8(),
    metavar="KEY",
    help="Key that requests must have in X-Events-Key.",
)
@click.option("--print", "with_events", is_flag=True, help="Print the events of each request.")
def command(listen: str, api_key: str, with_events: bool) -> None:
    """Run a stand-in upstream with the real key check, validation and limits. It stores nothing on disk.

    It prints a line per request. Ctrl-C ends it and prints a summary of the received events. Requests to /_sandbox/ on
    the same port inject faults, and GET /_sandbox/events returns the latest events.
    """
    try:
        host, port = parse_address(listen)
    except ListenError as error:
        raise click.BadParameter(str(error), param_hint="--listen") from error
    try:
        settings = SandboxSettings(host=host, port=port, api_key=api_key)
        sandbox = Sandbox(settings, SystemClock(), on_request=partial(_print_request, SystemClock(), with_events))
        asyncio.run(_serve(sandbox, listen))
    except ListenError as error:
        raise exits.CommandFailed(str(error)) from error


def _print_request(clock: Clock, with_events: bool, request: RecordedRequest, body: bytes) -> None:
    events = raw_events(body)
    number = "1 event" if len(events) == 1 else f"{len(events):,} events"
    sender = "unknown device" if request.device is None else "tenant {}, {}, {}".format(*request.device)
    status = request.status or "no response"
    click.echo(printable(f"{rfc3339(clock.wall_ms())}  {status}  {number}, {sender}"))
    if with_events:
        for event in events:
            click.echo(printable(f"  {bytes(event).decode(errors='replace')}", None))


async def _serve(sandbox: Sandbox, listen: str) -> None:
    """Run the sandbox until a signal arrives. Raises ListenError."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    try:
        await sandbox.start()
    except OSError as error:
        raise listen_error(listen, error, "--listen") from error
    key = sandbox.settings.api_key
    click.echo(f"the sandbox listens at {sandbox.url}")
    click.echo(f"its key is {key}\n\ntry:")
    click.echo(f"  curl {sandbox.url} -H 'Content-Type: application/json' -H 'X-Events-Key: {key}' -d '{EXAMPLE}'")
    click.echo("\nstart a relay that sends to the sandbox:")
    click.echo(f"  RELAY__UPSTREAM__URL={sandbox.url} RELAY__UPSTREAM__API_KEY={key} relay run\n")
    await stopping.wait()
    await sandbox.stop()
    for name, value in msgspec.to_builtins(sandbox.report()).items():
        shown = ", ".join(f"{status}: {count}" for status, count in value.items()) if name == "by_status" else value
        click.echo(f"{name.replace('_', ' ').ljust(16)}  {shown}")
