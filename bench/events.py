"""The events of the load: valid, of one exact size, from a given number of devices, each with a unique id.

An event is the head and the tail of its device with the last 12 hex digits of the id between them. A load generator in
any language creates an event by joining three strings.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ID_DIGITS = 12


class Template(NamedTuple):
    head: str
    tail: str


def new_run() -> str:
    """Return the first 8 hex digits of all ids of a run."""
    return os.urandom(4).hex()


def device_id(number: int) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"bench/device/{number}")).upper()


def templates(run: str, devices: int, event_bytes: int) -> list[Template]:
    """Return one template per device. Raise ValueError if `event_bytes` is too small."""
    return [_template(run, device_id(number), event_bytes) for number in range(devices)]


def _template(run: str, device: str, event_bytes: int) -> Template:
    head = f'{{"event_id":"{run}-0000-4000-8000-'
    source = {"platform": "tv", "device_id": device}
    fields: dict[str, object] = {"event_type": "video.play", "tenant_id": 2, "source": source}
    if event_bytes >= 400:
        source |= {"app_version": "2.1.0", "os_version": "11", "device_model": "Box 4K"}
        fields |= {"subject": {"type": "video", "id": "01HQXYZ123"}, "occurred_at": "2026-11-23T08:00:00.000Z"}
    missing = event_bytes - len(head) - ID_DIGITS - len(_tail(fields, ""))
    if missing < 0:
        raise ValueError(f"event_bytes is {event_bytes}, but an event has at least {event_bytes - missing} bytes")
    return Template(head, _tail(fields, "x" * missing))


def _tail(fields: dict[str, object], pad: str) -> str:
    text = json.dumps(fields | {"context": {"p": pad}}, separators=(",", ":"))
    return '",' + text[1:]


def event(template: Template, number: int) -> bytes:
    return f"{template.head}{number:012x}{template.tail}".encode()


def write(path: Path, made: Sequence[Template]) -> None:
    """Write head and tail of each device on separate lines, for `post.lua`."""
    path.write_text("".join(f"{head}\n{tail}\n" for head, tail in made))
