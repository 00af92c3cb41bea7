"""Each message of a 422 names the field, the requirement and the received value."""

from __future__ import annotations

import json
from typing import Any

import pytest
from relay.event.reader import EventDefaults, Reader, Rejection
from relay.event.rules import RULES

EVENT: dict[str, Any] = {
    "event_id": "550e8400-e29b-41d4-a716-446655440000",
    "event_type": "post.view",
    "tenant_id": 1,
    "source": {"platform": "ios", "device_id": "box"},
    "subject": {"type": "post", "id": "1"},
    "occurred_at": "2024-04-30T09:00:00Z",
}
A_TIME = "must be an ISO 8601 date and time with a zone, such as 2024-05-01T12:00:00.000Z, or be left out"
A_TEXT, A_VERSION = "must be a string that is not blank", "must be a string that is not blank, or be left out"
A_PLATFORM, A_TENANT = "must be one of ios, android, web, tv", "must be an integer of at least 1"
A_DEVICE = "must be a string that is not blank and not greater than 255 characters"
AN_ID = "must be a valid UUID (version 4), or be left out"
LONG = 'a string of 300 characters: "' + "a" * 60 + '..."'
MISSING = object()

WRONG: list[tuple[str, Any, str]] = [
    ("event_id", "none", f'{AN_ID}, but is "none"'),
    ("event_id", "", f'{AN_ID}, but is ""'),
    ("event_type", " \u200b", rf'{A_TEXT}, but is " \u200b"'),
    ("event_type", 7, f"{A_TEXT}, but is 7"),
    ("event_type", MISSING, "is required but missing: add a string that is not blank"),
    ("tenant_id", "2", f'{A_TENANT}, but is "2"'),
    ("tenant_id", 0, f"{A_TENANT}, but is 0"),
    ("tenant_id", 1.5, f"{A_TENANT}, but is 1.5"),
    ("tenant_id", True, f"{A_TENANT}, but is true"),
    ("tenant_id", MISSING, "is required but missing: add an integer of at least 1"),
    ("source", "ios", 'must be an object, but is "ios"'),
    ("subject", [1, 2, 3], "must be an object, or be left out, but is a list of 3 items"),
    ("context", None, "must be an object, or be left out, but is null"),
    ("occurred_at", "2026-13-01", f'{A_TIME}, but is "2026-13-01"'),
    ("occurred_at", 1714560000, f"{A_TIME}, but is 1714560000"),
    ("source.platform", "\u202eroku", rf'{A_PLATFORM}, but is "\u202eroku"'),
    ("source.platform", MISSING, "is required but missing: add one of ios, android, web, tv"),
    ("source.device_id", "a" * 300, f"{A_DEVICE}, but is {LONG}"),
    ("source.device_id", {"a": 1}, f"{A_DEVICE}, but is an object of 1 field"),
    ("source.app_version", "", f'{A_VERSION}, but is ""'),
    ("source.os_version", 17.2, f"{A_VERSION}, but is 17.2"),
    ("source.device_model", [], f"{A_VERSION}, but is an empty list"),
    ("subject.type", "\n", rf'{A_TEXT}, but is "\n"'),
    ("subject.id", 1, f"{A_TEXT}, but is 1"),
    ("subject.id", MISSING, "is required but missing: add a string that is not blank"),
]
WRONG_BODIES = [
    (b'{"tenant_id":1,"tenant_id":"2"}', "events.0.tenant_id", 'must not be given twice, but is 1 and "2"'),
    (b'{"x":[],"x":{}}', "events.0.x", "must not be given twice, but is an empty list and an empty object"),
    (b"[1]", "events.0", "must be an object, but is 1"),
    (b'{"events":["x"]}', "events.0", 'must be an object, but is "x"'),
    (b'{"events":"x"}', "events", 'must be an array, but is "x"'),
    (b'{"events":{"0":{}}}', "events", "must be an array, but is an object of 1 field"),
    (b'{"events":[{}],"events":[{}]}', "events", "must not be given twice, but occurs 2 times"),
]


def written(path: str, value: Any) -> bytes:
    event = json.loads(json.dumps(EVENT))
    *parents, name = path.split(".")
    holder = event
    for parent in parents:
        holder = holder[parent]
    holder[name] = value
    if value is MISSING:
        del holder[name]
    return json.dumps(event).encode()


def reader(**options: Any) -> Reader:
    return Reader(EventDefaults(), 1 << 16, lambda: EVENT["event_id"], lambda: EVENT["occurred_at"], **options)


def rejections(body: bytes) -> list[Rejection]:
    """What HTTP and UDP make of one body."""
    results = [reader().read(body, "json"), reader().read(body, "datagram")]
    assert all(isinstance(result, Rejection) and result.reason == "invalid" for result in results)
    return [result for result in results if isinstance(result, Rejection)]


def test_every_rule_is_in_the_table() -> None:
    assert {path for path, _, _ in WRONG} == {prefix + name for prefix, rules in RULES.items() for name in rules}


@pytest.mark.parametrize(("path", "value", "complaint"), WRONG)
def test_a_message_names_the_field_the_requirement_and_the_received_value(
    path: str, value: Any, complaint: str
) -> None:
    body = written(path, value)
    for given, first in ((body, "events.0"), (b"[%b,%b]" % (json.dumps(EVENT).encode(), body), "events.1")):
        sentence = f"The {first}.{path} field {complaint}."
        for rejection in rejections(given):
            assert rejection == Rejection("invalid", sentence, {f"{first}.{path}": [sentence]})


@pytest.mark.parametrize(("body", "path", "complaint"), WRONG_BODIES)
def test_a_message_about_the_structure_describes_the_received_value(body: bytes, path: str, complaint: str) -> None:
    sentence = f"The {path} field {complaint}."
    for rejection in rejections(body):
        assert rejection.error.startswith(sentence)
        assert rejection.errors[path][0] == sentence


def test_the_readers_mask_hides_secrets_in_every_form_of_a_body() -> None:
    masked = reader(mask=lambda text: text.replace("s3cret", "****"))
    body = written("source.platform", "s3cret")
    for result in (
        masked.read(body, "json"),
        masked.read(body, "lines"),
        masked.read(body, "datagram"),
        masked.read(b'{"events":"s3cret"}', "json"),
    ):
        assert isinstance(result, Rejection)
        assert '"****"' in result.error
        assert "s3cret" not in repr(result)
