"""Events that are read together have the same result as events that are read alone, even if one is almost valid.

All bodies have the form of one program's output, so that nearly all examples reach the proofs by column. Each proof is
then tested with input that passes only if events are confused with one another.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import islice, permutations
from typing import Any
from zlib import crc32

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from relay.event.reader import FEWEST_TOGETHER, Event, EventDefaults, Reader, Rejection

NEW_EVENT_ID = "0b0b0b0b-0b0b-4b0b-8b0b-0b0b0b0b0b0b"
NOW = "2024-05-01T12:00:00.123Z"
MAX_EVENT_BYTES = 600
ID = "550e8400-e29b-41d4-a716-446655440000"
DEFAULTS = [
    EventDefaults(),
    EventDefaults(tenant_id=2, platform="tv", device_id="box-1"),
    EventDefaults(device_id='bo"x\u2603', app_version="1"),
]
any_defaults = st.sampled_from(DEFAULTS)


def reader(defaults: EventDefaults) -> Reader:
    return Reader(defaults, MAX_EVENT_BYTES, lambda: NEW_EVENT_ID, lambda: NOW)


# Invalid ids, some of which become valid when they are joined

STRANGE_IDS = [
    "", ID[:-1], ID + "0", ID[1:], "0" + ID, ID.upper(), ID.replace("-", ""), "{" + ID + "}", "urn:uuid:" + ID,
    ID.replace("-41", "-11"), ID.replace("-41", "-51"), ID.replace("-a7", "-77"), ID.replace("-a7", "-c7"),
    ID.replace("-a7", "-A7"), ID.replace("-a7", "-b7"), ID.replace("-a7", "-87"), ID.replace("-a7", "- 7"),
    ID.replace("55", " 5", 1), ID.replace("0000", "00  "), ID.replace("0000", "\u0660\u0660\u0660\u0660"),
    ID[:7] + "-0" + ID[9:], ID[:12] + "-0" + ID[14:], ID[:18] + "7-" + ID[20:], ID[:22] + "-6" + ID[24:],
    ID[:9] + "-" + ID[10:], ID[:34] + "--", ID.replace("-", "0"), ID.replace("-", " "),
    ID[:-2] + "g0", ID[:-2] + "\n\t", "-" * 36, " " * 36, "4" * 36, "\U0001f600" * 36, ID.replace("-", "\u2010"),
]  # fmt: skip


# Whole events


def written(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode(errors="surrogatepass")


SOURCE = {"platform": "ios", "device_id": "A1B2", "app_version": "2.1.0"}
FIELDS: dict[str, Any] = {
    "event_id": ID,
    "event_type": "post.view",
    "tenant_id": 1,
    "source": SOURCE,
    "subject": {"type": "post", "id": "01HQ"},
    "occurred_at": "2024-05-01T12:00:00Z",
    "context": {"n": -1.5, "l": [1, {"a": None}]},
}
VALID = written(FIELDS)
STRANGE: dict[str, list[Any]] = {
    "event_id": [*STRANGE_IDS, None, 1],
    "event_type": ["", " \t", "\u3000", "a\nb", "\0", None, 7],
    "tenant_id": [0, -1, 2**63 - 1, 2**63, 2**64, 1.0, True, "1", None],
    "subject": [{}, {"type": "a"}, {"type": "a", "id": 1}, {"type": "a", "id": "b", "more": 1}, None, []],
    "occurred_at": [
        "2024-05-01", "2024-05-01T12:00:00", "2024-05-01 12:00:00Z", "2024-13-01T12:00:00Z", "", NOW, None, 5,
        "2024-05-01T12:00:00+02:00", "2024-05-01T12:00:00Z ",
    ],
    "context": [{}, [], None, {"a": "\ud800"}, {"a": "\0"}, {"a": "\\u0000"}, {"a": float("nan")}, {"a": "b\nc"},
                {"a": 2**64}, {"a": [[[[[[1]]]]]]}, {"a": 1e300}, {"a": "x" * MAX_EVENT_BYTES}, {"a": "x" * 280}],
    "more": [1],
}  # fmt: skip
STRANGE_SOURCES: dict[str, list[Any]] = {
    "platform": ["tv", "Tv", "", None],
    "device_id": ["", " ", "\u2003", "x" * 255, "x" * 256, "\u2603", 1],
    "app_version": ["", None, 2],
    "more": ["x"],
}
RAW_EDITS = [
    (b'"tenant_id":1', b'"tenant_id":1,"tenant_id":1'), (b'"tenant_id"', b'"tenant\\u005fid"'),
    (b'"A1B2"', b'"A1\\u00422"'), (b'"platform":"ios",', b'"platform":"ios","platform":"ios",'),
    (b"{", b"{ "), (b"}", b"} "), (b"}", b"}\n"), (b",", b"\n"), (b",", b",\n"), (b"}}", b"}"), (b"}}", b"}}}"),
    (b"{", b"["), (b"{", b""), (b"-1.5", b"-1.50"), (b"-1.5", b"1e1"), (b"-1.5", b"NaN"),
    (b"post.view", b"post\\/view"), (b"post.view", b"a\\nb"), (b"post.view", b"\xff"), (b"post.view", b"\xed\xa0\x80"),
    (b"post.view", b"\\ud800"), (b"post.view", b"\\u0000"), (b"post.view", b"\\\\u0000"),
]  # fmt: skip


@st.composite
def variants(draw: st.DrawFn, order: Sequence[str], kinds: int = 8) -> bytes:
    """Draw a mostly valid event with its fields in this order."""
    fields = {name: FIELDS[name] for name in order}
    if "event_id" in fields:
        fields["event_id"] = str(draw(st.uuids(version=4)))
    if "occurred_at" in fields:
        fields["occurred_at"] = draw(st.sampled_from([NOW, "2024-05-01T12:00:00Z", "2024-05-01T12:00:00+02:00"]))
    kind = draw(st.integers(0, kinds))
    if kind == 1:
        name = draw(st.sampled_from(sorted(STRANGE)))
        fields[name] = draw(st.sampled_from(STRANGE[name]))
    elif kind == 2:
        name = draw(st.sampled_from(sorted(STRANGE_SOURCES)))
        fields["source"] = SOURCE | {name: draw(st.sampled_from(STRANGE_SOURCES[name]))}
    elif kind == 3:
        fields.pop(draw(st.sampled_from(sorted(FIELDS))), None)
    elif kind == 4:
        name = draw(st.sampled_from(sorted(SOURCE)))
        fields["source"] = {key: value for key, value in SOURCE.items() if key != name}
    elif kind == 5:
        fields = dict(draw(st.permutations(list(fields.items()))))
    body = written(fields)
    if kind == 6:
        body = body.replace(*draw(st.sampled_from(RAW_EDITS)), 1)
    return body


@st.composite
def slices(draw: st.DrawFn) -> list[bytes]:
    """Draw bodies of one program, some of them cut in two parts between bodies."""
    names = draw(st.permutations(list(FIELDS)))
    order = names[: draw(st.sampled_from([7, 7, 7, 6, 5]))]
    if draw(st.booleans()) and "occurred_at" in order:
        order.remove("occurred_at")
    kinds = draw(st.sampled_from([8, 40, 40]))
    bodies = draw(st.lists(variants(order, kinds), min_size=FEWEST_TOGETHER, max_size=9))
    if draw(st.integers(0, 9)) == 1:
        at = draw(st.integers(0, len(bodies) - 1))
        cut = draw(st.integers(1, len(bodies[at]) - 1))
        bodies[at : at + 1] = [bodies[at][:cut], bodies[at][cut:]]
        if draw(st.booleans()):
            bodies = [b"\n".join(bodies[:2]), *bodies[2:]]
    return [body for body in bodies if body]


@settings(max_examples=600)
@given(slices(), any_defaults)
@example([VALID] * 5, DEFAULTS[0])
@example([VALID, VALID, VALID, VALID, VALID + b"\n" + VALID], DEFAULTS[0])
@example([VALID[:50], VALID[50:] + b"\n" + VALID, VALID, VALID, VALID], DEFAULTS[0])
@example(
    [VALID, VALID.replace(ID.encode(), ID[:-1].encode()), VALID.replace(b'"550e', b'"0550e'), VALID, VALID], DEFAULTS[0]
)
def test_events_read_together_are_what_they_are_alone(bodies: list[bytes], defaults: EventDefaults) -> None:
    assert_alike(bodies, defaults)


def assert_alike(bodies: list[bytes], defaults: EventDefaults) -> None:
    together = reader(defaults).read_singles(bodies)
    alone = [reader(defaults).read(body, "datagram") for body in bodies]
    if together is not None:
        assert [[event] for event in together] == alone
    if not any(b"\n" in body for body in bodies):
        lines = reader(defaults).read(b"\n".join(bodies), "lines")
        # A datagram is read up to its first fault, a line to its end.
        rejected = [each for body in bodies if isinstance(each := reader(defaults).read(body, "json"), Rejection)]
        if rejected:
            assert isinstance(lines, Rejection)
            assert lines.reason in {each.reason for each in rejected}
        else:
            assert [[event] for event in lines] == alone


STRANGE_BODIES = [
    *[written(FIELDS | {name: value}) for name, values in STRANGE.items() for value in values],
    *[
        written(FIELDS | {"source": SOURCE | {name: value}})
        for name, values in STRANGE_SOURCES.items()
        for value in values
    ],
    *[written({name: value for name, value in FIELDS.items() if name != missing}) for missing in FIELDS],
    *[VALID.replace(before, after, 1) for before, after in RAW_EDITS],
]


@pytest.mark.parametrize("strange", STRANGE_BODIES)
def test_a_strange_one_among_valid_ones_is_what_it_is_alone(strange: bytes) -> None:
    for defaults in DEFAULTS:
        assert_alike([VALID, strange, VALID, VALID, VALID], defaults)
        assert_alike([strange, VALID, VALID, VALID, VALID], defaults)
        assert_alike([strange] * 5, defaults)


@settings(max_examples=200)
@given(
    st.permutations(list(FIELDS)),
    st.booleans(),
    st.lists(st.uuids(version=4), min_size=FEWEST_TOGETHER, max_size=200),
    any_defaults,
)
def test_what_one_program_writes_is_proven_by_column(
    order: list[str], timed: bool, uuids: list[Any], defaults: EventDefaults
) -> None:
    """Check that these events are proven, because the other properties also hold if no event is."""
    if not timed:
        order.remove("occurred_at")
    bodies = [written({name: str(uuid) if name == "event_id" else FIELDS[name] for name in order}) for uuid in uuids]
    one = reader(defaults)
    columns = one._column_reader.read(bodies)
    assert columns is not None
    assert columns.timeless is not timed
    device_key = (1, "ios", "A1B2")
    added = b"" if timed else b'"occurred_at":"%s",' % NOW.encode()
    expected = [
        Event(uuid.bytes, device_key, b"{" + added + body[1:], not timed, 0 if timed else crc32(body))
        for uuid, body in zip(uuids, bodies, strict=True)
    ]
    read = one.read_singles(bodies)
    assert read == expected
    assert {type(event) for event in read} == {Event}


def test_an_event_that_becomes_too_large_by_its_time_is_rejected_among_others() -> None:
    fields = {name: value for name, value in FIELDS.items() if name != "occurred_at"}
    room = MAX_EVENT_BYTES - len(written(fields | {"context": {"a": ""}})) - len(b'"occurred_at":"",') - len(NOW)
    fits, too_large = (written(fields | {"context": {"a": "x" * size}}) for size in (room, room + 1))
    one = reader(DEFAULTS[0])
    assert len(one.read_singles([fits] * 5) or ()) == 5
    assert one.read_singles([fits, fits, too_large, fits, fits]) is None
    rejection = one.read(b"\n".join([fits, fits, too_large, fits, fits]), "lines")
    assert isinstance(rejection, Rejection)
    assert rejection.reason == "too_large"
    assert rejection.error.startswith("events.2 ")


def test_field_orders_beyond_the_cache_are_read_correctly() -> None:
    one = reader(DEFAULTS[0])
    for names in islice(permutations(FIELDS), 40):
        read_five(one, names)
    assert len(one._column_reader._decoders) == 32


def test_a_repeated_field_order_replaces_an_old_one() -> None:
    """A program that writes another order after each start must not displace the orders of other programs."""
    one = reader(DEFAULTS[0])
    *old, new = islice(permutations(FIELDS), 33)
    for names in old:
        read_five(one, names)
    decoders = one._column_reader._decoders
    first, *others = decoders

    for _ in range(15):
        read_five(one, new)
    assert list(decoders) == [first, *others], "created again for a program that changes its order"
    read_five(one, new)

    assert list(decoders)[:-1] == others
    learnt = decoders[list(decoders)[-1]]
    read_five(one, new)
    assert decoders[list(decoders)[-1]] is learnt


def read_five(one: Reader, names: Iterable[str]) -> None:
    """Read five events with this order of fields and check them."""
    body = written({name: FIELDS[name] for name in names})
    expected = Event(bytes.fromhex(ID.replace("-", "")), (1, "ios", "A1B2"), body)
    assert one.read(b"\n".join([body] * 5), "lines") == [expected] * 5
