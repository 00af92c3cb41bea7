"""The relay's reader, on each of its ways, and the sandbox agree with the table of what the framework accepts."""

from __future__ import annotations

import json
import shutil
import subprocess
import unicodedata
from typing import Any, Literal

import pytest
from relay.event.reader import Event, EventDefaults, Reader, Rejection
from relay.event.values import BLANKS, is_moment, trimmed
from relay.ingest.content_type import body_type
from relay.sandbox import php, validate
from relay.sandbox.application import Application
from relay.sandbox.settings import SandboxSettings
from relay.sandbox.wire import Head

from tests.support import framework_table as table
from tests.unit.sandbox.harness import HandClock

DEVICE_ID = "BOX-1"
NOW = "2026-01-01T00:00:00.000Z"
FORMS = ("spaced", "compact", "escaped", "batch", "array", "lines", "datagram", "datagram of lines", "singles")
Verdict = Literal["accepted", "rejected"]


def event(**changes: Any) -> dict[str, Any]:
    """A complete event with values changed; a dotted name is written with two underscores."""
    made: dict[str, Any] = {
        "event_id": table.EVENT_ID,
        "event_type": "video.play",
        "tenant_id": 2,
        "source": {"platform": "tv", "device_id": DEVICE_ID},
        "subject": {"type": "video", "id": "1"},
        "context": {},
        "occurred_at": "2026-11-27T12:00:00.123Z",
    }
    for path, value in changes.items():
        *parents, name = path.split("__")
        holder = made
        for parent in parents:
            holder = holder[parent]
        holder[name] = value
    return made


def written(made: dict[str, Any]) -> str:
    return json.dumps(made, separators=(",", ":"), ensure_ascii=False)


def read(text: str, form: str, reader: Reader | None = None) -> list[Event] | Rejection:
    """What the reader makes of an event that is sent in one of FORMS; some of them have it six times."""
    reader = reader or Reader(EventDefaults(), 1 << 16, lambda: table.EVENT_ID, lambda: NOW)
    spaced, many = json.dumps(json.loads(text)), [text] * 6
    single = reader.read_singles([text.encode()] * 6) if form == "singles" else None
    if single is not None:
        return single
    bodies: dict[str, str] = {
        "spaced": spaced.replace('"event_type"', ' "event_type"'),
        "compact": text,
        "escaped": text.replace('"event_type"', '"\\u0065vent_type"'),
        "batch": '{"events":[' + ",".join(many) + "]}",
        "array": "[" + ", ".join(many) + "]",
        "lines": "\n".join(many),
        "datagram": spaced,
        "datagram of lines": "\n".join(many),
        "singles": text,
    }
    body = bodies[form].encode()
    if form == "lines":
        return reader.read(body, "lines")
    return reader.read(body, "datagram") if form.startswith("datagram") else reader.read(body, "json")


def relay_says(text: str) -> tuple[Verdict, list[Event]]:
    """The verdict and the event. Every form must lead to the same."""
    results = {form: read(text, form) for form in FORMS}
    events = {form: result for form, result in results.items() if isinstance(result, list)}
    assert len(events) in (0, len(FORMS)), f"{text} is accepted as {sorted(events)} only"
    if not events:
        assert {result.reason for result in results.values() if isinstance(result, Rejection)} == {"invalid"}
        return "rejected", []
    devices = {(found.event_id, found.device_key) for of_form in events.values() for found in of_form}
    assert len(devices) == 1, f"{text} is {devices}"
    assert {found.body for found in (*events["compact"], *events["batch"], *events["singles"])} == {text.encode()}
    return "accepted", events["compact"]


def sandbox_says(text: str) -> Verdict:
    plain = validate.read(f'{{"events":[{text}]}}'.encode())
    by_rules = validate.read(f'{{"events":[{text[:-1]},"unknown":1}}]}}'.encode())
    assert plain.errors == by_rules.errors
    return "rejected" if plain.errors else "accepted"


def both_say(text: str) -> tuple[Verdict, Verdict]:
    return relay_says(text)[0], sandbox_says(text)


BOTH_ACCEPT, BOTH_REJECT = ("accepted", "accepted"), ("rejected", "rejected")
ONLY_THE_FRAMEWORK = ("rejected", "accepted")


