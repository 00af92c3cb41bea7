"""Undoing compression within bounds."""

from __future__ import annotations

import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from relay.ingest.inflate import CODINGS, inflate

from tests.unit.ingest.harness import gzipped

LIMIT = 10_000
TEXT = b'{"event_type": "video.play"}' * 20


def raw_deflated(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush()


COMPRESSED = [("gzip", gzipped(TEXT)), ("deflate", zlib.compress(TEXT)), ("deflate", raw_deflated(TEXT))]


def test_gzip_and_deflate_are_served_everywhere() -> None:
    assert CODINGS[:2] == ("gzip", "deflate")


@pytest.mark.parametrize(("coding", "data"), COMPRESSED)
def test_what_was_compressed_comes_back(coding: str, data: bytes) -> None:
    assert inflate(data, coding, LIMIT) == TEXT


@pytest.mark.parametrize(("coding", "data"), COMPRESSED)
def test_the_limit_itself_is_allowed_and_one_byte_more_is_not(coding: str, data: bytes) -> None:
    assert inflate(data, coding, len(TEXT)) == TEXT
    assert inflate(data, coding, len(TEXT) - 1) == "too_large"


@pytest.mark.parametrize(("coding", "data"), COMPRESSED)
def test_a_stream_cut_anywhere_is_refused(coding: str, data: bytes) -> None:
    assert {inflate(data[:cut], coding, LIMIT) for cut in range(len(data))} == {"malformed"}


@pytest.mark.parametrize(("coding", "data"), COMPRESSED)
def test_trailing_garbage_is_refused(coding: str, data: bytes) -> None:
    assert inflate(data + b"x", coding, LIMIT) == "malformed"


def test_a_flipped_bit_in_gzip_is_noticed_by_its_checksum() -> None:
    data = bytearray(gzipped(TEXT))
    data[-5] ^= 1
    assert inflate(bytes(data), "gzip", LIMIT) == "malformed"


def test_members_of_one_gzip_are_one_body() -> None:
    assert inflate(gzipped(b"a") + gzipped(b"") + gzipped(b"b"), "gzip", 2) == b"ab"
    assert inflate(gzipped(b"ab") + gzipped(b"c"), "gzip", 2) == "too_large"


def test_many_empty_members_are_refused_without_being_opened() -> None:
    assert inflate(gzipped(b"") * 20_000, "gzip", LIMIT) == "malformed"


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
def test_no_bytes_make_it_fail(coding: str, data: bytes) -> None:
    result = inflate(data, coding, 100)
    assert result in ("malformed", "too_large") or len(result) <= 100


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=20))
def test_any_members_come_back_joined(parts: list[bytes]) -> None:
    assert inflate(b"".join(map(gzipped, parts)), "gzip", 10_000) == b"".join(parts)


@pytest.mark.skipif("zstd" not in CODINGS, reason="this Python has no compression.zstd")
def test_zstd_is_bounded_too() -> None:
    from compression import zstd  # type: ignore[import-not-found, unused-ignore]

    data = zstd.compress(TEXT)
    assert inflate(data, "zstd", len(TEXT)) == TEXT
    assert inflate(data, "zstd", len(TEXT) - 1) == "too_large"
    assert inflate(data[:-1], "zstd", LIMIT) == "malformed"
    assert inflate(data + b"x", "zstd", LIMIT) == "malformed"
