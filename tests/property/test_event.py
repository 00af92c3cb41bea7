"""For all input bytes, the reader agrees with a naive judge, preserves every byte, and never raises.

The judge does not depend on the reader's two paths. It parses with the standard library, visits every value, and
implements contract section 4 in simple code.
"""

from __future__ import annotations

import json
import re
import unicodedata
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from relay.event import fast_reader
from relay.event.reader import FEWEST_TOGETHER, Event, EventDefaults, Reader, Rejection, _Found
from relay.event.rules import EventErrors
from tests.support.steps import measured

NEW_EVENT_ID = "0b0b0b0b-0b0b-4b0b-8b0b-0b0b0b0b0b0b"
NOW = "2024-05-01T12:00:00.123Z"
MAX_EVENT_BYTES = 1 << 16
DEFAULTS = [
    EventDefaults(),
    EventDefaults(tenant_id=2),
    EventDefaults(tenant_id=2, platform="tv", device_id="box-1"),
    EventDefaults(device_id='bo"x\u2603', app_version="1"),
]


def reader(defaults: EventDefaults) -> Reader:
    return Reader(defaults, MAX_EVENT_BYTES, lambda: NEW_EVENT_ID, lambda: NOW)


# The judge


class Pairs:
    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        self.pairs = pairs
        self.names = [name for name, _ in pairs]
        self.last = dict(pairs)


class NotStrict(Exception):
    pass


def reject_constant(_: str) -> None:
    raise NotStrict


def judge_json(body: bytes) -> Any:
    """Return the value with objects as Pairs. Raise NotStrict for JSON that an upstream might not parse."""
    try:
        text = body.decode("utf-8")
        value = json.JSONDecoder(object_pairs_hook=Pairs, parse_constant=reject_constant).decode(text)
    except (ValueError, RecursionError) as error:
        raise NotStrict from error
    return value


def judge_values(value: Any, levels: int) -> None:
    if isinstance(value, (Pairs, list)):
        if levels == 0:
            raise NotStrict
        inside = [x for pair in value.pairs for x in pair] if isinstance(value, Pairs) else value
        for item in inside:
            judge_values(item, levels - 1)
    elif isinstance(value, str):
        if any(c == "\0" or "\ud800" <= c <= "\udfff" for c in value):
            raise NotStrict
    elif isinstance(value, float):
        if value in (float("inf"), -float("inf")):
            raise NotStrict
    elif isinstance(value, int) and not -(2**63) <= value <= 2**63 - 1:
        raise NotStrict


BLANK_LETTERS = "\u034f\u115f\u1160\u17b4\u17b5\u2065\u2800\u3164\uffa0\U0001d159"


def is_blank(character: str) -> bool:
    return unicodedata.category(character) in ("Zs", "Zl", "Zp", "Cc", "Cf") or character in BLANK_LETTERS


def trim(text: str) -> str:
    while text and is_blank(text[0]):
        text = text[1:]
    while text and is_blank(text[-1]):
        text = text[:-1]
    return text


def is_filled(value: Any) -> bool:
    return isinstance(value, str) and trim(value) != ""


def is_moment(value: Any) -> bool:
    """Judge the forms that are drawn below. tests/unit/event/test_values.py covers all forms."""
    try:
        time = datetime.fromisoformat(trim(value).upper()) if isinstance(value, str) else None
        return time is not None and "," not in value and time.tzinfo is not None
    except ValueError:
        return False


def as_tenant(value: Any) -> int:
    """Return the integer value of a number, or 0 if it is not an integer."""
    if type(value) is float and value.is_integer() and value < 1e15:
        return int(value)
    return value if type(value) is int else 0


