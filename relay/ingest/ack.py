"""What a datagram is answered (udp.ack): never more bytes than it had, so that nobody can be flooded through the relay.

Pure.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from typing import Any


def stored_ack(event_ids: Sequence[bytes], max_bytes: int) -> bytes:
    """`{"stored": [...]}` with as many of the 16-byte ids as fit into `max_bytes`; else `{}`, else nothing."""
    names = [str(uuid.UUID(bytes=event_id)) for event_id in event_ids]
    fit = min(len(names), (max_bytes - len('{"stored":[]}') + 1) // len(f'"{uuid.UUID(int=0)}",'))
    return _compact({"stored": names[:fit]}) if fit > 0 else b"{}"[: max_bytes // 2 * 2]


def error_ack(error: str, max_bytes: int) -> bytes:
    """`{"error": "..."}`, the text cut to fit into `max_bytes`; else `{}`, else nothing."""
    text = error.encode("ascii", "replace").decode()
    while text:
        ack = _compact({"error": text})
        if len(ack) <= max_bytes:
            return ack
        text = text[: max_bytes - len(ack)]
    return b"{}"[: max_bytes // 2 * 2]


def _compact(content: dict[str, Any]) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode()
