"""Validation follows the documentation of the upstream's API, with the framework's messages and PHP's conversions."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from relay.sandbox import validate

from tests.unit.sandbox.harness import DEVICE, body, event

EVENTS_REQUIRED = {"events": ["The events field is required."]}


def errors(*events: object) -> dict[str, list[str]]:
    return dict(validate.read(body(*events)).errors)


def test_the_documented_sample_is_accepted() -> None:
    sample = event()
    read = validate.read(body(sample))
    assert (dict(read.errors), read.device) == ({}, (1, "ios", DEVICE))
    assert read.events[0].event_id.hex() == sample["event_id"].replace("-", "")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("event_id", None, "The events.1.event_id field is required."),
        ("event_id", "", "The events.1.event_id field is required."),
        ("event_id", "  ", "The events.1.event_id field is required."),
        ("event_id", "550e8400-e29b-11d4-a716-446655440000", "The events.1.event_id field must be a valid UUID."),
        ("event_id", "550e8400e29b41d4a716446655440000", "The events.1.event_id field must be a valid UUID."),
        ("event_id", 5, "The events.1.event_id field must be a valid UUID."),
        ("event_type", None, "The events.1.event_type field is required."),
        ("event_type", " ", "The events.1.event_type field is required."),
        ("event_type", 5, "The events.1.event_type field must be a string."),
        ("tenant_id", None, "The events.1.tenant_id field is required."),
        ("tenant_id", "one", "The events.1.tenant_id field must be an integer."),
        ("tenant_id", 1.5, "The events.1.tenant_id field must be an integer."),
        ("tenant_id", 2**63, "The events.1.tenant_id field must be an integer."),
        ("tenant_id", False, "The events.1.tenant_id field must be an integer."),
        ("source.platform", None, "The events.1.source.platform field is required."),
        ("source.app_version", None, "The events.1.source.app_version field must be a string."),
        ("source.os_version", " ", "The events.1.source.os_version field must be a string."),
        ("subject", None, "The events.1.subject field must be an array."),
        ("context", None, "The events.1.context field must be an array."),
        ("occurred_at", "", "The events.1.occurred_at field must be a valid date."),
        ("source.platform", "roku", "The selected events.1.source.platform is invalid."),
        ("source.platform", ["tv"], "The selected events.1.source.platform is invalid."),
        ("source.device_id", "\u200b", "The events.1.source.device_id field is required."),
        ("source.device_id", 7, "The events.1.source.device_id field must be a string."),
        ("source.app_version", 2.1, "The events.1.source.app_version field must be a string."),
        ("source.os_version", 17, "The events.1.source.os_version field must be a string."),
        ("source.device_model", {"a": 1}, "The events.1.source.device_model field must be a string."),
        ("subject", "post", "The events.1.subject field must be an array."),
        ("subject.type", 1, "The events.1.subject.type field must be a string."),
        ("subject.id", 1, "The events.1.subject.id field must be a string."),
        ("context", "x", "The events.1.context field must be an array."),
        ("occurred_at", "yesterday", "The events.1.occurred_at field must be a valid date."),
        ("occurred_at", "2026-13-01T00:00:00Z", "The events.1.occurred_at field must be a valid date."),
        ("occurred_at", 1767225600, "The events.1.occurred_at field must be a valid date."),
    ],
)
def test_each_rule_names_event_and_field(path: str, value: object, message: str) -> None:
    wrong = event(1)
    at: Any = wrong
    *parents, name = path.split(".")
    for parent in parents:
        at = at[parent]
    at[name] = value
    assert errors(event(0), wrong) == {f"events.1.{path}": [message]}


@pytest.mark.parametrize(
    "changes",
    [
        {"tenant_id": "1"},
        {"tenant_id": 1.0},
        {"tenant_id": True},
        {"tenant_id": 7},
        {"event_id": "550E8400-E29B-41D4-A716-446655440000"},
        {"event_type": " post.view "},
        {"subject": {}, "context": []},
        {"occurred_at": "2026-11-23T08:00:00.123456789Z"},
        {"occurred_at": "2026-11-23 08:00:00+02:00"},
        {"occurred_at": "2016-12-31T23:59:60Z"},
        {"context": {"big": 2**70, "zero": "\0", "deep": [[[[{}]]]]}},
        {"unknown": {"field": [1, 2]}},
    ],
)
def test_values_that_the_framework_accepts_are_accepted(changes: dict[str, object]) -> None:
    assert errors(event(**changes)) == {}


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"5",
        b'{"events":null}',
        b'{"events":[]}',
        b'{"events":{}}',
        b'{"events":""}',
        b"\xef\xbb\xbf" + body(event()),
        body(event()).decode().encode("utf-16"),
        body(event(context={"x": "?"})).replace(b"?", b"\xff"),
        body(event(context={"x": "\ud800"})),
        body(event(context={"x": "\udc00 \ud800"})),
        body(event(unknown="\ud83d")),
        body(event(context={"x": float("nan")})),
        body(event(context={"x": float("inf")})),
        body(event(context={"x": "?"})).replace(b"?", b"\n"),
        body(event()) + b"x",
        body(event(context={"x": 0})).replace(b": 0}", b": " + b"[" * 100_000),
    ],
)
def test_a_body_that_php_cannot_decode_has_no_events(raw: bytes) -> None:
    assert dict(validate.read(raw).errors) == EVENTS_REQUIRED


@pytest.mark.parametrize("name", ["context", "unknown"])
def test_nesting_is_decoded_to_depth_512(name: str) -> None:
    def nested(levels: int) -> bytes:
        return body(event(**{name: {"x": "?"}})).replace(b'"?"', b"[" * levels + b"]" * levels)

    assert dict(validate.read(nested(512 - 4)).errors) == {}
    assert dict(validate.read(nested(512 - 3)).errors) == EVENTS_REQUIRED


def test_events_must_be_an_array_but_may_be_an_object() -> None:
    assert dict(validate.read(b'{"events":"x"}').errors) == {"events": ["The events field must be an array."]}
    assert dict(validate.read(json.dumps({"events": {"a": event(), "b": 5}}).encode()).errors).keys() >= {"events.b"}


def test_an_event_that_is_no_array_fails_every_required_field() -> None:
    assert list(errors(event(), 5)) == [
        "events.1",
        "events.1.event_id",
        "events.1.event_type",
        "events.1.tenant_id",
        "events.1.source.platform",
        "events.1.source.device_id",
    ]


def test_errors_are_ordered_by_rule_and_the_message_counts_them() -> None:
    found = errors({"source": {"platform": "tv", "device_id": "d"}, "tenant_id": 1}, event(1, event_type=""))
    assert list(found) == ["events.0.event_id", "events.0.event_type", "events.1.event_type"]
    rejection = json.loads(validate.rejection(found))
    assert rejection == {"message": "The events.0.event_id field is required. (and 2 more errors)", "errors": found}
    assert json.loads(validate.rejection({"a": ["A."], "b": ["B."]}))["message"] == "A. (and 1 more error)"
    assert json.loads(validate.rejection({"a": ["A."]}))["message"] == "A."


def test_the_device_of_a_rejected_body_is_that_of_its_first_event() -> None:
    assert validate.read(body(event(event_type=5), event(device_id="other"))).device == (1, "ios", DEVICE)
    assert validate.read(body({"source": {"device_id": "d"}}, event())).device is None


def test_order_is_the_integer_n_of_the_context() -> None:
    numbers = [event(n=7), event(context={"n": "7"}), event(context={"n": True}), event(context={})]
    assert [seen.n for seen in validate.read(body(*numbers)).events] == [7, None, None, None]


# Values near the border between valid and invalid.
TEXT = st.sampled_from(["x", " x", "x\u3000", "", "\0", "\ufeff", "é", "tv", "550e8400-e29b-41d4-a716-446655440000"])
TIME = st.sampled_from(
    [
        "2026-11-23T08:00:00Z",
        "2026-11-23t08:00:00z",
        "2026-11-23 08:00Z",
        "0000-01-01T00:00:00Z",
        "2026-11-23T24:00:00Z",
        "2026-11-23T08:00:00.1234567891+05:30",
        "2026-11-23T08:00:00-23:59",
        "2026-11-23T08:00:00+24:00",
        "20261123",
    ]
)
SCALAR = st.none() | st.booleans() | st.integers() | st.floats() | TEXT | TIME
ANY = st.recursive(SCALAR, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3))


@st.composite
def nearly_events(draw: st.DrawFn) -> dict[str, Any]:
    made = event(draw(st.integers(0, 99)))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.sampled_from([made, made["source"], made["subject"], made["context"]]))
        if isinstance(at, dict):
            at[draw(st.sampled_from([*made, *event()["source"], "type", "id", "n", "?"]))] = draw(TIME | TEXT | ANY)
        if not all(isinstance(made.get(name), dict) for name in ("source", "subject", "context")):
            break
    return made


@given(st.lists(nearly_events(), max_size=3))
def test_a_body_has_either_all_its_events_or_errors(events: list[dict[str, Any]]) -> None:
    found = validate.read(body(*events))
    assert len(found.events) == (0 if found.errors else len(events))


@given(st.binary(max_size=200))
def test_no_bytes_raise(raw: bytes) -> None:
    assert validate.read(raw).errors