def is_valid(event: Any, defaults: EventDefaults) -> bool:
    if not isinstance(event, Pairs):
        return False
    fields = event.last
    empty = Pairs([])
    source, subject, context = (as_object(fields.get(name, empty)) for name in ("source", "subject", "context"))
    if not isinstance(source, Pairs) or not isinstance(subject, Pairs):
        return False
    uuid = r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-4[0-9a-fA-F]{3}-[89abAB][0-9a-fA-F]{3}-[0-9a-fA-F]{12}"
    tenant_id = fields.get("tenant_id", defaults.tenant_id)
    platform = source.last.get("platform", defaults.platform)
    device_id = source.last.get("device_id", defaults.device_id)
    return (
        all(len(set(part.names)) == len(part.names) for part in (event, source, subject))
        and re.fullmatch(uuid, trim(str(fields.get("event_id", NEW_EVENT_ID)))) is not None
        and is_filled(fields.get("event_type"))
        and as_tenant(tenant_id) >= 1
        and isinstance(platform, str)
        and trim(platform) in ("ios", "android", "web", "tv")
        and is_filled(device_id)
        and len(trim(device_id)) <= 255
        and all(is_filled(source.last.get(n, "given")) for n in ("app_version", "os_version", "device_model"))
        and ("subject" not in fields or all(is_filled(subject.last.get(n)) for n in ("type", "id")))
        and isinstance(context, Pairs)
        and is_moment(fields.get("occurred_at", NOW))
    )


def judge(body: bytes, defaults: EventDefaults) -> str | list[Any]:
    """Return the events as Pairs, or "malformed", "invalid", or "either" if the contract permits both."""
    try:
        value = judge_json(body)
        if isinstance(value, Pairs) and "events" in value.names and "event_type" not in value.names:
            if value.names.count("events") > 1 or not isinstance(value.last["events"], list):
                return "either"
            judge_values(Pairs([(n, None if n == "events" else v) for n, v in value.pairs]), 32)
            events = value.last["events"]
        else:
            events = value if isinstance(value, list) else [value]
        for event in events:
            judge_values(event, 32)
    except NotStrict:
        return "malformed"
    if not events:
        return "malformed"
    return events if all(is_valid(event, defaults) for event in events) else "invalid"


# What apps send, and worse


def write(value: Any, style: dict[str, Any]) -> str:
    """Return the JSON text of values and Pairs in one consistent style."""
    if isinstance(value, Pairs):
        members = [f"{write(n, style)}{style['colon']}{write(v, style)}" for n, v in value.pairs]
        return "{" + style["pad"] + style["comma"].join(members) + style["pad"] + "}"
    if isinstance(value, list):
        return "[" + style["pad"] + style["comma"].join(write(v, style) for v in value) + style["pad"] + "]"
    text = json.dumps(value, ensure_ascii=style["ascii"])
    if isinstance(value, str) and style["slash"]:
        text = text.replace("/", "\\/")
    if isinstance(value, str) and style["letters"]:
        text = text.replace("e", "\\u0065") if "\\" not in text else text
    return text


COMPACT = {"colon": ":", "comma": ",", "pad": "", "ascii": False, "slash": False, "letters": False}
odd_styles = st.fixed_dictionaries(
    {
        "colon": st.sampled_from([":", ": ", " :", "\t:\r\n"]),
        "comma": st.sampled_from([",", ", ", " ,", ",\n  "]),
        "pad": st.sampled_from(["", " ", "\n"]),
        "ascii": st.booleans(),
        "slash": st.booleans(),
        "letters": st.sampled_from([False, False, True]),
    }
)
styles = st.one_of(st.just(COMPACT), odd_styles)
NASTY = ["\0", "\ud800", 2**63, -(2**63) - 1, 2**64, float("nan"), float("inf"), "\ude00\ud83d"]


def rarely(nasty: st.SearchStrategy[Any], usual: st.SearchStrategy[Any], one_in: int = 30) -> st.SearchStrategy[Any]:
    return st.integers(1, one_in).flatmap(lambda n: nasty if n == one_in // 2 else usual)


texts = st.one_of(
    st.text(st.characters(exclude_characters="\0"), max_size=8),
    st.sampled_from(["", " ", ":", '":', '"source":{', "a/b", "\\/", "\u2028", "\\u0000", "events", "\U0001f600"]),
)
plain = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    texts,
)
names = st.one_of(st.sampled_from(["a", "source", "events", "subject", "platform", "x/y"]), texts)
values = st.recursive(
    rarely(st.sampled_from(NASTY), plain, 60),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.lists(st.tuples(names, inner), max_size=3).map(Pairs)),
    max_leaves=6,
)


