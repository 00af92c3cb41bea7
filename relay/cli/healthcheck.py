"""`relay healthcheck`: for HEALTHCHECK of a container, and for watchdogs of a box.

It runs every few seconds beside the relay, on small processors: it imports no HTTP library, and
reads of an answer the status; what else it says is passed on as it is.
"""

from __future__ import annotations

import socket
from pathlib import Path

import click

from relay.cli import exits
from relay.cli.common import Place, Seconds, config_option, load_client_settings, no_relay, ops_place

MAX_ANSWER_BYTES = 4096


@click.command("healthcheck")
@config_option
@click.option(
    "--timeout",
    "timeout_s",
    default=5.0,
    show_default=True,
    type=Seconds(above_zero=True),
    metavar="SECONDS",
    help="Of each question.",
)
@click.option("--json", "as_json", is_flag=True, help="Print what /readyz said, or what is wrong, as one JSON object.")
def command(config_file: Path | None, timeout_s: float, as_json: bool) -> None:
    """Exit 0 if the relay lives (/livez) and can store events (/readyz).

    An upstream that does not answer is no fault of the relay's.
    """
    place = ops_place(load_client_settings(config_file))
    said = ""
    for path in ("/livez", "/readyz"):
        answer = _ask(place, path, timeout_s)
        head, _, body = answer.partition(b"\r\n\r\n")
        said = (body or head.partition(b"\r\n")[0]).decode(errors="replace")
        if not head.startswith((b"HTTP/1.1 200 ", b"HTTP/1.0 200 ")):
            if as_json:
                click.echo(said)
            raise exits.Failed(f"{place}{path}: {said or 'an empty answer'}")
    click.echo(said if as_json else "fine")


def _ask(place: Place, path: str, timeout_s: float) -> bytes:
    """The answer's beginning. Raises Failed if there is none."""
    family = socket.AF_UNIX if place.socket_path else socket.AF_INET6 if ":" in place.host else socket.AF_INET
    answer = bytearray()
    try:
        with socket.socket(family, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout_s)
            connection.connect(place.socket_path or (place.host, place.port))
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            while len(answer) < MAX_ANSWER_BYTES and (part := connection.recv(MAX_ANSWER_BYTES)):
                answer += part
    except OSError as error:
        raise no_relay(place, error) from error
    return bytes(answer)
