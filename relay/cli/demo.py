"""`relay demo`."""

from __future__ import annotations

import click

from relay.cli import demo_run as demonstration


@click.command("demo")
@click.option("--devices", default=20, show_default=True, type=click.IntRange(1, 1000), help="Simulated devices.")
@click.option("--seconds", "seconds", type=click.IntRange(min=1), help="End by itself after so long; else with Ctrl-C.")
@click.pass_context
def command(ctx: click.Context, devices: int, seconds: int | None) -> None:
    """Show everything at once: a sandbox upstream, a relay, simulated devices and the status page.

    Needs no configuration and no network; what it keeps is in a directory that is removed at the end.
    """
    ctx.exit(demonstration.main(devices=devices, seconds=seconds))