def good(name: str, strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[str, Any]]:
    """Draw a member that is nearly always valid."""
    return st.tuples(st.just(name), rarely(values, strategy, 60))


@st.composite
def objects(draw: st.DrawFn, *members: st.SearchStrategy[tuple[str, Any]]) -> Pairs:
    """Draw members in any order. Sometimes a member is missing, unusual or duplicated."""
    pairs = [draw(member) for member in members if draw(st.integers(1, 20)) != 7]
    if draw(st.integers(1, 5)) == 3:
        pairs.append(draw(st.tuples(names, values)))
    if pairs and draw(st.integers(1, 30)) == 7:
        pairs.append(draw(st.sampled_from(pairs)))
    return Pairs(draw(st.permutations(pairs)))


filled = st.text("ab /é☃\u200b\u3164", min_size=3, max_size=9)
moments = st.one_of(
    st.sampled_from(
        [NOW, "2024-05-01T12:00:00+02:00", "2024-05-01T12:00:00", "2024-05-01 12:00Z", "2024-02-30T00:00Z"]
    ),
    st.datetimes(timezones=st.just(UTC)).map(datetime.isoformat),
)
events = objects(
    good("event_id", st.uuids(version=4).map(str).flatmap(lambda u: st.sampled_from([u, u, u.upper(), f"\ufeff{u} "]))),
    good("event_type", filled),
    good("tenant_id", rarely(st.sampled_from([2.0, 1e3, 1e15]), st.integers(1, 9))),
    good(
        "source",
        objects(
            good("platform", st.sampled_from(["ios", "tv", "tv", " tv"])),
            good("device_id", filled),
            good("app_version", filled),
        ),
    ),
    good("subject", objects(good("type", rarely(texts, filled)), good("id", filled))),
    good("context", st.lists(st.tuples(names, values), max_size=4, unique_by=lambda pair: pair[0]).map(Pairs)),
    good("occurred_at", moments),
)
bodies = st.builds(
    lambda value, style: write(value, style).encode(errors="surrogatepass"),
    st.one_of(
        events,
        events,
        st.lists(events, max_size=3),
        st.lists(events, max_size=3).map(lambda found: Pairs([("events", found)])),
        objects(good("events", st.lists(events, max_size=2))),
    ),
    styles,
)

