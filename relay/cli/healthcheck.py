"""`relay healthcheck`: the HEALTHCHECK of a container, or a watchdog's test.

It runs every few seconds beside the relay on small processors. It therefore imports no HTTP library.
"""

from __future__ import annotations

import json
from pathlib import Path

import click

from relay.cli import exits
from relay.cli.client import RelayClient
from relay.cli.common import Seconds, config_option, load_client_settings, ops_place
from relay.cli.terminal import printable


@click.command("healthcheck")
@config_option
@click.option(
    "--timeout",
    "timeout_s",
    default=5.0,
    show_default=True,
    type=Seconds(above_zero=True),
    metavar="SECONDS",
    help="Longest time for each request.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print the response of /readyz, or the failing response, as JSON."
)
def command(config_file: Path | None, timeout_s: float, as_json: bool) -> None:
    """Exit with 0 if the relay runs (/livez) and can store events (/readyz).

    An unavailable upstream does not make the relay unhealthy.
    """
    client = RelayClient(ops_place(load_client_settings(config_file)), timeout_s=timeout_s)
    _require(client, "/livez", "alive", as_json)
    response = _require(client, "/readyz", "ready", as_json)
    click.echo(response if as_json else "fine")


def _require(client: RelayClient, path: str, field: str, as_json: bool) -> str:
    """Return the response as JSON text. Raises CommandFailed unless its status is 200 and its `field` is true."""
    reply = client.get(path)
    text = json.dumps(reply.data)
    if reply.status != 200 or reply.data.get(field) is not True:
        if not isinstance(reply.data.get(field), bool) and not isinstance(reply.data.get("error"), str):
            raise client.not_a_relay(f"received {text[:60]!r} from {path}, expected {field!r}: true")
        if as_json:
            click.echo(text)
        raise exits.CommandFailed(f"{client.place}{path}: {printable(text)}")
    return text
