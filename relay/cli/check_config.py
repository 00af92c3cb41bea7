"""`relay check-config`: what the relay would run with, and where each value comes from.

Prints what `relay.config` decides, secrets masked, one line a key, as TOML with the origin behind it.
Without --online it touches nothing but the files that the configuration names.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from relay.cli.common import config_option
from relay.cli.exits import CONFIG_WRONG, FAILED, Failed
from relay.config import ConfigError, Settings, default_config_file, describe, load_with_origins, toml
from relay.secret import exposed


@click.command("check-config")
@config_option
@click.option("--online", is_flag=True, help="Also try the upstream's name, TLS and key; no event is stored there.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(config_file: Path | None, online: bool, as_json: bool) -> None:
    """Print the effective configuration, secrets masked, each value with its origin.

    Exits with 78 if the configuration is wrong, with 1 if a step of --online failed.
    """
    try:
        settings, origins = load_with_origins(config_file or default_config_file(), os.environ)
    except ConfigError as error:
        raise Failed(str(error), CONFIG_WRONG) from None
    shown = {name: {"value": value, "origin": origins[name]} for name, value in describe(settings).items()}
    warnings = exposed(settings.secret_files)
    steps = _try_upstream(settings) if online else ()
    if as_json:
        answer: dict[str, object] = {"settings": shown, "warnings": warnings}
        if online:
            answer["online"] = [{"step": step, "ok": ok, "words": words} for step, ok, words in steps]
        click.echo(json.dumps(answer, indent=2))
    else:
        for name, entry in shown.items():
            click.echo(f"{name} = {toml(entry['value'])}  # {entry['origin']}")
        for warning in warnings:
            click.echo(f"warning: {warning}", err=True)
        for step, ok, words in steps:
            click.echo(f"{'ok    ' if ok else 'FAILED'} {step}: {words}")
    if not all(ok for _, ok, _ in steps):
        sys.exit(FAILED)


def _try_upstream(settings: Settings) -> Sequence[tuple[str, bool, str]]:
    # the HTTP client is slow to import, and needed for this only
    from relay.forward.online import check  # noqa: PLC0415

    return asyncio.run(check(settings))