class TestTimes:
    @pytest.mark.parametrize("time", table.TIMES)
    def test_a_time_that_the_framework_reads_is_accepted(self, time: str) -> None:
        assert both_say(written(event(occurred_at=time))) == BOTH_ACCEPT

    @pytest.mark.parametrize("time", [*table.NO_TIMES, *table.TIMES_WITH_SECONDS_IN_THE_OFFSET])
    def test_a_time_that_the_framework_does_not_read_is_rejected(self, time: object) -> None:
        assert both_say(written(event(occurred_at=time))) == BOTH_REJECT

    @pytest.mark.parametrize("time", table.TIMES_WITHOUT_ZONE)
    def test_a_time_without_a_zone_is_rejected_by_the_relay_alone(self, time: str) -> None:
        assert both_say(written(event(occurred_at=time))) == ONLY_THE_FRAMEWORK

    @pytest.mark.parametrize(
        ("year", "days"), [(2026, 365), (2024, 366), (2000, 366), (1900, 365), (1, 365), (4, 366), (0, 0)]
    )
    def test_the_calendar_is_checked(self, year: int, days: int) -> None:
        dates = [f"{year:04}-{month:02}-{day:02}" for month in range(14) for day in range(33)]
        assert sum(is_moment(f"{date}T12:00:00+00:00") for date in dates) == days
        assert sum(is_moment(f"{date.replace('-', '')}T120000Z") for date in dates) == days
        assert sum(php.is_date(date) for date in dates) == days

    @pytest.mark.skipif(shutil.which("php") is None, reason="needs a PHP interpreter (Debian: php-cli)")
    def test_the_table_agrees_with_php(self) -> None:
        code = (
            "echo json_encode(array_map(function ($text) { $date = date_parse($text); return strtotime($text) !== false"
            " && checkdate((int)$date['month'], (int)$date['day'], (int)$date['year']); },"
            " json_decode(stream_get_contents(STDIN))));"
        )

        def says(times: tuple[object, ...]) -> list[bool]:
            texts = [trimmed(time) for time in times if isinstance(time, str)]
            command = ["php", "-d", "date.timezone=UTC", "-r", code]
            run = subprocess.run(command, input=json.dumps(texts), capture_output=True, text=True, check=True)
            found: list[bool] = json.loads(run.stdout)
            return found

        assert all(says(table.TIMES)) and all(says(table.TIMES_WITHOUT_ZONE))
        assert all(says(table.TIMES_WITH_SECONDS_IN_THE_OFFSET))
        assert not any(says(table.NO_TIMES))


