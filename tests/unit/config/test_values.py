"""Durations and sizes. No kind of value raises for any text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from relay.config.keys import KEYS
from relay.config.values import SIZE_UNITS_BYTES, Duration, Size, Wrong


@pytest.mark.parametrize(
    ("text", "ms"), [("0s", 0), ("250ms", 250), ("5s", 5_000), ("10m", 600_000), ("7d", 604_800_000)]
)
def test_duration_is_a_whole_number_with_a_unit(text, ms):
    assert Duration(0, 1 << 40).read(text) == ms


@pytest.mark.parametrize(
    "text", ["", "5", "s", "5 s", " 5s", "-5s", "5.5s", "1h30m", "5S", "5sec", "٥s", "9" * 16 + "s", 5, None]
)
def test_invalid_duration_is_rejected(text):
    assert isinstance(Duration(0, 1 << 80).read(text), Wrong)


@pytest.mark.parametrize(("text", "size"), [("512B", 512), ("512KiB", 524_288), ("1MiB", 1 << 20), ("1GiB", 1 << 30)])
def test_size_is_a_whole_number_with_a_binary_unit(text, size):
    assert Size(0, 1 << 40).read(text) == size


@pytest.mark.parametrize("text", ["1MB", "1mib", "1M", "1.5MiB", "1 MiB", "1024"])
def test_invalid_size_is_rejected(text):
    assert isinstance(Size(0, 1 << 40).read(text), Wrong)


@given(st.sampled_from([Duration(0, 1 << 50), Size(0, 1 << 50)]), st.integers(0, 1 << 50))
def test_plain_form_of_a_quantity_reads_as_the_same_value(kind, amount):
    """This holds for all amounts with at most 15 digits of milliseconds or bytes."""
    amount %= 10**15

    assert kind.read(kind.plain(amount)) == amount


@given(st.text(max_size=8), st.sampled_from(KEYS))
def test_reading_any_text_raises_nothing(text, key):
    key.kind.read(key.kind.from_text(text))


def test_units_of_size_are_powers_of_1024():
    assert list(SIZE_UNITS_BYTES.values()) == [1024**power for power in range(5)]
