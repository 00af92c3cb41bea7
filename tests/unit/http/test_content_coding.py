"""Undoing compression within bounds."""

from __future__ import annotations

import os
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from relay.http.content_coding import CODINGS, InflateError, inflate_at_once, inflating

from tests.support.ingest_harness import gzipped
from tests.support.steps import LONGEST_STEP_S, measured

LIMIT = 10_000
TEXT = b'{"event_type": "video.play"}' * 20


def inflate(data: bytes, coding: str, max_bytes: int) -> bytes | InflateError:
    """Return the result of all steps."""
    steps = inflating(data, coding, max_bytes)
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return done.value


def raw_deflated(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush()


COMPRESSED = [("gzip", gzipped(TEXT)), ("deflate", zlib.compress(TEXT)), ("deflate", raw_deflated(TEXT))]


def test_gzip_and_deflate_are_always_supported() -> None:
    assert CODINGS[:2] == ("gzip", "deflate")


@pytest.mark.parametrize(("coding", "data"), COMPRESSED)
def test_inflating_restores_the_data(coding: str, data: bytes) -> None:
    assert inflate(data, coding, LIMIT) == TEXT


@pytest.mark.parametrize(("coding", "data"), COMPRESSED)
def test_the_limit_is_inclusive(coding: str, data: bytes) -> None:
    assert inflate(data, coding, len(TEXT)) == TEXT
    assert inflate(data, coding, len(TEXT) - 1) == "too_large"


@pytest.mark.parametrize(("coding", "data"), COMPRESSED)
def test_a_truncated_stream_is_rejected(coding: str, data: bytes) -> None:
    assert {inflate(data[:cut], coding, LIMIT) for cut in range(len(data))} == {"malformed"}


@pytest.mark.parametrize(("coding", "data"), COMPRESSED)
def test_trailing_data_is_rejected(coding: str, data: bytes) -> None:
    assert inflate(data + b"x", coding, LIMIT) == "malformed"


def test_the_gzip_checksum_detects_a_flipped_bit() -> None:
    data = bytearray(gzipped(TEXT))
    data[-5] ^= 1
    assert inflate(bytes(data), "gzip", LIMIT) == "malformed"


def test_members_of_one_gzip_are_one_body() -> None:
    assert inflate(gzipped(b"a") + gzipped(b"") + gzipped(b"b"), "gzip", 2) == b"ab"
    assert inflate(gzipped(b"ab") + gzipped(b"c"), "gzip", 2) == "too_large"


@pytest.mark.parametrize("member", [b"", b"a"])
def test_a_gzip_may_have_any_number_of_members(member: bytes) -> None:
    assert inflate(gzipped(member) * 20_000, "gzip", 20_000) == member * 20_000


def test_the_output_of_all_members_is_limited() -> None:
    assert inflate(gzipped(b"a") * 20_000, "gzip", 19_999) == "too_large"


@pytest.mark.parametrize("data", [gzipped(b"") * 20_000, gzipped(bytes(1 << 20)), gzipped(os.urandom(1 << 20))])
def test_a_long_stream_takes_several_steps_and_no_step_exceeds_the_bound_of_the_contract(data: bytes) -> None:
    steps = inflating(data, "gzip", 1 << 20)
    result = measured(steps)
    assert result.value == inflate(data, "gzip", 1 << 20)
    assert result.steps > 5
    assert result.longest_s < LONGEST_STEP_S


def test_one_step_is_enough_for_a_short_stream_only() -> None:
    assert inflate_at_once(gzipped(TEXT), "gzip", LIMIT) == TEXT
    assert inflate_at_once(gzipped(TEXT)[:-1], "gzip", LIMIT) == "malformed"
    assert inflate_at_once(gzipped(bytes(1 << 20)), "gzip", LIMIT) == "too_large"
    assert inflate_at_once(gzipped(bytes(1 << 20)), "gzip", 1 << 20) is None


def test_only_a_datagram_may_have_trailing_nul_bytes() -> None:
    for padding in (b"\0", bytes(9)):
        assert inflate(gzipped(TEXT) + padding, "gzip", LIMIT) == "malformed"
        assert measured(inflating(gzipped(TEXT) + padding, "gzip", LIMIT, padded=True)).value == TEXT
    assert measured(inflating(gzipped(TEXT) + b"\0x", "gzip", LIMIT, padded=True)).value == "malformed"


@pytest.mark.parametrize("compress", [gzipped, zlib.compress])
def test_a_bomb_is_not_inflated_beyond_the_limit(compress: object) -> None:
    assert callable(compress)
    bomb = compress(bytes(50 << 20))
    coding = "gzip" if compress is gzipped else "deflate"
    tracemalloc.start()
    try:
        assert inflate(bomb, coding, LIMIT) == "too_large"
        assert tracemalloc.get_traced_memory()[1] < 20 * LIMIT
    finally:
        tracemalloc.stop()


@given(st.sampled_from(["gzip", "deflate"]), st.binary(max_size=200))
def test_no_input_raises(coding: str, data: bytes) -> None:
    result = inflate(data, coding, 100)
    assert result in ("malformed", "too_large") or len(result) <= 100


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=20))
def test_the_output_of_all_members_is_joined(parts: list[bytes]) -> None:
    assert inflate(b"".join(map(gzipped, parts)), "gzip", 10_000) == b"".join(parts)


@pytest.mark.skipif("zstd" not in CODINGS, reason="this Python has no compression.zstd")
def test_zstd_is_bounded_too() -> None:
    from compression import zstd  # type: ignore[import-not-found, unused-ignore]

    data = zstd.compress(TEXT)
    assert inflate(data, "zstd", len(TEXT)) == TEXT
    assert inflate(data, "zstd", len(TEXT) - 1) == "too_large"
    assert inflate(data[:-1], "zstd", LIMIT) == "malformed"
    assert inflate(data + b"x", "zstd", LIMIT) == "malformed"
