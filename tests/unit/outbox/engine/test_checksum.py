"""The checksum detects changed bodies, and marks timestamps that the relay inserted."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from relay.outbox.engine.checksum import checksum, has_inserted_time


@given(st.binary(max_size=300), st.booleans())
def test_mark_can_be_read_from_the_checksum(body: bytes, mark: bool) -> None:
    assert has_inserted_time(body, checksum(body, mark)) is mark


@given(st.binary(min_size=1, max_size=300), st.booleans(), st.data())
def test_flipped_bit_in_body_or_checksum_is_detected(body: bytes, mark: bool, data: st.DataObject) -> None:
    crc = checksum(body, mark)
    bit = data.draw(st.integers(0, 8 * len(body) - 1))
    changed = bytearray(body)
    changed[bit // 8] ^= 1 << bit % 8
    assert has_inserted_time(bytes(changed), crc) is None
    assert has_inserted_time(body, crc ^ 1 << data.draw(st.integers(0, 31))) is None
