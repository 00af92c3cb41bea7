"""`relay send`: one event of a person or a script, over the same ways apps have.

What is not given is left to the relay's own defaults where its configuration has one, and filled in
here where it has none, so that `relay send post.view` is a whole event.
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
from relay.cli.client import TIMEOUT_S, CommandReply, RelayClient
from relay.cli.common import Place, Seconds, Utf8, apps_place, config_option, load_client_settings, no_relay, udp_place
from relay.cli.shape import Each, difference
from relay.config import Defaults, Settings
from relay.runtime.clock import SystemClock

POLL_S = 0.25
LAST_QUESTION_S = 1.0
"""It has so long for its answer, though time is up."""
ACK_TIMEOUT_S = 5.0
MAX_DATAGRAM_BYTES = 65_507
PLATFORMS = ("ios", "android", "web", "tv")


@click.command("send")
@click.argument("event_type", type=Utf8())
@config_option
@click.option("--udp", is_flag=True, help="As a datagram; without udp.ack nobody says whether it was stored.")
@click.option("--wait", is_flag=True, help="Until the upstream has accepted it.")
@click.option(
    "--timeout", "timeout_s", default=60.0, show_default=True, type=Seconds(), metavar="SECONDS", help="Of --wait."
)
@click.option("--tenant-id", type=int, help="Default: defaults.tenant_id, else 1.")
@click.option("--platform", type=click.Choice(PLATFORMS), help="Default: defaults.platform, else tv.")
@click.option("--device-id", type=Utf8(), help="Default: defaults.device_id, else a UUID made of this machine's name.")
@click.option("--subject-type", type=Utf8(), help="What the event is about; goes with --subject-id.")
@click.option("--subject-id", type=Utf8())
@click.option("--context", type=Utf8(), metavar="JSON", help="Any further data, as a JSON object.")
@click.option(
    "--event-id",
    type=Utf8(),
    metavar="UUID",
    help="Default: a new one. One that was sent before is not stored again.",
)
@click.option("--json", "as_json", is_flag=True, help="Say what became of it as JSON.")
def command(
    config_file: Path | None, udp: bool, wait: bool, timeout_s: float, event_id: str | None, as_json: bool, **given: Any
) -> None:
    """Send one event of EVENT_TYPE (post.view, video.play, ...) to a running relay.

    Exits with 1 if the relay refused it, or did not get rid of it in time with --wait.
    """
    settings = load_client_settings(config_file)
    event_id = event_id or SystemClock().new_event_id()
    body = json.dumps(make_event(event_id, settings.defaults, **given), ensure_ascii=False).encode()
    try:
        state = _send_datagram(settings, body) if udp else _post(RelayClient(apps_place(settings)), body)
        if wait:
            state = _wait(apps_place(settings), event_id, timeout_s)
    except exits.Failed as failed:
        # by its id it can be asked for, and sent again without being stored twice
        raise exits.Failed(f"{failed.message}\nevent_id: {event_id}", failed.exit_code) from failed
    click.echo(json.dumps({"event_id": event_id, "state": state}) if as_json else f"{state}: {event_id}")


def make_event(
    event_id: str,
    defaults: Defaults,
    *,
    event_type: str,
    tenant_id: int | None,
    platform: str | None,
    device_id: str | None,
    subject_type: str | None,
    subject_id: str | None,
    context: str | None,
) -> dict[str, Any]:
    """The event, without what the relay's defaults will fill in. Raises click.UsageError."""
    if (subject_type is None) != (subject_id is None):
        raise click.UsageError("--subject-type and --subject-id go together")
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
        json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair can be read, but not be sent
    except (ValueError, RecursionError) as error:
        raise click.BadParameter(f"is not JSON that can be sent: {error}", param_hint="--context") from error
    if not isinstance(value, dict):
        raise click.BadParameter('is not a JSON object, as in {"key": "value"}', param_hint="--context")
    return value


def _machine_id() -> str:
    """The same on every call on this machine."""
    return str(uuid.uuid5(uuid.NAMESPACE_DNS, socket.gethostname()))


def _post(client: RelayClient, body: bytes) -> str:
    """ "stored". Raises Failed with the relay's words."""
    reply = client.ask("POST", "/v1/events", body)
    if reply.status == 422:
        if wrong := difference(reply.data, {"errors": Each([str])}):
            raise client.not_a_relay(wrong)
        raise exits.Failed("the relay refused the event:\n" + _faults(reply))
    data = client.expect(reply, {"success": bool})
    if reply.status != 202 or data["success"] is not True:
        raise client.not_a_relay(f"status {reply.status}, expected 202 with 'success': true")
    return "stored"


def _faults(reply: CommandReply) -> str:
    """Return a line for each fault, by path. Raises Failed if these are not a relay's."""
    return "\n".join(f"  {path}: {' '.join(messages)}" for path, messages in reply.data["errors"].items())


def _send_datagram(settings: Settings, body: bytes) -> str:
    """ "stored" if the relay acknowledged it, else "sent". Raises Failed."""
    place = udp_place(settings)
    if len(body) > MAX_DATAGRAM_BYTES:
        raise exits.Failed(f"the event has {len(body)} bytes, a datagram holds {MAX_DATAGRAM_BYTES}: send it over HTTP")
    family = socket.AF_INET6 if ":" in place.host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sending:
            # connected, so that the kernel tells when nobody listens
            sending.connect((place.host, place.port))
            sending.send(body)
            if not settings.udp.ack:
                return "sent"
            sending.settimeout(ACK_TIMEOUT_S)
            return _acknowledged(place, sending.recv(MAX_DATAGRAM_BYTES))
    except OSError as error:
        raise no_relay(place, error) from error


def _acknowledged(place: Place, answer: bytes) -> str:
    try:
        data = json.loads(answer)
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict):
        raise exits.Failed(f"what answers at {place} is not a relay: received {answer[:60]!r}, expected a JSON object")
    if "error" in data:
        raise exits.Failed(f"the relay at {place} refused: {data['error']}")
    return "stored"


def _wait(place: Place, event_id: str, timeout_s: float) -> str:
    """ "delivered". Raises Failed if it is not in time, or becomes a dead letter."""
    clock = SystemClock()
    until_ms = clock.monotonic_ms() + int(timeout_s * 1000)
    pause = threading.Event()
    while True:
        rest_s = max((until_ms - clock.monotonic_ms()) / 1000, LAST_QUESTION_S)
        state, why = _state(RelayClient(place, timeout_s=min(rest_s, TIMEOUT_S)), event_id)
        if state == "delivered":
            return state
        if state == "dead_lettered":
            raise exits.Failed("the upstream refused it; `relay dead list` has its words")
        if clock.monotonic_ms() >= until_ms:
            raise exits.Failed(f"{state} after {timeout_s:g} s ({why})")
        pause.wait(POLL_S)


def _state(client: RelayClient, event_id: str) -> tuple[str, str]:
    """What became of it, and what is to be said of that if time is up."""
    try:
        reply = client.get(f"/v1/events/{event_id}")
    except exits.NoRelay as error:  # it may be starting again
        return "not known", error.message
    # over UDP a 404 may be an event that is still on its way to the disk
    state = "not stored" if reply.status == 404 else client.expect(reply, {"state": str})["state"]
    return state, "`relay status` says what it waits for"
