"""`relay status`: print /status.json as text."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import click

from relay.cli.client import RelayClient
from relay.cli.common import config_option, load_client_settings, ops_place
from relay.cli.exits import CommandFailed
from relay.cli.shape import Each, Optional
from relay.cli.table import bytes_text, duration_text, table
from relay.cli.terminal import printable_values

WATCH_S = 2.0
SHAPE = {
    "version": str,
    "host": str,
    "started_at": str,
    "uptime_seconds": float,
    "summary": {"level": str, "message": str, "advice": str},
    "rates": {
        "accepted_per_second": Optional(float),
        "delivered_per_second": Optional(float),
        "interval_seconds": float,
    },
    "rejected": Each(int),
    "ledger": {"accepted": int, "delivered": int, "pending": int},
    "outbox": {
        "bytes": int,
        "max_bytes": int,
        "disk_free_bytes": Optional(int),
        "oldest_age_seconds": float,
        "oldest_dropped_in_seconds": Optional(float),
        "full_in_seconds": Optional(float),
        "writable": bool,
        "durability": str,
        "owed_requests": int,
        "problem": str,
    },
    "tenant_names": Each(str),
    "replicas": [{"name": str, "slots": int, "pending": int, "beat_age_seconds": float, "self": bool}],
    "upstreams": [
        {
            "tenant": Optional(int),
            "url": str,
            "state": str,
            "message": str,
            "advice": str,
            "since": str,
            "next_attempt_at": Optional(str),
            "last_delivered_at": Optional(str),
            "last_error": str,
            "last_error_at": Optional(str),
        }
    ],
    "upstreams_left_out": int,
    "devices_waiting": int,
    "devices_held": int,
    "devices": [
        {
            "tenant": int,
            "platform": str,
            "device_id": str,
            "pending": int,
            "paused_until": Optional(str),
            "message": str,
        }
    ],
    "dead_letters": {"count": int},
    "clock_skew_seconds": Optional(float),
    "listen": {"from_systemd": [str]},
}
"""The fields of /status.json that `describe` uses."""


@click.command("status")
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print /status.json; with --watch, one line per update.")
@click.option("--watch", is_flag=True, help="Print the status every two seconds, until Ctrl-C.")
def command(config_file: Path | None, as_json: bool, watch: bool) -> None:
    """Print received, sent and pending events, problems, and what to do about them."""
    client = RelayClient(ops_place(load_client_settings(config_file)))
    if not watch:
        data = client.expect(client.get("/status.json"), SHAPE)
        click.echo(json.dumps(data) if as_json else describe(data))
        return
    pause = threading.Event()
    try:
        while True:
            _show_once(client, as_json)
            pause.wait(WATCH_S)
    except KeyboardInterrupt:
        return


def _show_once(client: RelayClient, as_json: bool) -> None:
    """Print the status, or the error: the relay may only be restarting, so that an error does not end --watch."""
    try:
        data = client.expect(client.get("/status.json"), SHAPE)
    except CommandFailed as failed:
        if not as_json:
            click.clear()
        click.echo(failed.message, err=True)
        return
    if as_json:
        click.echo(json.dumps(data))
        return
    click.clear()
    click.echo(describe(data))


def describe(data: dict[str, Any]) -> str:
    """Return about twenty lines of text, with the summary first."""
    data = printable_values(data)
    ledger, outbox, summary, rates = data["ledger"], data["outbox"], data["summary"], data["rates"]
    facts = [
        (
            "received",
            f"{_rate(rates, 'accepted')}, {ledger['accepted']:,} in total{_rejected(data['rejected'])}",
        ),
        ("sent", f"{_rate(rates, 'delivered')}, {ledger['delivered']:,} in total"),
        (
            "pending",
            f"{ledger['pending']:,}, the oldest for {duration_text(outbox['oldest_age_seconds'])}{_drop(outbox)}",
        ),
        ("devices", f"{data['devices_waiting']:,} with pending events, {data['devices_held']:,} of them paused"),
        ("dead letters", f"{data['dead_letters']['count']:,}"),
        ("can store events", "yes" if outbox["writable"] else f"NO: {outbox['problem']}"),
        ("outbox", f"{bytes_text(outbox['bytes'])} of {bytes_text(outbox['max_bytes'])}{_full(outbox)}{_free(outbox)}"),
        ("durability", outbox["durability"]),
        *([("relays", _replicas(data["replicas"]))] if data["replicas"] else []),
        *(
            [("rate slots", f"{owed:,} reserved for requests of ended relays")]
            if (owed := outbox["owed_requests"])
            else []
        ),
        ("clock", _clock(data["clock_skew_seconds"])),
        *([("systemd sockets", ", ".join(passed))] if (passed := data["listen"]["from_systemd"]) else []),
        (
            "relay",
            f"{data['version']} on {data['host']}, "
            f"up {duration_text(data['uptime_seconds'])} (since {data['started_at']})",
        ),
    ]
    width = max(len(name) for name, _ in facts)
    return "\n\n".join(
        [
            f"{_LEVELS.get(summary['level'], 'UNKNOWN')}  {summary['message']}" + _advice(summary["advice"]),
            "\n".join(f"{name.ljust(width)}  {value}" for name, value in facts),
            table([name.replace("_", " ") for name in ledger], [list(ledger.values())]),
            *(_upstream(endpoint, data["tenant_names"]) for endpoint in data["upstreams"]),
            *([f"and {left:,} more upstreams"] if (left := data["upstreams_left_out"]) else []),
            _devices(data["devices"], data["tenant_names"]),
        ]
    )


_LEVELS = {"ok": "OK", "slow": "SLOW", "trouble": "TROUBLE"}


def _replicas(replicas: list[dict[str, Any]]) -> str:
    """Return the share of each relay in the pending events and in the 256 groups of devices."""
    return "; ".join(
        f"{replica['name']}{' (this one)' if replica['self'] else ''}: {replica['pending']:,} pending, "
        f"{replica['slots']} of 256 groups, seen {duration_text(replica['beat_age_seconds'])} ago"
        for replica in replicas
    )


def _clock(skew_s: float | None) -> str:
    return "unknown" if skew_s is None else f"{round(skew_s, 1) or 0:+.1f} s against the upstream's"


def _rate(rates: dict[str, Any], kind: str) -> str:
    per_second = rates[f"{kind}_per_second"]
    if per_second is None:
        return "not measured yet"
    return f"{per_second:,.4g} events/s in the last {duration_text(rates['interval_seconds'])}"


def _drop(outbox: dict[str, Any]) -> str:
    left = outbox["oldest_dropped_in_seconds"]
    return "" if left is None else f" (dropped in {duration_text(left)})"


def _full(outbox: dict[str, Any]) -> str:
    left = outbox["full_in_seconds"]
    return "; no growth measured" if left is None else f"; full in {duration_text(left)} at this rate"


def _free(outbox: dict[str, Any]) -> str:
    free = outbox["disk_free_bytes"]
    return "" if free is None else f"; {bytes_text(free)} free on the disk"


def _rejected(reasons: dict[str, int]) -> str:
    each = ", ".join(f"{reason.replace('_', ' ')} {count:,}" for reason, count in reasons.items())
    return f"; rejected since the start: {each}" if each else ""


def _advice(text: str) -> str:
    return f"\n  what to do: {text}" if text else ""


def _tenant(tenant_id: int, names: dict[str, str]) -> str:
    """Return "2 (PlayTV)". A tenant is an identifier, not a quantity: no thousands separator."""
    name = names.get(str(tenant_id), "")
    return f"{tenant_id} ({name})" if name else str(tenant_id)


def _upstream(endpoint: dict[str, Any], names: dict[str, str]) -> str:
    name = "upstream" if endpoint["tenant"] is None else f"upstream of tenant {_tenant(endpoint['tenant'], names)}"
    lines = [
        f"{name}: {endpoint['state']} since {endpoint['since']}",
        f"  {endpoint['url']}",
        f"  {endpoint['message']}",
    ]
    if endpoint["last_delivered_at"]:
        lines.append(f"  last delivery: {endpoint['last_delivered_at']}")
    if endpoint["next_attempt_at"]:
        lines.append(f"  next attempt: {endpoint['next_attempt_at']}")
    if endpoint["last_error"]:
        lines.append(f"  last error at {endpoint['last_error_at']}: {endpoint['last_error']}")
    return "\n".join(lines) + _advice(endpoint["advice"])


def _devices(devices: list[dict[str, Any]], names: dict[str, str]) -> str:
    if not devices:
        return "devices: no pending events"
    keys = ("platform", "device_id", "pending", "paused_until", "message")
    rows = [[_tenant(device["tenant"], names), *(device[key] for key in keys)] for device in devices]
    return table(("tenant", "platform", "device", "pending", "paused until", "why"), rows)
