"""What schemathesis cannot know from a description: loaded by it, see test_schemathesis."""

from __future__ import annotations

import json
from typing import Any

import schemathesis
from hypothesis import strategies as st

EVENT_TYPES = st.sampled_from(["app.start", "video.play", "é", "\U0001f4fa"])
EVENTS = st.builds(
    lambda event_type, tenant_id: json.dumps(
        {"event_type": event_type, "tenant_id": tenant_id, "source": {"platform": "tv", "device_id": "d"}}
    ),
    EVENT_TYPES,
    st.integers(1, 2**63 - 1),
)

schemathesis.openapi.media_type("text/plain", EVENTS.map(str.encode))
LINES = st.lists(EVENTS, min_size=1, max_size=3).map("\n".join).map(str.encode)
for lines in ("application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines"):
    schemathesis.openapi.media_type(lines, LINES)


@schemathesis.hook
def map_body(context: schemathesis.HookContext, body: Any) -> Any:
    """Without what the description forbids in words only, for a schema cannot."""
    return sayable(body)


def sayable(value: Any) -> Any:
    """No U+0000, no integer beyond 64 bits, and none that is written with a point: to a schema 2.0 is an integer."""
    if isinstance(value, str):
        return value.replace("\0", "")
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if type(value) is int:
        return max(-(2**63), min(value, 2**63 - 1))
    if isinstance(value, list):
        return [sayable(each) for each in value]
    if isinstance(value, dict):
        return {sayable(name): sayable(each) for name, each in value.items()}
    return value
