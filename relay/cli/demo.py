"""`relay demo`: run a complete system for a first look."""

from __future__ import annotations

import click

from relay.cli import demo_run as demonstration


@click.command("demo")
@click.option("--devices", default=20, show_default=True, type=click.IntRange(1, 1000), help="Simulated devices.")
@click.option("--seconds", "seconds", type=click.IntRange(min=1), help="Duration. Default: until Ctrl-C.")
@click.pass_context
def command(ctx: click.Context, devices: int, seconds: int | None) -> None:
    """Run a sandbox upstream, a relay with its status page, and simulated devices.

    The demo needs no configuration and no network. It stores events in a directory that it removes at the end.
    """
    ctx.exit(demonstration.main(devices=devices, seconds=seconds))