VALID = (
    b'{"event_id":"550e8400-e29b-41d4-a716-446655440000","event_type":"post.view","tenant_id":1,'
    b'"source":{"platform":"ios","device_id":"A1B2"},"subject":{"type":"post","id":"01HQ"},'
    b'"context":{"n":-1.5,"t":"a\\nb","l":[1,{"a":null}]},"occurred_at":"2024-05-01T12:00:00Z"}'
)
BYTES_THAT_MATTER = [
    *(b'"', b"{", b"}", b"[", b"]", b",", b":", b" ", b"\n", b"-", b".", b"0", b"null", b"NaN", b"1e999", b"9" * 19),
    *(b"\\", b"\\u0000", b"\\ud800", b"\\udc00", b"\xff", b"\0", b"[" * 33, b'"tenant_id":1,', b'"x":1,'),
]
HALVES = [VALID[: VALID.index(b",")], VALID[VALID.index(b",") :], VALID + b"\n" + VALID]
"""Fragments that may become events when they are joined by line breaks or commas. No fragment is an event."""
fragments = st.one_of(st.binary(max_size=3), st.sampled_from(BYTES_THAT_MATTER))


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Draw a valid event or batch after a few cuts and insertions."""
    body = draw(st.sampled_from([VALID, b"[" + VALID + b"," + VALID + b"]", b'{"events":[' + VALID + b"]}"]))
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(body)))
        body = body[:at] + draw(fragments) + body[at + draw(st.sampled_from([0, 0, 1, 2, 9])) :]
    return body


any_defaults = st.sampled_from(DEFAULTS)
SPACE = b" \t\n\r"


def added_to(before: Pairs, defaults: EventDefaults) -> tuple[list[tuple[str, Any]], list[tuple[str, Any]]]:
    """Return the members that the relay must add to an event, and to its source if it has one."""
    members: list[tuple[str, Any]] = [("event_id", NEW_EVENT_ID), ("occurred_at", NOW)]
    if defaults.tenant_id is not None:
        members.append(("tenant_id", defaults.tenant_id))
    texts = [(n, getattr(defaults, n)) for n in ("platform", "device_id", "app_version", "os_version", "device_model")]
    in_source = [(name, text) for name, text in texts if text]
    if in_source:
        members.append(("source", Pairs(in_source)))
    source = as_object(before.last.get("source", Pairs([])))
    return (
        [(name, value) for name, value in members if name not in before.names],
        [(name, value) for name, value in in_source if name not in source.names],
    )


def as_object(value: Any) -> Any:
    return Pairs([]) if value == [] else value


def plainly(value: Any) -> Any:
    """Return Pairs as tuples and numbers as text, so that `==` compares the written form."""
    if isinstance(value, Pairs):
        return ("object", [(name, plainly(member)) for name, member in value.pairs])
    if isinstance(value, list):
        return ["array", *map(plainly, value)]
    return repr(value)


def assert_as_judged(body: bytes, result: list[Event] | Rejection, defaults: EventDefaults) -> None:
    judged = judge(body, defaults)
    if isinstance(judged, str):
        assert isinstance(result, Rejection)
        assert judged in (result.reason, "either")
        return
    assert isinstance(result, list)
    for event, before in zip(result, judged, strict=True):
        members, in_source = added_to(before, defaults)
        expected = [
            (name, Pairs(in_source + as_object(member).pairs) if name == "source" else member)
            for name, member in before.pairs
        ]
        after = judge_json(event.body)
        assert plainly(after) == plainly(Pairs(members + expected))
        source = after.last["source"].last
        device = (as_tenant(after.last["tenant_id"]), trim(source["platform"]), trim(source["device_id"]))
        assert event.device_key == device
        assert event.event_id.hex() == trim(after.last["event_id"]).replace("-", "").lower()
        if before.last.get("source") != []:
            assert_spliced(event.body, body, members, in_source)


def assert_spliced(after: bytes, body: bytes, members: list[tuple[str, Any]], in_source: list[tuple[str, Any]]) -> None:
    """Assert that the event without the additions is a part of the body."""

    def without(text: bytes, additions: list[tuple[str, Any]]) -> list[bytes]:
        piece = write(Pairs(additions), COMPACT)[1:-1].encode()
        if not additions:
            return [text]
        return [text[: at.start()] + text[at.end() :] for at in re.finditer(re.escape(piece) + b",?", text)]

    whole = without(after, members)[:1] if members else [after]
    candidates = whole if any(name == "source" for name, _ in members) else without(whole[0], in_source)
    assert any(candidate in body for candidate in candidates)


@settings(max_examples=300)
@given(bodies, any_defaults)
@example(b'{"event_type":"a","tenant_id" :1,"tenant_id" :1,"x":":","source":{}}', DEFAULTS[2])
def test_what_apps_write_is_judged_as_the_contract_says(body: bytes, defaults: EventDefaults) -> None:
    assert_as_judged(body, reader(defaults).read(body, "json"), defaults)


@settings(max_examples=400)
@given(mutated(), any_defaults)
def test_mutated_events_are_judged_as_the_contract_says(body: bytes, defaults: EventDefaults) -> None:
    stripped = body.strip(SPACE)
    assert_as_judged(stripped, reader(defaults).read(body, "json"), defaults)


@settings(max_examples=300)
@given(st.one_of(st.binary(max_size=200), mutated(), st.lists(mutated(), max_size=3).map(b"\n".join)), any_defaults)
def test_no_bytes_make_a_reader_raise(body: bytes, defaults: EventDefaults) -> None:
    one = reader(defaults)
    for kind in ("json", "lines", "datagram"):
        result = one.read(body, kind)
        assert isinstance(result, Rejection) or (result and all(isinstance(event, Event) for event in result))
        if isinstance(result, Rejection):
            assert result.error
            assert bool(result.errors) == (result.reason == "invalid")


@settings(max_examples=120)
@given(
    st.lists(
        st.one_of(events.map(lambda e: write(e, COMPACT).encode(errors="surrogatepass")), mutated()),
        min_size=1,
        max_size=4,
    )
)
def test_lines_are_judged_as_the_elements_of_an_array(lines: list[bytes]) -> None:
    lines = [line.replace(b"\n", b" ").strip(SPACE) for line in lines]
    lines = [line for line in lines if line]
    result = reader(DEFAULTS[2]).read(b"\n".join(lines), "lines")
    if any(judge(b"[" + line + b"]", DEFAULTS[2]) == "malformed" for line in lines):
        assert isinstance(result, Rejection) and result.reason == "malformed"
    elif lines:
        if isinstance(result, Rejection):
            result = result._replace(error=result.error.partition(" The event is on line ")[0])
        assert result == reader(DEFAULTS[2]).read(b"[" + b",".join(lines) + b"]", "json")


@settings(max_examples=250)
@given(st.one_of(bodies, mutated()), any_defaults)
def test_the_fast_and_the_slow_reader_agree(body: bytes, defaults: EventDefaults) -> None:
    body = body.strip(SPACE)
    one = reader(defaults)
    quick = one._read_fast(body, one._occurred_at)
    if quick is not None:
        assert one._read_strictly(body, "events.0", _Found([], EventErrors(), one._occurred_at)) == quick


@settings(max_examples=150)
@given(
    st.lists(
        st.one_of(st.just(VALID), mutated(), bodies, st.sampled_from(HALVES)),
        min_size=FEWEST_TOGETHER,
        max_size=FEWEST_TOGETHER + 4,
    ),
    any_defaults,
)
@example([*HALVES[:3], *[VALID] * FEWEST_TOGETHER], DEFAULTS[2])
@example([VALID] * FEWEST_TOGETHER, DEFAULTS[2])
@example([*[VALID] * FEWEST_TOGETHER, VALID.replace(b"{", b"{\n", 1)], DEFAULTS[2])
def test_datagrams_that_are_read_together_are_what_they_are_alone(
    datagrams: list[bytes], defaults: EventDefaults
) -> None:
    together = reader(defaults).read_singles(datagrams)
    if together is not None:
        assert [[event] for event in together] == [reader(defaults).read(each, "datagram") for each in datagrams]


@settings(max_examples=150)
@given(st.one_of(bodies, mutated()), st.sampled_from([40, 300, fast_reader.PIECE_BYTES]))
def test_what_the_quick_reader_splits_is_the_whole_batch(body: bytes, piece_bytes: int) -> None:
    elements = split(body, piece_bytes)
    if elements is not None:
        array = b"[" + b",".join(elements) + b"]"
        assert reader(DEFAULTS[2]).read(array, "json") == reader(DEFAULTS[2]).read(body, "json")


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
@pytest.mark.parametrize("is_framed", [True, False])
def test_the_quick_reader_splits_what_common_writers_write_in_pieces(
    separators: tuple[str, str], is_framed: bool
) -> None:
    events = [{"id": n, "context": [{"id": 1, "text": '},{"id": [}'}] * 3} for n in range(50)]
    texts = [json.dumps(event, separators=separators).encode() for event in events]
    batch = {"events": events} if is_framed else events
    assert split(json.dumps(batch, separators=separators).encode(), 500) == texts


def split(body: bytes, piece_bytes: int) -> list[bytes] | None:
    return measured(fast_reader.splitting(body, piece_bytes)).value


@pytest.mark.parametrize("indent", [None, 0])
def test_the_fast_reader_reads_the_output_of_common_writers(indent: int | None) -> None:
    """Check that these are accepted. The other properties also hold for a reader that accepts nothing."""
    event = json.loads(VALID)
    assert fast_reader.read(json.dumps(event, separators=(",", ":"), ensure_ascii=False).encode()) == event
    assert fast_reader.read(json.dumps(event, indent=indent, ensure_ascii=False).encode()) == event
