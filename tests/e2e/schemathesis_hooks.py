"""Hooks that tell schemathesis rules that the description cannot express. See test_schemathesis."""

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
    """Remove values that only the text of the description forbids, because a schema cannot."""
    return sayable(body)


def sayable(value: Any) -> Any:
    """Replace U+0000, integers beyond 64 bits, and integers written as floats: 2.0 is an integer in a schema."""
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
