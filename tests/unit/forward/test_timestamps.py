"""A wrong occurred_at inserted by the relay is corrected; the rest of the event is unchanged."""

from __future__ import annotations

import pytest
from relay.event.reader import Event, EventDefaults, Reader
from relay.forward.timestamps import corrected
from relay.runtime.clock import rfc3339

NOON = 1_795_420_800_000
ID = "550e8400-e29b-41d4-a716-446655440000"
REST = b'"event_type":"a","tenant_id":1,"source":{"platform":"tv","device_id":"d"}}'
BODIES = [b"{" + REST, b'{"event_id":"' + ID.encode() + b'",' + REST, b'{ "event_id" : "' + ID.encode() + b'" ,' + REST]


def received(body: bytes, wall_ms: int) -> Event:
    """Return the event that the relay stores for `body` at the wall time `wall_ms`."""
    (event,) = list(Reader(EventDefaults(), 1 << 16, lambda: ID, lambda: rfc3339(wall_ms)).read(body, "json"))
    assert isinstance(event, Event)
    return event


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("wall_ms", [0, 5_123, NOON - 86_400_000, NOON + 10 * 86_400_000, -62_135_596_800_000])
def test_wrong_timestamp_is_corrected_and_nothing_else_changes(body: bytes, wall_ms: int) -> None:
    event = received(body, wall_ms)
    assert event.has_inserted_time
    assert corrected(event.body, NOON, same_boot=True) == received(body, NOON).body


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("off_ms", [0, 30_000, -30_000])
def test_nearly_correct_timestamp_is_unchanged(body: bytes, off_ms: int) -> None:
    event = received(body, NOON + off_ms)
    assert corrected(event.body, NOON, same_boot=True) == event.body


@pytest.mark.parametrize(
    ("wall_ms", "becomes_ms"),
    [
        (5_123, NOON),
        (NOON + 86_400_000, NOON),
        (NOON - 86_400_000, NOON - 86_400_000),
    ],
    ids=["clock never set", "impossibly late", "early: the machine may have been off since"],
)
def test_timestamp_of_another_boot_is_corrected_only_if_it_is_impossible(wall_ms: int, becomes_ms: int) -> None:
    event = received(BODIES[0], wall_ms)
    assert corrected(event.body, NOON, same_boot=False) == received(BODIES[0], becomes_ms).body


def test_time_of_an_app_is_not_corrected_even_at_the_place_of_an_inserted_timestamp() -> None:
    body = b'{"occurred_at":"1970-01-01T00:00:05.123Z","event_id":"' + ID.encode() + b'",' + REST
    event = received(body, NOON)
    assert not event.has_inserted_time
    assert event.body == body
