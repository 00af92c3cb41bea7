"""`relay status`: /status.json for people."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import click

from relay.cli.client import Client
from relay.cli.common import config_option, load_client_settings, ops_place
from relay.cli.table import bytes_text, duration_text, table

WATCH_S = 2.0


@click.command("status")
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print /status.json.")
@click.option("--watch", is_flag=True, help="Again every two seconds, until Ctrl-C.")
def command(config_file: Path | None, as_json: bool, watch: bool) -> None:
    """What came in and went out, what waits and why, and what the upstream says."""
    client = Client(ops_place(load_client_settings(config_file)))
    pause = threading.Event()
    try:
        while True:
            data = client.expect(client.get("/status.json"))
            if watch and not as_json:
                click.clear()
            click.echo(json.dumps(data) if as_json else describe(data))
            if not watch:
                return
            pause.wait(WATCH_S)
    except KeyboardInterrupt:
        return


def describe(data: dict[str, Any]) -> str:
    """Some twenty lines of text."""
    ledger, outbox = data["ledger"], data["outbox"]
    able = "yes" if outbox["writable"] else f"NO: {outbox['problem']}"
    facts = [
        ("relay", f"{data['version']}, up {duration_text(data['uptime_seconds'])} (since {data['started_at']})"),
        ("can store events", able),
        ("outbox", f"{bytes_text(outbox['bytes'])} of {bytes_text(outbox['max_bytes'])}"),
        ("oldest event waits", duration_text(outbox["oldest_age_seconds"])),
        ("devices", f"{data['devices_waiting']:,} waiting, {data['devices_held']:,} held back"),
        ("dead letters", f"{data['dead_letters']['count']:,}"),
        ("clock", f"{data['clock_skew_seconds']:+.1f} s against the upstream's"),
    ]
    width = max(len(name) for name, _ in facts)
    sections = [
        "\n".join(f"{name.ljust(width)}  {value}" for name, value in facts),
        table([name.replace("_", " ") for name in ledger], [list(ledger.values())]),
        _upstreams(data["upstreams"]),
        _devices(data["devices"]),
    ]
    return "\n\n".join(sections)


def _upstreams(routes: list[dict[str, Any]]) -> str:
    if not routes:
        return "upstream: nothing sent yet"
    keys = ("tenant", "state", "since", "next_attempt_at", "last_error")
    # a tenant is a name, not a quantity
    rows = [[str(route["tenant"]), *(route[key] for key in keys[1:])] for route in routes]
    return table(("tenant", "upstream", "since", "next attempt", "last error"), rows)


def _devices(devices: list[dict[str, Any]]) -> str:
    if not devices:
        return "devices: nothing waits"
    rows = [
        (
            str(device["tenant"]),
            device["platform"],
            device["device_id"],
            device["pending"],
            device["held_until"],
            device["why"],
        )
        for device in devices
    ]
    return table(("tenant", "platform", "device", "waiting", "held until", "why"), rows)
