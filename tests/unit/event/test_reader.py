"""A received body becomes events with unchanged bytes, or one rejection that lists all errors."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator
from typing import Any, get_args
from zlib import crc32

import pytest
from relay.event.reader import BodyKind, Event, EventDefaults, Reader, Reading, Rejection
from relay.event.rules import MAX_ERROR_BYTES

EVENT_ID = "550e8400-e29b-41d4-a716-446655440000"
NEW_EVENT_ID = "0b0b0b0b-0b0b-4b0b-8b0b-0b0b0b0b0b0b"
NOW = "2024-05-01T12:00:00.123Z"
MAX_EVENT_BYTES = 20_000
KINDS: tuple[BodyKind, ...] = get_args(BodyKind)

EVENT: dict[str, Any] = {
    "event_id": EVENT_ID,
    "event_type": "post.view",
    "tenant_id": 1,
    "source": {"platform": "ios", "device_id": "A1B2C3D4-E5F6-7890-ABCD-EF1234567890"},
    "occurred_at": "2024-04-30T09:00:00Z",
}
BOX = EventDefaults(tenant_id=2, platform="tv", device_id="box-1", device_model='B"ox')


def compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def event(**changes: object) -> dict[str, Any]:
    """A complete event with fields changed; None removes one."""
    return {name: value for name, value in {**EVENT, **changes}.items() if value is not None}


def source(**changes: object) -> dict[str, Any]:
    return {name: value for name, value in {**EVENT["source"], **changes}.items() if value is not None}


def reader(defaults: EventDefaults | None = None) -> Reader:
    return Reader(defaults or EventDefaults(), MAX_EVENT_BYTES, lambda: NEW_EVENT_ID, lambda: NOW)


def accepted(body: bytes, defaults: EventDefaults | None = None) -> list[Event]:
    result = reader(defaults).read(body, "json")
    assert isinstance(result, list), result
    return result


def rejected(body: bytes, defaults: EventDefaults | None = None) -> Rejection:
    result = reader(defaults).read(body, "json")
    assert isinstance(result, Rejection), result
    return result


class TestKeeping:
    def test_a_complete_event_is_stored_unchanged_under_its_id_and_device(self) -> None:
        body = compact(EVENT)
        assert accepted(body) == [
            Event(bytes.fromhex(EVENT_ID.replace("-", "")), (1, "ios", EVENT["source"]["device_id"]), body)
        ]

    @pytest.mark.parametrize(
        "body",
        [
            compact(event(unknown={"deep": [1, {"a": None}]})),
            compact(event(source=source(locale="de"))),
            json.dumps(EVENT).encode(),
            json.dumps(EVENT, indent=4).replace('":', '"\t:\r\n').encode(),
            compact(EVENT).replace(b"post.view", b"post\\/view\\u00e9"),
            compact(EVENT).replace(b'"event_type"', b'"\\u0065vent_type"'),
            compact(event(context={"n": 1})).replace(b":1}", b":1.50e+2}"),
            compact(event(context={"n": 1})).replace(b":1}", b":1e-400}"),
            compact(event(context={"n": -(2**63), "m": 2**63 - 1})),
            compact(event(context={"title": 'Quote "me"\n\\u0000 is text', "snow": "☃ \U0001f600"})),
            compact(event(context={"a": 1})).replace(b'"a":1', b'"a":1,"a":2'),
            compact(event(context={"d": json.loads("[" * 30 + "]" * 30)})),
        ],
    )
    def test_no_byte_changes_in_any_json_style(self, body: bytes) -> None:
        assert accepted(body)[0].body == body

    def test_space_around_an_event_is_not_part_of_it(self) -> None:
        assert accepted(b" \r\n\t" + compact(EVENT) + b"\n ")[0].body == compact(EVENT)

    def test_an_event_id_in_upper_case_is_the_same_id(self) -> None:
        upper = accepted(compact(event(event_id=EVENT_ID.upper())))[0]
        assert upper.event_id == accepted(compact(EVENT))[0].event_id
        assert EVENT_ID.upper().encode() in upper.body

    @pytest.mark.parametrize(
        "moment", ["2024-05-01T12:00:00Z", "2024-05-01T12:00:00.123456+02:00", "20240501T120000Z", "2024-05-01T12-05"]
    )
    def test_any_iso_8601_time_with_a_zone_is_accepted(self, moment: str) -> None:
        assert len(accepted(compact(event(occurred_at=moment)))) == 1

    def test_a_device_id_may_be_any_text_of_255_characters(self) -> None:
        assert accepted(compact(event(source=source(device_id="ü" * 255))))[0].device_key == (1, "ios", "ü" * 255)


class TestSplicing:
    def test_id_and_time_of_receipt_are_inserted_after_the_brace(self) -> None:
        body = b'{ "event_type":"a","tenant_id":1,"source":{"platform":"tv","device_id":"d"}}'
        assert accepted(body)[0] == Event(
            bytes.fromhex(NEW_EVENT_ID.replace("-", "")),
            (1, "tv", "d"),
            f'{{"event_id":"{NEW_EVENT_ID}","occurred_at":"{NOW}",'.encode() + body[1:],
            has_inserted_time=True,
            received_crc=crc32(body),
            has_generated_id=True,
        )

    @pytest.mark.parametrize("form", [compact, lambda value: json.dumps(value).encode()])
    @pytest.mark.parametrize("lacking", ["event_id", "occurred_at", "tenant_id", "source"])
    def test_the_checksum_is_that_of_the_received_bytes(self, form: Callable[[object], bytes], lacking: str) -> None:
        body = form({name: value for name, value in EVENT.items() if name != lacking})
        for found in (*accepted(body, BOX), *accepted(b"[" + b",".join([body] * 6) + b"]", BOX)):
            assert found.body != body
            assert found.check == found.received_crc == crc32(body)

    def test_a_complete_event_has_the_checksum_of_its_body(self) -> None:
        (found,) = accepted(compact(EVENT))
        assert (found.received_crc, found.check) == (0, crc32(compact(EVENT)))

    def test_a_missing_source_is_made_of_all_defaults(self) -> None:
        (found,) = accepted(compact({"event_type": "a"}), BOX)
        assert found.device_key == (2, "tv", "box-1")
        assert json.loads(found.body) == {
            "event_id": NEW_EVENT_ID,
            "occurred_at": NOW,
            "tenant_id": 2,
            "source": {"platform": "tv", "device_id": "box-1", "device_model": 'B"ox'},
            "event_type": "a",
        }

    @pytest.mark.parametrize("given", [b"{}", b"{ }", b"{\n}"])
    def test_an_empty_source_is_filled_without_a_comma_too_many(self, given: bytes) -> None:
        body = compact(event(source="X")).replace(b'"X"', given)
        (found,) = accepted(body, BOX)
        assert json.loads(found.body) == event(source={"platform": "tv", "device_id": "box-1", "device_model": 'B"ox'})

    def test_only_missing_fields_are_inserted(self) -> None:
        (found,) = accepted(compact(event(source={"platform": "web", "x": 1})), BOX)
        assert found.device_key == (1, "web", "box-1")
        assert found.body == compact(
            event(source={"device_id": "box-1", "device_model": 'B"ox', "platform": "web", "x": 1})
        )

    def test_a_source_of_unknown_fields_only_is_not_empty(self) -> None:
        (found,) = accepted(compact(event(source={"x": 1})), EventDefaults(platform="tv", device_id="d"))
        assert found.body == compact(event(source={"platform": "tv", "device_id": "d", "x": 1}))

    @pytest.mark.parametrize(
        "before",
        [
            b'"context":{"source":{"a":1}},',
            b'"context":{"source" : {"a":1}},',
            b'"context":{"x\\"source":{"a":1}},',
            b'"context":{"x":"source","source":{}},',
            '"context":{"ü":"☃"},'.encode(),
        ],
    )
    @pytest.mark.parametrize("name", [b'"source":', b'"source" :\n ', b'"s\\u006furce":'])
    def test_defaults_are_inserted_into_the_events_own_source(self, before: bytes, name: bytes) -> None:
        body = b'{"event_type":"a","tenant_id":1,' + before + name + b'{"platform":"tv"}}'
        (found,) = accepted(body, EventDefaults(device_id="box-1"))
        start = f'{{"event_id":"{NEW_EVENT_ID}","occurred_at":"{NOW}",'.encode()
        assert found.body == start + body[1:].replace(b'{"platform"', b'{"device_id":"box-1","platform"')

    def test_the_clock_is_read_once_per_body_and_only_if_a_time_is_missing(self) -> None:
        times: Iterator[str] = iter([NOW, "2024-05-01T12:00:01.000Z"])
        one = Reader(EventDefaults(), MAX_EVENT_BYTES, lambda: NEW_EVENT_ID, lambda: next(times))
        one.read(compact(EVENT), "json")
        for expected in (NOW, "2024-05-01T12:00:01.000Z"):
            events = one.read(compact([event(occurred_at=None)] * 3), "json")
            assert [json.loads(found.body)["occurred_at"] for found in events] == [expected] * 3


class TestBatches:
    @pytest.mark.parametrize(
        "frame",
        [
            b'{"events":[%b,%b]}',
            b'{"events": [%b, %b]}',
            b"[%b,%b]",
            b"[%b, %b]",
            b" [ %b ,\n%b\t] ",
            b'{ "events" :\n[%b , %b ] }',
            b'{"client":{"v":[1]},"events":[%b,%b],"sent":null}',
            b'{"\\u0065vents":[%b,%b]}',
        ],
    )
    def test_each_event_of_a_batch_is_stored_unchanged(self, frame: bytes) -> None:
        first, second = compact(EVENT), json.dumps(event(event_type="böse ]},{"), indent=1, ensure_ascii=False).encode()
        assert [found.body for found in accepted(frame % (first, second))] == [first, second]

    def test_an_event_may_have_a_field_called_events(self) -> None:
        body = compact({"events": [1], **EVENT})
        assert [found.body for found in accepted(body)] == [body]

    @pytest.mark.parametrize("body", [b'{"events":[]}', b"[]", b" [ ] ", b'{"events": [ ], "a": 1}'])
    def test_a_batch_without_events_is_malformed(self, body: bytes) -> None:
        assert rejected(body) == Rejection(
            "malformed",
            'The body contains no event: send one event object, or {"events": [...]}. '
            f"The body begins with {json.dumps(body.strip().decode())}.",
        )

    @pytest.mark.parametrize("given", [b"{}", b"null", b'"x"', b"7"])
    def test_events_must_be_an_array(self, given: bytes) -> None:
        result = rejected(b'{"events":%b}' % given)
        assert list(result.errors) == ["events"]
        assert result.error.startswith("The events field must be an array, but is ")

    def test_events_must_not_be_given_twice(self) -> None:
        one = compact([EVENT])
        result = rejected(b'{"events":%b,"events":%b}' % (one, one))
        assert result.errors == {"events": ["The events field must not be given twice, but occurs 2 times."]}

    def test_one_invalid_event_rejects_the_batch(self) -> None:
        assert list(rejected(compact([EVENT, event(event_type=None), EVENT])).errors) == ["events.1.event_type"]

    def test_malformed_has_precedence_over_invalid_and_names_the_event(self) -> None:
        result = rejected(b'[%b,{},{"a":NaN}]' % compact(EVENT))
        assert result.reason == "malformed"
        assert "events.2" in result.error
        result = rejected(b'[%b,{},{"a":"\\u0000"}]' % compact(EVENT))
        assert (result.reason, result.errors) == ("malformed", {})
        assert result.error.startswith("events.2 is not strict JSON: a string contains U+0000. ")

    @pytest.mark.parametrize("around", [b'"a":1e999', b'"a":"\\ud800"', b'"\\u0000":1', b'"a":1' + b"0" * 30])
    def test_the_text_around_the_events_must_be_strict_too(self, around: bytes) -> None:
        assert rejected(b'{%b,"events":[%b]}' % (around, compact(EVENT))).reason == "malformed"
        assert rejected(b'{"events":[%b],%b}' % (compact(EVENT), around)).reason == "malformed"


class TestLinesAndDatagrams:
    def test_empty_lines_are_skipped(self) -> None:
        first, second = compact(EVENT), compact(event(event_type="b"))
        for kind in ("lines", "datagram"):
            result = reader().read(b"\n" + first + b"\r\n \n\t" + second + b"\n", kind)
            assert [found.body for found in result] == [first, second]

    def test_an_error_names_the_index_of_the_event(self) -> None:
        result = reader().read(compact(EVENT) + b"\n\n" + compact(event(tenant_id="1")), "lines")
        assert isinstance(result, Rejection) and list(result.errors) == ["events.1.tenant_id"]

    @pytest.mark.parametrize("body", [b"", b"\n \n"])
    def test_no_line_is_malformed(self, body: bytes) -> None:
        assert reader().read(body, "lines") == Rejection(
            "malformed", 'The body contains no event: send one event object, or {"events": [...]}.'
        )

    def test_a_line_cannot_be_a_batch(self) -> None:
        result = reader().read(compact({"events": [EVENT]}), "lines")
        assert isinstance(result, Rejection) and "events.0.event_type" in result.errors

    @pytest.mark.parametrize("indent", [None, 2])
    @pytest.mark.parametrize("value", [EVENT, {"events": [EVENT, EVENT]}, [EVENT, EVENT], event(context={"a": {}})])
    def test_a_datagram_may_be_one_json_value_over_several_lines(self, value: object, indent: int | None) -> None:
        body = json.dumps(value, indent=indent).encode()
        assert reader().read(body, "datagram") == reader().read(body, "json")
        assert isinstance(reader().read(body, "datagram"), list)


MALFORMED = {
    "nothing": b"",
    "space": b" \n",
    "text": b"hello",
    "cut short": compact(EVENT)[:-1],
    "something after it": compact(EVENT) + b"x",
    "two values": compact(EVENT) * 2,
    "a byte order mark": b"\xef\xbb\xbf" + compact(EVENT),
    "UTF-16": compact(EVENT).decode().encode("utf-16"),
    "a form feed around it": compact(EVENT) + b"\x0c",
    "invalid UTF-8 in a value": compact(event(event_type="X")).replace(b"X", b"\xff"),
    "invalid UTF-8 in a name": compact(event(X=1)).replace(b"X", b"\xc0\x80"),
    "a surrogate in UTF-8": compact(event(event_type="X")).replace(b"X", b"\xed\xa0\x80"),
    "half a surrogate pair": compact(event(event_type="X")).replace(b"X", b"\\ud83d"),
    "two first halves": compact(event(event_type="X")).replace(b"X", b"\\ud83d\\ud83d"),
    "half a pair in a name": compact(event(context={"X": 1})).replace(b"X", b"\\udc00"),
    "half a pair in a value that is overwritten": compact(event(context={"X": 1})).replace(
        b'"X":1', b'"X":"\\ud800","X":1'
    ),
    "U+0000 in a value": compact(event(event_type="a\0b")),
    "U+0000 in a name": compact(event(context={"a\0b": 1})),
    "U+0000 in a list": compact(event(context={"a": [["a\0b"]]})),
    "a raw control character": compact(event(event_type="X")).replace(b"X", b"\x01"),
    "NaN": compact(event(context={"a": float("nan")})),
    "Infinity": compact(event(context={"a": -float("inf")})),
    "beyond a double": compact(event(context={"a": "X"})).replace(b'"X"', b"1e400"),
    "2**63": compact(event(context={"a": 2**63})),
    "-2**63-1": compact(event(context={"a": [{"b": -(2**63) - 1}]})),
    "2**64": compact(event(tenant_id=2**64)),
    "five thousand digits": compact(event(context={"a": "X"})).replace(b'"X"', b"1" * 5_000),
    "a leading zero": compact(event(context={"a": "X"})).replace(b'"X"', b"01"),
    "a trailing comma": compact(EVENT)[:-1] + b",}",
    "single quotes": compact(EVENT).replace(b'"', b"'"),
    "33 levels": compact(event(context={"a": json.loads("[" * 31 + "]" * 31)})),
    "33 levels, hidden": compact(event(context={"a": json.loads("[" * 31 + "]" * 31)})).replace(b"]}}", b'],"a":1}}'),
    "a million brackets": b"[" * (1 << 20),
    "a million braces": b'{"a":' * (1 << 17),
    "a million backslashes": b'{"a":"' + b"\\" * (1 << 20),
    "a million digits": b'{"event_type":' + b"1" * (1 << 20) + b"}",
    "a million spaces": b"{" + b" " * (1 << 20),
    "a million brackets in events": b'{"events":[' + b"[" * (1 << 20),
    "a million NULs": b"\0" * (1 << 20),
}


class TestMalformed:
    @pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED)
    def test_it_is_rejected_with_a_message(self, body: bytes) -> None:
        one = Reader(EventDefaults(), 2 << 20, lambda: NEW_EVENT_ID, lambda: NOW)
        for kind in KINDS:
            result = one.read(body, kind)
            assert isinstance(result, Rejection)
            assert result.reason == "malformed"
            assert result.error.endswith(".") and len(result.error) < 200
            assert result.errors == {}

    def test_the_message_names_the_problem_and_its_position(self) -> None:
        assert rejected(b'{"a" 1}').error == (
            'The body is not strict JSON: Expecting \':\' delimiter at character 5. The body begins with "{\\"a\\" 1}".'
        )
        secret = Reader(
            EventDefaults(), 2 << 20, lambda: NEW_EVENT_ID, lambda: NOW, mask=lambda text: text.replace("key", "*")
        )
        masked = secret.read(b"a" * 28 + b"key", "json")
        assert isinstance(masked, Rejection) and "key" not in masked.error and "ke" not in masked.error
        assert rejected(MALFORMED["33 levels"]).error.startswith(
            "The body is not strict JSON: it is nested deeper than 32 levels. "
        )


def faults_of(**changes: object) -> dict[str, str]:
    """Return the one complaint by path below the event, up to "but", of an event with fields changed."""
    errors = rejected(compact(event(**changes))).errors
    assert all(len(sentences) == 1 for sentences in errors.values())
    return {
        path.removeprefix("events.0."): sentences[0]
        .removeprefix(f"The {path} field ")
        .partition(" but ")[0]
        .rstrip(",")
        for path, sentences in errors.items()
    }


IS_REQUIRED = "is required"
NO_UUID = "must be a valid UUID (version 4), or be left out"
NO_MOMENT = "must be an ISO 8601 date and time with a zone, such as 2024-05-01T12:00:00.000Z, or be left out"
NO_TENANT = "must be an integer of at least 1"
NO_TYPE = "must be a string that is not blank"
NO_DEVICE = "must be a string that is not blank and not greater than 255 characters"
NO_PLATFORM = "must be one of ios, android, web, tv"
NULL = "null"


class TestInvalid:
    def test_a_missing_required_field_is_an_error(self) -> None:
        assert faults_of(event_type=None) == {"event_type": IS_REQUIRED}
        assert faults_of(tenant_id=None) == {"tenant_id": IS_REQUIRED}
        assert faults_of(source=None) == {"source.platform": IS_REQUIRED, "source.device_id": IS_REQUIRED}
        assert faults_of(source={"platform": "tv"}) == {"source.device_id": IS_REQUIRED}
        assert faults_of(subject={"x": 1}) == {"subject.type": IS_REQUIRED, "subject.id": IS_REQUIRED}

    @pytest.mark.parametrize(
        "event_id",
        [
            EVENT_ID.replace("-41d4-", "-11d4-"),
            EVENT_ID.replace("-a716-", "-c716-"),
            EVENT_ID.replace("-", ""),
            "{" + EVENT_ID[1:-1] + "}",
            EVENT_ID[:-1],
            EVENT_ID[:-1] + "g",
            EVENT_ID[:-2] + "  ",
            EVENT_ID + "x",
            EVENT_ID.replace("8400-", "840-0"),
            EVENT_ID.replace("550e", "55-e"),
            EVENT_ID.replace("0", "٠"),
            "",
            1,
            [],
        ],
    )
    def test_an_event_id_is_a_version_4_uuid(self, event_id: object) -> None:
        assert faults_of(event_id=event_id) == {"event_id": NO_UUID}

    @pytest.mark.parametrize(
        "moment",
        [
            "",
            "2024-05-01",
            "2024-05-01T12:00:00",
            "2024-05-01_12:00:00Z",
            "2024-13-01T12:00:00Z",
            "T",
            "now",
            1714560000,
        ],
    )
    def test_a_time_has_date_and_zone(self, moment: object) -> None:
        assert faults_of(occurred_at=moment) == {"occurred_at": NO_MOMENT}

    @pytest.mark.parametrize("tenant_id", [0, -1, "1", True, 0.0, 1.5, []])
    def test_a_tenant_is_a_positive_integer(self, tenant_id: object) -> None:
        assert faults_of(tenant_id=tenant_id) == {"tenant_id": NO_TENANT}

    @pytest.mark.parametrize("event_type", ["", " \t ", "\u3000", 1, ["a"]])
    def test_an_event_type_is_not_blank(self, event_type: object) -> None:
        assert faults_of(event_type=event_type) == {"event_type": NO_TYPE}

    @pytest.mark.parametrize("device_id", ["", "  ", "x" * 256, 7, {}])
    def test_a_device_id_is_filled_and_bounded(self, device_id: object) -> None:
        assert faults_of(source=source(device_id=device_id)) == {"source.device_id": NO_DEVICE}

    @pytest.mark.parametrize("platform", ["", "iOS", "roku", 1, ["tv"], {}])
    def test_a_platform_is_one_of_four(self, platform: object) -> None:
        assert faults_of(source=source(platform=platform)) == {"source.platform": NO_PLATFORM}

    def test_every_known_field_has_its_type(self) -> None:
        assert faults_of(source=source(app_version=2, os_version=[], device_model={})) == {
            "source.app_version": NO_TYPE + ", or be left out",
            "source.os_version": NO_TYPE + ", or be left out",
            "source.device_model": NO_TYPE + ", or be left out",
        }
        assert faults_of(subject={"type": 1, "id": 2}) == {
            "subject.type": NO_TYPE,
            "subject.id": NO_TYPE,
        }
        assert faults_of(source="ios", subject=[1], context="x") == {
            "source": "must be an object",
            "subject": "must be an object, or be left out",
            "context": "must be an object, or be left out",
        }

    @pytest.mark.parametrize(
        "name", ["event_id", "event_type", "tenant_id", "source", "subject", "context", "occurred_at"]
    )
    def test_null_is_not_accepted_as_missing(self, name: str) -> None:
        body = compact(event(**{name: NULL})).replace(b'"null"', b"null")
        assert list(rejected(body, BOX).errors) == [f"events.0.{name}"]

    @pytest.mark.parametrize(
        ("given", "twice", "path"),
        [
            (b'"tenant_id":1', b'"tenant_id":1,"tenant_id":1', "tenant_id"),
            (b'"tenant_id":1', b'"tenant_id" :1, "tenant_id" :1', "tenant_id"),
            (b'"tenant_id":1', b'"tenant_id":1,"ten\\u0061nt_id":1', "tenant_id"),
            (b'"tenant_id":1', b'"tenant_id":1,"x":":","x":1', "x"),
            (b'"platform":"ios"', b'"platform":"ios","platform":"ios"', "source.platform"),
            (b'"tenant_id":1', b'"tenant_id":1,"subject":{"type":"a","id":"b","id":"b"}', "subject.id"),
        ],
    )
    def test_no_field_is_given_twice(self, given: bytes, twice: bytes, path: str) -> None:
        result = rejected(compact(EVENT).replace(given, twice))
        assert list(result.errors) == [f"events.0.{path}"]
        assert f"The events.0.{path} field must not be given twice" in result.error

    @pytest.mark.parametrize("value", [b"null", b"1", b'"x"', b"[]", b"true"])
    def test_an_event_is_an_object(self, value: bytes) -> None:
        result = reader().read(value, "lines")
        assert isinstance(result, Rejection)
        assert list(result.errors) == ["events.0"]
        assert result.error.startswith("The events.0 field must be an object, but is ")

    def test_every_error_of_every_event_is_listed_and_counted(self) -> None:
        result = rejected(compact({"events": [event(tenant_id=0), EVENT, event(event_type=1, occurred_at="x")]}))
        assert result.reason == "invalid"
        assert (
            result.error
            == "The events.0.tenant_id field must be an integer of at least 1, but is 0. (and 2 more errors)"
        )
        assert list(result.errors) == ["events.0.tenant_id", "events.2.event_type", "events.2.occurred_at"]

    def test_many_errors_of_many_events_are_all_listed(self) -> None:
        result = rejected(compact([event(tenant_id=0)] * 1_000))
        assert list(result.errors) == [f"events.{n}.tenant_id" for n in range(1_000)]
        assert result.error.endswith("(and 999 more errors)")

    def test_a_response_says_which_errors_it_leaves_out(self) -> None:
        result = rejected(compact([{}] * 5_000))
        listed = sum(len(sentences) for sentences in result.errors.values())
        last = int(list(result.errors)[-1].split(".")[1])
        assert 500 < last < 4_000
        found = 4 * last + 4
        assert result.error.endswith(
            f"(and {found - 1} more errors, {found - listed} of them are not listed, "
            f"events after events.{last} were not checked)"
        )
        assert listed_bytes(result) < MAX_ERROR_BYTES + 200

    def test_the_errors_of_one_event_are_bounded_too(self) -> None:
        one = Reader(EventDefaults(), 1 << 20, lambda: NEW_EVENT_ID, lambda: NOW)
        result = one.read(b"{" + b",".join(b'"field%d":1,"field%d":2' % (n, n) for n in range(5_000)) + b"}", "json")
        assert isinstance(result, Rejection)
        listed = sum(len(sentences) for sentences in result.errors.values())
        assert result.error.endswith(f"(and 5003 more errors, {5_004 - listed} of them are not listed)")
        assert listed_bytes(result) < MAX_ERROR_BYTES + 200

    def test_a_datagram_is_read_up_to_its_first_error(self) -> None:
        body = compact([event(tenant_id=0)] * 1_000)
        assert in_slices(reader().reading(body, "datagram")) == (
            in_slices(reader().reading(body[:-1] + b",{}]", "datagram"))[0],
            Rejection(
                "invalid",
                "The events.0.tenant_id field must be an integer of at least 1, but is 0. "
                "(events after events.0 were not checked)",
                {"events.0.tenant_id": ["The events.0.tenant_id field must be an integer of at least 1, but is 0."]},
            ),
        )

    def test_values_and_names_are_cut(self) -> None:
        name, value = "n" * 1_000, "v" * 1_000
        body = compact(event(event_id=value, tenant_id=value, source={"platform": value})).replace(
            b"{", b'{"%b":1,"%b":2,' % (name.encode(), name.encode()), 1
        )
        text = repr(rejected(body))
        assert value[:60] in text and value[:61] not in text
        assert name[:64] in text and name[:65] not in text

    def test_a_name_with_control_characters_is_shown_escaped(self) -> None:
        body = compact(EVENT).replace(b"{", b'{"a\\nb":1,"a\\nb":2,', 1)
        assert list(rejected(body).errors) == ["events.0.a\\nb"]


class TestSize:
    def test_the_size_limit_applies_to_the_event_with_inserted_values(self) -> None:
        def padded(total_bytes: int, **changes: object) -> bytes:
            empty = compact(event(context={"pad": ""}, **changes))
            return empty.replace(b'"pad":"', b'"pad":"' + b"x" * (total_bytes - len(empty)))

        assert len(accepted(padded(MAX_EVENT_BYTES))[0].body) == MAX_EVENT_BYTES
        assert rejected(padded(MAX_EVENT_BYTES + 1)) == Rejection(
            "too_large",
            f"events.0 has {MAX_EVENT_BYTES + 1} bytes; at most {MAX_EVENT_BYTES} are allowed (http.max_event).",
        )
        assert rejected(padded(MAX_EVENT_BYTES, event_id=None)).reason == "too_large"

    def test_an_event_received_too_large_is_not_parsed(self) -> None:
        assert rejected(b'{"a":' + b"[" * MAX_EVENT_BYTES).reason == "too_large"
        for kind in KINDS:
            assert reader().read(b"\xff" * (MAX_EVENT_BYTES + 1), kind).reason == "too_large"

    def test_a_batch_may_be_larger_than_an_event(self) -> None:
        assert len(accepted(compact([EVENT] * 100))) == 100

    def test_one_event_too_large_rejects_the_batch(self) -> None:
        result = rejected(compact([EVENT, event(context={"pad": "x" * MAX_EVENT_BYTES})]))
        assert result.reason == "too_large" and result.error.startswith("events.1 ")


class TestSlices:
    MANY = b"[%b]" % b",".join([b'{"event_type":"a"}'] * 3_000)

    @pytest.mark.parametrize(
        "body",
        [
            MANY,
            MANY.replace(b"},", b"} ,"),
            b'{"events":%b}' % MANY,
            b'{"events": %b , "more": 1}' % MANY,
            MANY[:-1],
            MANY.replace(b'"a"}]', b'""}]'),
            b"[%b]" % b",".join([b"0"] * 10_000),
            b"[%b]" % b" ,".join([b"0"] * 10_000),
            b"[%b" % (b"[]," * 10_000),
        ],
    )
    def test_reading_in_steps_gives_the_same_result(self, body: bytes) -> None:
        steps, read = in_slices(reader(BOX).reading(body, "json"))
        assert read == reader(BOX).read(body, "json")
        assert steps >= 1

    def test_lines_read_in_steps_give_the_same_result(self) -> None:
        body = b"\n".join([b'{"event_type":"a"}', b""] * 2_000)
        steps, read = in_slices(reader(BOX).reading(body, "lines"))
        assert read == reader(BOX).read(body, "lines")
        assert steps >= 10

    def test_a_slice_has_a_limited_number_of_events(self) -> None:
        count = 0

        def new_event_id() -> str:
            nonlocal count
            count += 1
            return NEW_EVENT_ID

        reading = Reader(BOX, MAX_EVENT_BYTES, new_event_id, lambda: NOW).reading(self.MANY, "json")
        counts = [count for _ in reading]
        assert max(after - before for before, after in zip([0, *counts], counts, strict=False)) <= 128
        assert count == 3_000

    def test_interleaved_bodies_have_their_own_time_of_receipt(self) -> None:
        times = iter(range(100))
        shared = Reader(BOX, MAX_EVENT_BYTES, lambda: NEW_EVENT_ID, lambda: f"2024-05-01T12:00:{next(times):02d}Z")
        readings = [shared.reading(self.MANY, "json"), shared.reading(self.MANY, "json")]
        read: list[list[Event] | Rejection] = []
        while readings:
            for reading in list(readings):
                try:
                    next(reading)
                except StopIteration as done:
                    read.append(done.value)
                    readings.remove(reading)
        for second, events in enumerate(read):
            assert isinstance(events, list)
            assert all(b":%02dZ" % second in event.body for event in events)

    def test_a_large_text_around_the_events_is_too_large(self) -> None:
        around = b'"more":"%b"' % (b"a" * MAX_EVENT_BYTES)
        assert rejected(b'{%b,"events":[%b]}' % (around, compact(EVENT))).reason == "too_large"


def listed_bytes(rejection: Rejection) -> int:
    """Of paths and sentences."""
    return sum(len(path) + len(text) for path, sentences in rejection.errors.items() for text in sentences)


def in_slices(reading: Reading) -> tuple[int, list[Event] | Rejection]:
    """How many times others had their turn, and what was read."""
    steps = 0
    while True:
        try:
            next(reading)
        except StopIteration as done:
            return steps, done.value
        steps += 1


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":"' + b"x" * 60_000,
        b"[" + compact(event()) + b',{"a":"\xff"}]',
        b'{"events":[{"a":"\\ud800"}]}',
        b'{"events":[1',
        compact(event(event_id="none")),
        compact(event(context={"a": 10**400})),
    ],
    ids=["cut short", "no UTF-8", "surrogate", "array", "no UUID", "number"],
)
@pytest.mark.parametrize("kind", ["json", "lines"])
def test_a_rejection_leaves_no_reference_cycles(body: bytes, kind: BodyKind) -> None:
    """What refers to itself stays until it looks: with the bodies of a thousand requests."""
    one = reader()
    one.read(body, kind)
    gc.collect()
    gc.disable()
    try:
        assert isinstance(one.read(body, kind), Rejection)
        assert gc.collect() == 0
    finally:
        gc.enable()


class TestHints:
    """A rejection names the probable cause."""

    @pytest.mark.parametrize(
        ("body", "kind", "hint"),
        [
            (b" \n", "json", 'The body is empty: send one event object, or {"events": [...]}.'),
            (b"", "datagram", 'The body is empty: send one event object, or {"events": [...]}.'),
            (b"\x1f\x8b\x08\x00", "json", " It looks like gzip: send Content-Encoding: gzip."),
            (
                b'{"a":1}\n{"b":2}',
                "json",
                " It looks like one event per line: send Content-Type: application/x-ndjson.",
            ),
            (b'\n{"event_type":""}\n', "lines", " The event is on line 2."),
            (b'{"event_type":""}\n\n \n{bad', "lines", " The event is on line 4."),
        ],
    )
    def test_the_probable_cause_or_the_line_ends_the_error(self, body: bytes, kind: BodyKind, hint: str) -> None:
        result = reader().read(body, kind)

        assert isinstance(result, Rejection)
        assert result.error.endswith(hint)

    @pytest.mark.parametrize("body", [b"{bad", b"[1,", b'"x"'])
    def test_other_bodies_get_no_hint(self, body: bytes) -> None:
        result = reader().read(body, "json")

        assert isinstance(result, Rejection)
        assert "looks like" not in result.error
        assert "empty" not in result.error
