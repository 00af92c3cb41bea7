"""Only events of `upstream.allowed_tenants` are accepted, in every form of a body."""

from __future__ import annotations

import json
from typing import Any

import pytest
from relay.event.reader import FEWEST_TOGETHER, BodyKind, Reader, Rejection
from relay.event.rules import EventDefaults

EVENT: dict[str, Any] = {
    "event_id": "550e8400-e29b-41d4-a716-446655440000",
    "event_type": "post.view",
    "tenant_id": 2,
    "source": {"platform": "tv", "device_id": "box"},
    "occurred_at": "2024-04-30T09:00:00Z",
}
MANY = FEWEST_TOGETHER + 1


def written(tenant_id: object, *, spaces: bool = False) -> bytes:
    return json.dumps(EVENT | {"tenant_id": tenant_id}, separators=None if spaces else (",", ":")).encode()


def array(*events: bytes) -> bytes:
    return b"[%b]" % b",".join(events)


def reader(*allowed: int, default: int | None = None) -> Reader:
    defaults = EventDefaults(tenant_id=default)
    return Reader(defaults, 1 << 16, lambda: EVENT["event_id"], lambda: EVENT["occurred_at"], allowed_tenants=allowed)


def rejection(of: Reader, body: bytes, kind: BodyKind = "json") -> Rejection:
    result = of.read(body, kind)
    assert isinstance(result, Rejection)
    return result


FORMS: list[tuple[BodyKind, int, bool]] = [
    (kind, count, spaces)
    for kind, count in (("json", 1), ("json", 2), ("json", MANY), ("lines", 1), ("lines", MANY), ("datagram", MANY))
    for spaces in (False, True)
]  # type: ignore[assignment]


@pytest.mark.parametrize(("kind", "count", "spaces"), FORMS)
def test_another_tenant_is_rejected_in_every_form_of_a_body(kind: BodyKind, count: int, spaces: bool) -> None:
    def body(last: int) -> bytes:
        events = [written(tenant_id, spaces=spaces) for tenant_id in (*[2] * (count - 1), last)]
        return array(*events) if kind == "json" else b"\n".join(events)

    path = f"events.{count - 1}.tenant_id"
    sentence = f"The {path} field must be one of 1, 2, but is 3."
    for of in (reader(1, 2), reader(2, 1, 2)):
        error = f"{sentence} The event is on line {count}." if kind == "lines" else sentence
        assert rejection(of, body(3), kind) == Rejection("invalid", error, {path: [sentence]})
        events = of.read(body(1), kind)
        assert isinstance(events, list)
        assert [event.device_key[0] for event in events] == [*[2] * (count - 1), 1]


def test_datagrams_of_another_tenant_are_not_read_together() -> None:
    bodies = [written(2)] * MANY
    assert reader(2).read_singles(bodies) is not None
    assert reader(2).read_singles([*bodies, written(3)]) is None


def test_any_tenant_is_accepted_without_a_list() -> None:
    events = reader().read(array(*map(written, range(1, MANY + 1))), "json")
    assert isinstance(events, list)
    assert [event.device_key[0] for event in events] == list(range(1, MANY + 1))


def test_another_spelling_of_an_allowed_tenant_is_accepted() -> None:
    (event,) = reader(2).read(written(2.0), "json")
    assert event.device_key[0] == 2


@pytest.mark.parametrize(
    ("value", "shown"),
    [(2**63 - 1, "9223372036854775807"), (0, "0"), (True, "true"), ("2", '"2"'), (None, "null"), (2.5, "2.5")],
)
def test_a_message_shows_the_received_value(value: object, shown: str) -> None:
    assert (
        rejection(reader(2), written(value)).error == f"The events.0.tenant_id field must be one of 2, but is {shown}."
    )


def test_a_message_lists_eight_tenants_and_counts_the_others() -> None:
    error = rejection(reader(*range(64, 0, -1)), written(65)).error
    assert error == "The events.0.tenant_id field must be one of 1, 2, 3, 4, 5, 6, 7, 8 and 56 more, but is 65."
    assert "one of 1, 2, 3, 4, 5, 6, 7, 8, but" in rejection(reader(*range(1, 9)), written(65)).error


def test_other_errors_of_the_event_are_listed_too() -> None:
    body = json.dumps(EVENT | {"tenant_id": 3, "event_type": 7}).encode()
    assert set(rejection(reader(2), body).errors) == {"events.0.tenant_id", "events.0.event_type"}


def test_an_event_without_a_tenant_gets_the_default_or_lists_the_allowed_ones() -> None:
    lacking = json.dumps({name: value for name, value in EVENT.items() if name != "tenant_id"}).encode()
    (event,) = reader(2, default=2).read(lacking, "json")
    assert event.device_key[0] == 2
    assert rejection(reader(1, 2), lacking).error == (
        "The events.0.tenant_id field is required but missing: add one of 1, 2."
    )
