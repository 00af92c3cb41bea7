"""`relay send`: send one event as an app does, over HTTP or UDP.

`relay send post.view` is a complete event. The relay's `defaults` supply a missing field where the configuration has
one, and this command supplies it otherwise.
"""

from __future__ import annotations

import json
import socket
import threading
import uuid
from pathlib import Path
from typing import Any

import click

from relay.cli import exits
from relay.cli.client import TIMEOUT_S, RelayClient
from relay.cli.common import (
    Place,
    Seconds,
    Utf8,
    apps_place,
    config_option,
    json_option,
    load_client_settings,
    no_relay,
    udp_place,
)
from relay.cli.event import find
from relay.cli.shape import Each, difference
from relay.cli.terminal import printable
from relay.config import Settings
from relay.event.rules import EventDefaults
from relay.runtime.clock import SystemClock

POLL_S = 0.25
LAST_REQUEST_S = 1.0
"""Minimum time for the response to the last request of --wait, also past the timeout."""
ACK_TIMEOUT_S = 5.0
MAX_DATAGRAM_BYTES = 65_507
_MAX_FAULTS = 20
"""Maximum number of invalid fields that are listed."""
PLATFORMS = ("ios", "android", "web", "tv")


@click.command("send")
@click.argument("event_type", type=Utf8())
@config_option
@click.option(
    "--udp", is_flag=True, help="Send over UDP. The relay confirms that it stored the event only if udp.ack is true."
)
@click.option("--wait", is_flag=True, help="Wait until the event is delivered.")
@click.option(
    "--timeout",
    "timeout_s",
    default=60.0,
    show_default=True,
    type=Seconds(),
    metavar="SECONDS",
    help="Longest time for --wait.",
)
@click.option("--tenant-id", type=int, help="Tenant of the event. Default: defaults.tenant_id or 1.")
@click.option(
    "--platform", type=click.Choice(PLATFORMS), help="Platform of the device. Default: defaults.platform or tv."
)
@click.option("--device-id", type=Utf8(), help="Id of the device. Default: defaults.device_id or a UUID of this host.")
@click.option("--subject-type", type=Utf8(), help="Type of the event's subject; requires --subject-id.")
@click.option("--subject-id", type=Utf8(), help="Id of the event's subject; requires --subject-type.")
@click.option("--context", type=Utf8(), metavar="JSON", help="Further data, a JSON object.")
@click.option(
    "--event-id",
    type=Utf8(),
    metavar="UUID",
    help="Id of the event, which the relay stores only once. Default: a new id.",
)
@json_option
def command(
    config_file: Path | None, udp: bool, wait: bool, timeout_s: float, event_id: str | None, as_json: bool, **given: Any
) -> None:
    """Send one event of EVENT_TYPE (post.view, video.play, ...) to a running relay.

    Exits with 1 if the relay rejects the event or, with --wait, if the event is not delivered in time.
    """
    settings = load_client_settings(config_file)
    event_id = event_id or SystemClock().new_event_id()
    body = json.dumps(make_event(event_id, settings.defaults, **given), ensure_ascii=False).encode()
    try:
        state = _send_datagram(settings, body, event_id) if udp else _post(RelayClient(apps_place(settings)), body)
        if wait:
            state = _wait(apps_place(settings), event_id, timeout_s)
    except exits.CommandFailed as failed:
        # With its id, the event can be looked up, and sent again without being stored twice.
        raise exits.CommandFailed(f"{failed.message}\nevent_id: {event_id}", failed.exit_code) from failed
    click.echo(json.dumps({"event_id": event_id, "state": state}) if as_json else f"{state}: {event_id}")


def make_event(
    event_id: str,
    defaults: EventDefaults,
    *,
    event_type: str,
    tenant_id: int | None,
    platform: str | None,
    device_id: str | None,
    subject_type: str | None,
    subject_id: str | None,
    context: str | None,
) -> dict[str, Any]:
    """Return the event without the fields that the relay's defaults supply. Raises click.UsageError."""
    if (subject_type is None) != (subject_id is None):
        raise click.UsageError("--subject-type and --subject-id require each other")
    source = {
        "platform": platform or (None if defaults.platform else "tv"),
        "device_id": device_id or (None if defaults.device_id else _machine_id()),
    }
    event: dict[str, Any] = {
        "event_id": event_id,
        "event_type": event_type,
        "tenant_id": tenant_id if tenant_id is not None or defaults.tenant_id is not None else 1,
        "source": {name: value for name, value in source.items() if value is not None},
        "subject": None if subject_type is None else {"type": subject_type, "id": subject_id},
        "context": None if context is None else _object(context),
    }
    return {name: value for name, value in event.items() if value is not None}


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False).encode()  # Half a surrogate pair cannot be sent.
    except (ValueError, RecursionError) as error:
        raise click.BadParameter(f"is not JSON that can be sent: {error}", param_hint="--context") from error
    if not isinstance(value, dict):
        raise click.BadParameter('is not a JSON object, as in {"key": "value"}', param_hint="--context")
    return value


