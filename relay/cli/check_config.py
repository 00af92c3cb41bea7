"""`relay check-config`: print the effective configuration and the source of each value.

The output is TOML with masked secrets, one line per key, with the value's source in a comment. Without --online, the
command only reads the files that the configuration names.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from relay.app.checked_settings import usable
from relay.cli.common import config_option, json_option
from relay.cli.exits import CONFIG_WRONG, FAILED, CommandFailed
from relay.cli.terminal import printable
from relay.config import ConfigError, Settings, describe, find_config_file, load, toml
from relay.runtime.secret import exposed


@click.command("check-config")
@config_option
@click.option("--online", is_flag=True, help="Also test name lookup, TLS and key of the upstream, without an event.")
@json_option
def command(config_file: Path | None, online: bool, as_json: bool) -> None:
    """Print the effective configuration with masked secrets and the source of each value.

    Exits with 78 if the configuration is not valid, and with 1 if a step of --online fails.
    """
    try:
        settings = usable(load(find_config_file(config_file, os.environ), os.environ))
    except ConfigError as error:
        faults = len(error.faults)
        verdict = f"configuration is not valid: {faults} {'fault' if faults == 1 else 'faults'}"
        raise CommandFailed(f"{error}\n{verdict}", CONFIG_WRONG) from None
    shown = {name: {"value": value, "origin": settings.sources[name]} for name, value in describe(settings).items()}
    warnings = [*exposed(dict.fromkeys(settings.secret_files.values())), *_cautions(settings)]
    steps = _try_upstream(settings) if online else ()
    if as_json:
        result: dict[str, object] = {"valid": True, "settings": shown, "warnings": warnings}
        if online:
            result["online"] = [{"step": step, "ok": ok, "message": detail} for step, ok, detail in steps]
        click.echo(json.dumps(result, indent=2))
    else:
        for name, entry in shown.items():
            click.echo(f"{name} = {toml(entry['value'])}  # {entry['origin']}")
        for warning in warnings:
            click.echo(f"warning: {warning}", err=True)
        for step, ok, detail in steps:
            click.echo(f"{'ok    ' if ok else 'FAILED'} {step}: {printable(detail)}")
        click.echo(_verdict(len(warnings), [step for step, ok, _ in steps if not ok]))
    if not all(ok for _, ok, _ in steps):
        sys.exit(FAILED)


def _cautions(settings: Settings) -> Sequence[str]:
    """Return a warning for each valid setting that permits more than an operator may expect."""
    if "null" not in settings.http.allowed_origins:
        return ()
    return ('http.allowed_origins contains "null", which admits any sandboxed page of any site',)


def _verdict(warnings: int, failed_steps: Sequence[str]) -> str:
    """Return the last line of the output: whether the relay would start, and what needs attention.

    The line is a TOML comment, so that the output can be used as a configuration file.
    """
    line = "# configuration is valid"
    if warnings:
        line += f", with {warnings} {'warning' if warnings == 1 else 'warnings'}"
    if failed_steps:
        line += f"; the upstream check failed: {', '.join(failed_steps)}"
    return line


def _try_upstream(settings: Settings) -> Sequence[tuple[str, bool, str]]:
    # The HTTP client is slow to import, and only --online needs it.
    from relay.forward.online_check import check  # noqa: PLC0415

    return asyncio.run(check(settings))
