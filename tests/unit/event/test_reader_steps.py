"""No step of reading takes long, for a body of any structure (G9)."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from relay.event.reader import EventDefaults, Reader, Rejection
from relay.event.strict_json import Cursor, Malformed, TooLong

from tests.support.steps import LONGEST_STEP_S, measured

BODY_BYTES = 1 << 20
DATAGRAM_BYTES = 1 << 18
EVENT_BYTES = 64 << 10
TINY = b'{"event_type":"a"}'
BAD = b'{"event_id":1,"event_type":2,"source":1,"tenant_id":"","occurred_at":1,"subject":1,"context":1},'
TWICE = b'{"event_type":1,' + b'"%s":1,' % (b"x" * 40) * 3 + b'"a":2},'


def filled(opening: bytes, unit: bytes, closing: bytes, size_bytes: int = BODY_BYTES) -> bytes:
    return (opening + unit * ((size_bytes - len(opening) - len(closing)) // len(unit))).rstrip(b",") + closing


def event_of(context: bytes) -> bytes:
    return b'{"event_type":"a","context":{"a":%b}}' % context


def batch_of(event: bytes) -> bytes:
    return filled(b"[", event + b",", b"]")


SHAPES = {
    "ones": filled(b"[", b"1,", b"]"),
    "ones with spaces": filled(b"[ ", b"1 , ", b"]"),
    "ones in a frame": filled(b'{"events":[', b"1,", b"]}"),
    "ones in an array": filled(b"[[", b"1,", b"]]"),
    "ones in an array with spaces": filled(b"[ [", b"1 ,", b"] ]"),
    "one name again behind an empty batch": filled(b'{"events":[],', b'"a":1,', b"}"),
    "one name again before an empty batch": filled(b'{"a":1,', b'"a":1,', b',"events":[]}'),
    "one name again behind an escaped name": filled(b'{"\\u0065vents":[],', b'"a":1,', b"}"),
    "arrays behind an empty batch": filled(b'{"events":[],"a":[', b"[],", b"]}"),
    "a long name": b'{"events":[],"' + b"a" * BODY_BYTES + b'":1}',
    "a long escaped name": b'{"events":[],"' + b"\\u0061" * (BODY_BYTES // 6) + b'":1}',
    "batches": filled(b"{", b'"events":[],', b"}"),
    "empty objects": filled(b"[", b"{},", b"]"),
    "empty objects with spaces": filled(b"[ ", b"{} ,", b"]"),
    "empty arrays": filled(b"[", b"[],", b"]"),
    "tiny events": filled(b"[", TINY + b",", b"]"),
    "tiny events in a frame": filled(b'{"events":[', TINY + b",", b"]}"),
    "tiny events with spaces": filled(b"[ ", TINY + b" ,", b"]"),
    "tiny events, the last one cut": filled(b"[", TINY + b",", b"]")[:-3],
    "brackets": b"[" * BODY_BYTES,
    "deep arrays": b"[" * (BODY_BYTES // 2) + b"]" * (BODY_BYTES // 2),
    "deep objects": b'{"a":' * (BODY_BYTES // 6) + b"1" + b"}" * (BODY_BYTES // 6),
    "a string": b'["' + b"a" * BODY_BYTES + b'"]',
    "a string of escapes": b'["' + b"\\n" * (BODY_BYTES // 2) + b'"]',
    "a string without end": b'[1,"' + b"\\u0061" * (BODY_BYTES // 6),
    "backslashes": b'{"events":"' + b"\\" * BODY_BYTES,
    "digits": b"[" + b"9" * BODY_BYTES + b"]",
    "digits in a frame": b'{"events":' + b"9" * BODY_BYTES + b"}",
    "decimals": b"[1." + b"9" * BODY_BYTES + b"]",
    "spaces": b" " * BODY_BYTES,
    "spaces in an array": b"[" + b" " * BODY_BYTES + b"]",
    "line ends": b"\n" * BODY_BYTES,
    "lines of ones": b"1\n" * (BODY_BYTES // 2),
    "lines of empty objects": b"{}\n" * (BODY_BYTES // 3),
    "lines of tiny events": (TINY + b"\n") * (BODY_BYTES // 19),
    "NUL bytes": bytes(BODY_BYTES),
    "events with every error": filled(b"[", BAD, b"]"),
    "events with repeated names": filled(b"[", TWICE, b"]"),
    "an event with many repeated names": b"{%b}" % b",".join(b'"%04x":1,"%04x":1' % (n, n) for n in range(3_600)),
    "an event with one name again": filled(b'{"event_type":"a",', b'"a":1,', b"}", EVENT_BYTES),
    "large events of ones": batch_of(event_of(filled(b"[", b"1,", b"]", 60_000))),
    "large events of ones with spaces": batch_of(event_of(filled(b"[", b"1, ", b"]", 60_000))),
    "large events of fractions": batch_of(event_of(filled(b"[", b"1e1,", b"]", 60_000))),
    "large events of empty arrays": batch_of(event_of(filled(b"[", b"[ ],", b"]", 60_000))),
    "large events of empty objects": batch_of(event_of(filled(b"[", b"{ },", b"]", 60_000))),
    "large events of objects": batch_of(event_of(filled(b"[", b'{"a":{"a" :1}},', b"]", 60_000))),
    "large events of escapes": batch_of(event_of(b'"' + b"\\u0061" * 10_000 + b'"')),
    "large events that fail at their end": batch_of(event_of(filled(b"[", b"1,", b",NaN]", 60_000))),
    "nested events": filled(b"[", b'{"event_type":"a","context":{"a":[' + (TINY + b",") * 1_000 + b"1]}},", b"]"),
}
READERS = [
    Reader(defaults, EVENT_BYTES, lambda: "00000000-0000-4000-8000-000000000001", lambda: "2026-01-01T00:00:00Z")
    for defaults in (EventDefaults(), EventDefaults(tenant_id=1, platform="tv", device_id="box"))
]


@pytest.mark.parametrize("reader", READERS, ids=["no defaults", "defaults"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_no_step_of_reading_exceeds_the_bound_of_the_contract(reader: Reader, shape: bytes) -> None:
    for steps in (
        reader.reading(shape, "json"),
        reader.reading(shape, "lines"),
        reader.reading(shape[:DATAGRAM_BYTES], "datagram"),
        reader.reading(shape[: DATAGRAM_BYTES // 2] + shape[-DATAGRAM_BYTES // 2 :], "datagram"),
    ):
        assert measured(steps).longest_s < LONGEST_STEP_S


@pytest.mark.parametrize(
    ("shape", "most_steps"),
    [
        ("ones", 2),
        ("ones in a frame", 100),
        ("one name again behind an empty batch", 30),
        ("arrays behind an empty batch", 2),
        ("a long name", 2),
        ("events with every error", 20),
        ("lines of ones", 20),
    ],
)
def test_reading_a_datagram_stops_when_it_is_certain_to_be_rejected(shape: str, most_steps: int) -> None:
    result = measured(READERS[0].reading(SHAPES[shape][:DATAGRAM_BYTES], "datagram"))
    assert isinstance(result.value, Rejection)
    assert result.steps <= most_steps


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=4), children, max_size=4),
    max_leaves=10,
)
spaces = st.sampled_from(["", " ", "\n  "])


@given(st.lists(json_values, max_size=12), spaces, st.booleans(), st.integers(1, 60), st.integers(0, 400))
def test_the_window_does_not_change_the_result_for_values_that_fit(
    values: list[object], space: str, ascii_only: bool, max_characters: int, cut: int
) -> None:
    """The text is also cut somewhere, so that malformed ends are met, too."""
    texts = [json.dumps(value, ensure_ascii=ascii_only) for value in values]
    text = f"[{space}" + f",{space}".join(texts) + "]"
    for given_text in (text, text[:cut]):
        whole = walked(given_text, len(given_text))
        found = walked(given_text, max_characters)
        if found[-1] == "too long":
            element = len(found) - 1
            assert found[:-1] == whole[:element]
            assert whole[-1] != "end" or len(texts[element]) > max_characters
        else:
            assert found == whole


def walked(text: str, max_characters: int) -> list[object]:
    """Where the elements of an array lie, and what ends the walk otherwise."""
    cursor = Cursor(text, max_characters)
    spans: list[object] = []
    try:
        spans.extend(cursor.elements())
        cursor.end()
        spans.append("end")
    except TooLong:
        spans.append("too long")
    except Malformed as error:
        spans.append(str(error))
    return spans