def _machine_id() -> str:
    """Return a UUID that is the same for every call on this machine."""
    return str(uuid.uuid5(uuid.NAMESPACE_DNS, socket.gethostname()))


def _post(client: RelayClient, body: bytes) -> str:
    """Return "stored". Raises CommandFailed with the relay's error message."""
    reply = client.ask("POST", "/v1/events", body)
    if reply.status == 422:
        if wrong := difference(reply.data, {"errors": Each([str])}):
            raise client.not_a_relay(wrong)
        raise exits.CommandFailed("the relay rejected the event:\n" + _faults(reply.data["errors"]))
    data = client.expect(reply, {"success": bool})
    if reply.status != 202 or data["success"] is not True:
        raise client.not_a_relay(f"status {reply.status}, expected 202 with 'success': true")
    return "stored"


def _faults(errors: dict[str, list[str]]) -> str:
    """Return one line per field with its messages, at most _MAX_FAULTS lines."""
    lines = [f"  {printable(path, 100)}: {printable(' '.join(messages))}" for path, messages in errors.items()]
    left_out = len(lines) - _MAX_FAULTS
    return "\n".join(lines[:_MAX_FAULTS] + ([f"  and {left_out:,} more"] if left_out > 0 else []))


def _send_datagram(settings: Settings, body: bytes, event_id: str) -> str:
    """Return "stored" if the relay acknowledged the event, and "sent" without udp.ack. Raises CommandFailed."""
    place = udp_place(settings)
    if len(body) > MAX_DATAGRAM_BYTES:
        raise exits.CommandFailed(
            f"the event has {len(body)} bytes, a datagram holds {MAX_DATAGRAM_BYTES}: send it over HTTP"
        )
    family = socket.AF_INET6 if ":" in place.host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sending:
            # A connected socket reports an error if no process listens at the address.
            sending.connect((place.host, place.port))
            sending.send(body)
            if not settings.udp.ack:
                return "sent"
            sending.settimeout(ACK_TIMEOUT_S)
            return _acknowledged(place, sending.recv(MAX_DATAGRAM_BYTES), event_id)
    except OSError as error:
        raise no_relay(place, error) from error


def _acknowledged(place: Place, ack: bytes, event_id: str) -> str:
    """Return "stored". Raises CommandFailed if the relay rejected the event, or if no relay sends such a datagram.

    An acknowledgement is {"stored": [event_id], "count": 1}, {"count": 1} or {"error": "..."}.
    """
    try:
        data = json.loads(ack)
    except (ValueError, RecursionError):
        data = None
    match data:
        case {"error": str(error)} if error and len(data) == 1:
            raise exits.CommandFailed(f"the relay at {place} rejected the event: {printable(error)}")
        case {"stored": [str(stored)], "count": int(count)} if len(data) == 2 and _is_same_id(stored, event_id):
            is_ack = count == 1 and count is not True
        case {"count": int(count)}:
            is_ack = len(data) == 1 and count == 1 and count is not True
        case _:
            is_ack = False
    if not is_ack:
        raise exits.CommandFailed(
            f"the server at {place} is not a relay: received {ack[:60]!r}, expected the acknowledgement of one event"
        )
    return "stored"


def _is_same_id(received: str, event_id: str) -> bool:
    """Compare two UUIDs, which may be written differently."""
    try:
        return uuid.UUID(received) == uuid.UUID(event_id)
    except ValueError:
        return False


def _wait(place: Place, event_id: str, timeout_s: float) -> str:
    """Return "delivered". Raises CommandFailed at the timeout, or if the event will never be delivered."""
    clock = SystemClock()
    until_ms = clock.monotonic_ms() + int(timeout_s * 1000)
    pause = threading.Event()
    while True:
        rest_s = max((until_ms - clock.monotonic_ms()) / 1000, LAST_REQUEST_S)
        state, detail = _state(RelayClient(place, timeout_s=min(rest_s, TIMEOUT_S)), event_id)
        if state == "delivered":
            return state
        if state in ("dead_lettered", "dropped"):
            raise exits.CommandFailed(f"{state.replace('_', '-')}: {detail}")
        if clock.monotonic_ms() >= until_ms:
            raise exits.CommandFailed(f"{state} after {timeout_s:g} s ({detail})")
        pause.wait(POLL_S)


def _state(client: RelayClient, event_id: str) -> tuple[str, str]:
    """Return the event's state, and the detail for a message."""
    try:
        data = find(client, event_id)
    except exits.NoRelay as error:  # The relay may be restarting.
        return "unknown", error.message
    if data is None:  # After a datagram, the relay may not have stored the event yet.
        return "not stored", "`relay status` shows the reason"
    return printable(data["state"], 40), printable(data.get("message", "`relay status` shows why"))
