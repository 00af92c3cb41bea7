"""Hostile bodies, and generators of further ones.

`BODIES` are inputs that broke other servers, each within an otherwise valid event. `mutants` generates endless
variations of them and of valid bodies; the seed determines the sequence.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

EVENT = b'{"event_type":"video.play","tenant_id":1,"source":{"platform":"tv","device_id":"box"},"context":{"a":%s}}'


def around(value: bytes) -> bytes:
    return EVENT.replace(b"%s", value)


GOOD = (
    around(b"1"),
    b'{"events":[' + around(b'"x"') + b"," + around(b"[1.5e3,null,true]") + b"]}",
    b"[" + around(b"{}") + b"]",
    around(b'"\\u00e9\\ud83d\\ude00"'),
    around(b'{"deep":[[[[[1]]]]]}'),
    around(b"-9223372036854775808"),
    around("☃".join('""').encode()),
)

BODIES: dict[str, tuple[bytes, int]] = {
    "100,000 opening brackets": (b"[" * 100_000, 400),
    "100,000 levels in an event": (around(b"[" * 20_000 + b"]" * 20_000), 400),
    "33 levels": (around(b"[" * 31 + b"]" * 31), 400),
    "an integer of 5,000 digits": (around(b"9" * 5_000), 400),
    "an integer of 60,000 digits": (around(b"9" * 60_000), 400),
    "2 to the 63": (around(b"9223372036854775808"), 400),
    "2 to the 64": (around(b"18446744073709551616"), 400),
    "NaN": (around(b"NaN"), 400),
    "Infinity": (around(b"-Infinity"), 400),
    "beyond a double": (around(b"1e400"), 400),
    "a lone high surrogate": (around(b'"\\ud800"'), 400),
    "a lone low surrogate": (around(b'"\\udc00x"'), 400),
    "surrogates in the wrong order": (around(b'"\\udc00\\ud800"'), 400),
    "a surrogate as bytes": (around(b'"\xed\xa0\x80"'), 400),
    "U+0000": (around(b'"\\u0000"'), 400),
    "a NUL byte": (around(b'"\x00"'), 400),
    "U+0000 in a name": (around(b'{"\\u0000":1}'), 400),
    "a byte order mark": (b"\xef\xbb\xbf" + around(b"1"), 400),
    "UTF-16": (around(b"1").decode().encode("utf-16"), 400),
    "UTF-32": (around(b"1").decode().encode("utf-32"), 400),
    "invalid UTF-8": (around(b'"\xff\xfe"'), 400),
    "an overlong slash": (around(b'"\xc0\xaf"'), 400),
    "a comment": (around(b"1/*x*/"), 400),
    "a trailing comma": (around(b"[1,]"), 400),
    "single quotes": (around(b"'x'"), 400),
    "a leading zero": (around(b"01"), 400),
    "a plus": (around(b"+1"), 400),
    "hex": (around(b"0x1"), 400),
    "two values": (around(b"1") + around(b"1"), 400),
    "nothing": (b"", 400),
    "space": (b" \r\n\t", 400),
    "null": (b"null", 422),
    "a string": (b'"x"', 422),
    "no events": (b'{"events":[]}', 400),
    "events twice": (b'{"events":[],"events":[' + around(b"1") + b"]}", 422),
    "a field twice": (around(b"1").replace(b'"tenant_id":1', b'"tenant_id":1,"tenant_id":2'), 422),
    "a good and a bad one": (b"[" + around(b"1") + b"," + around(b"NaN") + b"]", 400),
    "a form": (b"event_type=video.play&tenant_id=1", 400),
    "a path as device": (around(b"1").replace(b'"box"', b'"../../etc/passwd\\u0000"'), 400),
    "a tenant of 20 digits": (around(b"1").replace(b'"tenant_id":1', b'"tenant_id":99999999999999999999'), 400),
    "a device that is a list": (around(b"1").replace(b'"box"', b"[]"), 422),
    "a million brackets in a row": (b"[" + b"[]," * 300_000 + b"[]]", 422),
}

_TOKENS = (
    b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"\\u", b"\\ud800", b"\\udc00", b"\\u0000",
    b"\x00", b"\xff", b"\xc3",
    b"\xe2\x80\xa8", b"NaN", b"Infinity", b"-", b"1e999", b"9" * 30, b"0", b".", b"e", b"null",
    b"true", b"\n", b"\r\n", b" ",
    b"\t", b"\xef\xbb\xbf", b"/*", b'"events":', b'"events":[', b'"tenant_id":', b'"source":', b'"event_id":',
    b'"event_id":"550e8400-e29b-41d4-a716-446655440000",',
    b'"occurred_at":"2024-02-30T00:00:00Z",', b"[" * 40, b"]" * 40,
    b"\x1b[31m", b"\x1f\x8b", b"\xf0\x9f\x98\x80", b"1" * 5_000,
)  # fmt: skip


def mutants(seed: int) -> Iterator[bytes]:
    """Generate bodies without end, most of them damaged in a few places."""
    chance = random.Random(seed)
    stock = [*GOOD, *GOOD, *(body for body, _ in BODIES.values() if len(body) < 2_000)]
    while True:
        body = bytearray(chance.choice(stock))
        for _ in range(chance.choice((0, 1, 1, 1, 2, 3, 8))):
            at = chance.randint(0, len(body))
            match chance.randrange(6):
                case 0:
                    body[at:at] = chance.choice(_TOKENS)
                case 1:
                    del body[at : at + chance.choice((1, 1, 4, 30))]
                case 2:
                    body[at : at + 1] = bytes([chance.randrange(256)])
                case 3:
                    other = chance.choice(stock)
                    body[at:at] = other[chance.randint(0, len(other)) :]
                case 4:
                    body[at:at] = body[max(0, at - chance.randint(1, 60)) : at]
                case 5:
                    body += chance.choice((b"\n", b"", b",")) + chance.choice(stock)
        yield bytes(body)


def wire_mutants(seed: int) -> Iterator[bytes]:
    """Generate requests as bytes, damaged in the request line, headers, chunks or body."""
    chance = random.Random(seed)
    bodies = mutants(seed + 1)
    tokens = (
        b"\r\n", b"\n", b"\r", b" ", b"\x00", b":", b"Content-Length: 5\r\n", b"Content-Length: -1\r\n", b"\xff",
        b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: identity, chunked\r\n", b"Host: evil.example\r\n",
        b"Content-Encoding: gzip\r\n", b"Expect: 100-continue\r\n",
        b"Upgrade: h2c\r\nConnection: Upgrade\r\n", b"HTTP/2.0",
        b"0\r\n\r\n", b"5\r\nabcde\r\n", b"fffffffff\r\n", b"POST /v1/events HTTP/1.1\r\n", b"GET / HTTP/1.1\r\n\r\n",
        b"Origin: http://evil.example\r\n", b"a" * 9_000, b"Connection: close\r\n",
        b"TRACE * HTTP/1.1\r\n", b"\x16\x03\x01",
    )  # fmt: skip
    while True:
        body = next(bodies)[:4_000]
        head = chance.choice(
            (
                b"POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body),
                b"POST /v1/events HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % len(body),
                b"POST http://localhost/v1/events?x HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(body),
                b"OPTIONS /v1/events HTTP/1.1\r\nHost: localhost\r\nOrigin: null\r\n\r\n",
            )
        )
        raw = bytearray(head + body + (b"\r\n0\r\n\r\n" if b"chunked" in head else b""))
        for _ in range(chance.choice((1, 1, 2, 5))):
            at = chance.randint(0, min(len(raw), len(head) + 20))
            if chance.random() < 0.7:
                raw[at:at] = chance.choice(tokens)
            else:
                del raw[at : at + chance.choice((1, 2, 10))]
        yield bytes(raw)


def describe(body: bytes) -> str:
    """Return the text that a failing test shows for a body: its beginning and its length."""
    return json.dumps(body[:300].decode("latin-1")) + f" ({len(body)} bytes)"