class TestBlanks:
    @pytest.mark.parametrize("blank", [*table.BLANKS, ""])
    @pytest.mark.parametrize("field", ["event_type", "source__device_id", "source__platform", "event_id"])
    def test_a_blank_string_counts_as_missing(self, blank: str, field: str) -> None:
        assert both_say(written(event(**{field: blank}))) == BOTH_REJECT

    @pytest.mark.parametrize("blank", [*table.BLANKS, ""])
    @pytest.mark.parametrize("field", [*table.OPTIONAL_STRINGS, "occurred_at"])
    def test_a_blank_optional_string_is_rejected(self, blank: str, field: str) -> None:
        # Null passes only a rule that says `nullable`, and no rule is known to say it.
        assert both_say(written(event(**{field: blank}))) == BOTH_REJECT

    @pytest.mark.parametrize("blank", table.BLANKS)
    @pytest.mark.parametrize("field", table.OPTIONAL_STRINGS)
    def test_blanks_around_an_optional_string_do_not_matter(self, blank: str, field: str) -> None:
        assert both_say(written(event(**{field: f"{blank}a{blank}"}))) == BOTH_ACCEPT

    @pytest.mark.parametrize(
        "defaults", [EventDefaults(device_model="TV", app_version=" "), EventDefaults(os_version="\u200b")]
    )
    def test_a_blank_default_is_not_inserted(self, defaults: EventDefaults) -> None:
        text = written(event())
        result = read(text, "compact", Reader(defaults, 1 << 16, lambda: table.EVENT_ID, lambda: NOW))
        assert isinstance(result, list)
        assert sandbox_says(result[0].body.decode()) == "accepted"

    @pytest.mark.parametrize("text", table.NOT_BLANK)
    @pytest.mark.parametrize("field", ["event_type", "source__device_id", *table.OPTIONAL_STRINGS])
    def test_a_visible_character_is_a_value(self, text: str, field: str) -> None:
        assert both_say(written(event(**{field: text}))) == BOTH_ACCEPT

    @pytest.mark.parametrize("blank", table.BLANKS)
    def test_blanks_around_an_id_a_platform_and_a_time_do_not_matter(self, blank: str) -> None:
        padded = event(
            event_id=f"{blank}{table.EVENT_ID}{blank}",
            source__platform=f"{blank}tv{blank}",
            occurred_at=f"{blank}2026-11-27T12:00:00.123Z{blank}",
        )
        verdict, events = relay_says(written(padded))
        assert (verdict, sandbox_says(written(padded))) == BOTH_ACCEPT
        assert events[0].event_id.hex() == table.EVENT_ID.replace("-", "")
        assert events[0].device_key == (2, "tv", DEVICE_ID)

    @pytest.mark.parametrize("blank", table.BLANKS)
    def test_one_device_in_several_spellings_is_one_device(self, blank: str) -> None:
        for device_id in (blank + DEVICE_ID, DEVICE_ID + blank, blank + DEVICE_ID + blank):
            text = written(event(source__device_id=device_id))
            verdict, events = relay_says(text)
            assert verdict == "accepted"
            assert events[0] == Event(
                bytes.fromhex(table.EVENT_ID.replace("-", "")), (2, "tv", DEVICE_ID), text.encode()
            )
            assert validate.read(f'{{"events":[{text}]}}'.encode()).device == (2, "tv", DEVICE_ID)

    def test_a_default_device_id_is_trimmed_for_its_device_alone(self) -> None:
        text = written(event()).replace(f',"device_id":"{DEVICE_ID}"', "")
        reader = Reader(EventDefaults(device_id=" BOX-2\n"), 1 << 16, lambda: table.EVENT_ID, lambda: NOW)
        for form in ("compact", "escaped"):
            result = read(text, form, reader)
            assert isinstance(result, list)
            assert result[0].device_key == (2, "tv", "BOX-2")
            assert json.loads(result[0].body)["source"]["device_id"] == " BOX-2\n"

    def test_the_longest_device_id_is_measured_without_its_blanks(self) -> None:
        assert relay_says(written(event(source__device_id=" " * 99 + "x" * 255)))[0] == "accepted"
        assert relay_says(written(event(source__device_id=" " * 99 + "x" * 256)))[0] == "rejected"

    def test_every_white_space_control_and_format_character_is_trimmed(self) -> None:
        characters = map(chr, range(0x110000))
        named = {each for each in characters if unicodedata.category(each) in ("Zs", "Zl", "Zp", "Cc", "Cf")}
        assert named | {*table.BLANK_LETTERS, *table.OTHER_BLANKS} <= set(BLANKS)
        assert all(unicodedata.category(each)[0] in "ZC" for each in set(BLANKS) - set("".join(table.BLANKS)))


class TestIds:
    @pytest.mark.parametrize("event_id", table.IDS)
    def test_a_version_4_uuid_is_accepted_as_the_id_that_it_is(self, event_id: str) -> None:
        text = written(event(event_id=event_id))
        verdict, events = relay_says(text)
        assert (verdict, sandbox_says(text)) == BOTH_ACCEPT
        assert events[0].event_id.hex() == table.EVENT_ID.replace("-", "")

    @pytest.mark.parametrize("event_id", table.NO_IDS)
    def test_another_id_is_rejected(self, event_id: object) -> None:
        assert both_say(written(event(event_id=event_id))) == BOTH_REJECT


class TestPlatforms:
    @pytest.mark.parametrize("platform", table.PLATFORMS)
    def test_a_platform_is_accepted_as_the_one_that_it_is(self, platform: str) -> None:
        text = written(event(source__platform=platform))
        verdict, events = relay_says(text)
        assert (verdict, sandbox_says(text)) == BOTH_ACCEPT
        assert events[0].device_key == (2, "tv", DEVICE_ID)

    @pytest.mark.parametrize("platform", table.NO_PLATFORMS)
    def test_another_platform_is_rejected(self, platform: object) -> None:
        assert both_say(written(event(source__platform=platform))) == BOTH_REJECT


class TestTenants:
    def text(self, tenant: str) -> str:
        return written(event(tenant_id="?")).replace('"?"', tenant)

    @pytest.mark.parametrize("tenant", table.RAW_TENANTS)
    def test_a_whole_number_is_the_integer_that_it_is(self, tenant: str) -> None:
        verdict, events = relay_says(self.text(tenant))
        assert (verdict, sandbox_says(self.text(tenant))) == BOTH_ACCEPT
        (tenant_id, _, _) = events[0].device_key
        assert (type(tenant_id), tenant_id) == (int, int(tenant) if tenant.isdigit() else int(float(tenant)))

    @pytest.mark.parametrize("tenant", table.RAW_NO_TENANTS)
    def test_another_value_is_rejected(self, tenant: str) -> None:
        assert both_say(self.text(tenant)) == BOTH_REJECT

    @pytest.mark.parametrize("tenant", table.RAW_TENANTS_OF_THE_FRAMEWORK)
    def test_the_relay_alone_rejects_undocumented_tenant_ids(self, tenant: str) -> None:
        assert both_say(self.text(tenant)) == ONLY_THE_FRAMEWORK


