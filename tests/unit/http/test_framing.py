"""The end of a body is found wherever the data is cut, at the same place as by aiohttp's parser."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import pairwise

import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpProcessingError, HttpRequestParser
from hypothesis import example, given, settings
from hypothesis import strategies as st
from relay.http.framing import BodyDecoder, ChunkedBody, FixedBody

from tests.fault.sizes import size

BEHIND = b"GET / HTTP/1.1\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


def decoded(decoder: BodyDecoder, pieces: Sequence[bytes]) -> tuple[bytes, bytes | None] | None:
    """Return the body and the data behind it; None if the framing is invalid."""
    body = b""
    for number, piece in enumerate(pieces, 1):
        found = decoder.feed(piece)
        if found is None:
            return None
        body += found.part
        if found.rest is not None:
            return body, found.rest + b"".join(pieces[number:])
    return body, None


@pytest.mark.parametrize("piece_bytes", [1, 2, 3, 7, 100])
@pytest.mark.parametrize(
    ("framed", "body"),
    [
        (b"0\r\n\r\n", b""),
        (b"5\r\nabcde\r\n0\r\n\r\n", b"abcde"),
        (b"5\r\nabcde\r\n3;name=value\r\n\r\nx\r\n00\r\nTrailer: a\r\nX:\r\n\r\n", b"abcde\r\nx"),
        (b"A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n", b"0123456789" * 2),
    ],
)
def test_chunks_are_decoded_wherever_the_data_is_cut(framed: bytes, body: bytes, piece_bytes: int) -> None:
    stream = framed + BEHIND
    pieces = [stream[at : at + piece_bytes] for at in range(0, len(stream), piece_bytes)]
    assert decoded(ChunkedBody(), pieces) == (body, BEHIND)


@pytest.mark.parametrize(
    "framed",
    [
        b"\r\n", b"-1\r\n", b"+1\r\n", b"0x1\r\n", b"1_0\r\n", b" 1\r\n", b"1 \r\n", b"g\r\n", b"1\n", b"1\r\r\n",
        b"1;a\rb\r\n", b"1\r\nab\r\n", b"1\r\na\n\r\n", b"1\r\na\r\r\n", b"10000000000000000\r\n", b"1;" + b"x" * 5_000,
        b"1\r\naXY0\r\n\r\n",
        b"0\r\nno colon\r\n\r\n", b"0\r\n folded: a\r\n\r\n", b"0\r\nName : a\r\n\r\n", b"0\r\nA: b\n\r\n",
        b"0\r\n" + b"Name: value\r\n" * 4_000 + b"\r\n",
    ],
)  # fmt: skip
def test_an_invalid_chunk_ends_the_body(framed: bytes) -> None:
    assert decoded(ChunkedBody(), [framed]) is None
    assert decoded(ChunkedBody(), [framed[at : at + 1] for at in range(len(framed))]) is None


@pytest.mark.parametrize("piece_bytes", [1, 2, 3, 100])
def test_a_body_with_a_length_ends_after_it(piece_bytes: int) -> None:
    stream = b"abcde" + BEHIND
    pieces = [stream[at : at + piece_bytes] for at in range(0, len(stream), piece_bytes)]
    assert decoded(FixedBody(5), pieces) == (b"abcde", BEHIND)
    assert decoded(FixedBody(0), [BEHIND]) == (b"", BEHIND)
    assert decoded(FixedBody(5), [b"abcd"]) == (b"abcd", None)


PARTS = [
    b"0\r\n\r\n", b"5\r\nabcde\r\n", b"a\r\n0123456789\r\n", b"3;x=y\r\nabc\r\n", b"0\r\nA: b\r\n\r\n", b"1\r\n", b"a",
    b"\r\n", b"\n", b"\r", b"0", b"A: b\r\n", b"-1\r\n", b"1 \r\n", b"ffffffffffffffffffff\r\n", b";\r\n", b"\x00",
]  # fmt: skip


@given(st.lists(st.sampled_from(PARTS), max_size=8), st.lists(st.integers(0, 60), max_size=4))
@example([b"5\r\nabcde\r\n", b"0\r\n\r\n"], [1, 2, 12])
@settings(max_examples=size(300, 20_000))
def test_chunks_are_accepted_only_if_aiohttp_accepts_them_with_the_same_body(
    parts: list[bytes], cuts: list[int]
) -> None:
    stream = b"".join(parts)
    at = sorted({0, *(cut for cut in cuts if cut < len(stream)), len(stream)})
    pieces = [stream[start:end] for start, end in pairwise(at)]
    ours = decoded(ChunkedBody(), pieces)
    theirs = asyncio.run(aiohttps(pieces, None if ours is None or ours[1] is None else len(stream) - len(ours[1])))
    if ours is not None and ours[1] is not None:
        assert theirs == (ours[0], True)
    elif theirs is not None:
        assert not theirs[1]
        assert ours is None or ours[0] == theirs[0]


async def aiohttps(pieces: Sequence[bytes], end: int | None) -> tuple[bytes, bool] | None:
    """Return the body that aiohttp's parser reads up to `end`, and whether it is complete; None if it is invalid."""
    loop = asyncio.get_running_loop()
    parser = HttpRequestParser(BaseProtocol(loop), loop, 1 << 20)
    ((_, payload),), _, _ = parser.feed_data(CHUNKED)
    try:
        parser.feed_data(b"".join(pieces)[:end])
    except HttpProcessingError:
        return None
    if payload.exception() is not None:
        return None
    return payload.read_nowait(), payload.is_eof()