class TestEmptyObjects:
    @pytest.mark.parametrize("context", table.OBJECTS)
    def test_a_context_may_be_an_empty_array(self, context: object) -> None:
        assert both_say(written(event(context=context))) == BOTH_ACCEPT

    @pytest.mark.parametrize("value", table.NO_OBJECTS)
    @pytest.mark.parametrize("field", ["context", "subject"])
    def test_another_value_is_rejected(self, field: str, value: object) -> None:
        assert both_say(written(event(**{field: value}))) == BOTH_REJECT

    def test_only_an_empty_array_is_an_object_to_the_relay(self) -> None:
        assert both_say(written(event(context=[1]))) == ONLY_THE_FRAMEWORK

    def test_an_empty_array_has_the_same_errors_as_an_empty_object(self) -> None:
        for empty in ([], {}):
            result = read(written(event(subject=empty, source=empty)), "compact")
            assert isinstance(result, Rejection)
            assert list(result.errors) == [
                f"events.0.{path}" for path in ("source.platform", "source.device_id", "subject.type", "subject.id")
            ]

    @pytest.mark.parametrize("empty", ["[]", "[ ]", "{}", "{ }"])
    def test_the_configured_defaults_fill_an_empty_source(self, empty: str) -> None:
        text = written(event(source="?")).replace('"?"', empty)
        reader = Reader(EventDefaults(platform="tv", device_id="BOX-2"), 1 << 16, lambda: table.EVENT_ID, lambda: NOW)
        result = read(text, "compact", reader)
        assert isinstance(result, list)
        assert result[0].device_key == (2, "tv", "BOX-2")
        assert json.loads(result[0].body) == event(source={"platform": "tv", "device_id": "BOX-2"})


FIELDS = ("event_id", "event_type", "tenant_id", "source", "subject", "context", "occurred_at")
FIELDS_OF_SOURCE = ("source__platform", "source__device_id", *table.OPTIONAL_STRINGS)


@pytest.mark.parametrize("field", [*FIELDS, *FIELDS_OF_SOURCE])
def test_null_is_rejected(field: str) -> None:
    assert both_say(written(event(**{field: None}))) == BOTH_REJECT


@pytest.mark.parametrize("field", FIELDS_OF_SOURCE)
def test_an_empty_array_is_not_a_string(field: str) -> None:
    assert both_say(written(event(**{field: []}))) == BOTH_REJECT


class TestContentTypes:
    @pytest.mark.parametrize("content_type", table.JSON_TYPES)
    def test_a_json_type_is_read_as_json_by_both(self, content_type: str) -> None:
        type_ = body_type(content_type)
        assert type_ is not None
        assert type_.kind == "json"
        assert sandbox_reads(content_type)

    @pytest.mark.parametrize("content_type", table.OTHER_JSON_TYPES)
    def test_some_types_are_json_to_the_relay(self, content_type: str) -> None:
        type_ = body_type(content_type)
        assert type_ is not None
        assert type_.kind == "json"

    @pytest.mark.parametrize("content_type", table.LINE_TYPES)
    def test_a_type_of_lines_is_one_for_lines(self, content_type: str) -> None:
        assert body_type(content_type) == ("lines", False)

    @pytest.mark.parametrize("content_type", table.NO_TYPES)
    def test_another_type_is_not_read(self, content_type: str) -> None:
        assert body_type(content_type) is None

    def test_the_sandbox_does_not_read_forms(self) -> None:
        assert not sandbox_reads("application/x-www-form-urlencoded")
        assert not sandbox_reads("text/plain")


def sandbox_reads(content_type: str) -> bool:
    application = Application(SandboxSettings(api_key="k"), HandClock())
    headers = {"content-type": content_type, "x-events-key": "k", "accept": "application/json"}
    head = Head("POST", SandboxSettings().path, headers, False)
    number = application.record.arrived(0, "127.0.0.1")
    return (
        application.plan(number, head, f'{{"events":[{written(event())}]}}'.encode(), "127.0.0.1").response.status
        == 202
    )
