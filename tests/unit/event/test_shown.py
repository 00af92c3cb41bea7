"""A received value is described in few characters, none of which can be mistaken for something else."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from relay.event.shown import MAX_QUOTED_CHARACTERS, shown
from relay.event.strict_json import Object
from relay.event.values import BLANKS

LONGEST = MAX_QUOTED_CHARACTERS + len('a string of 1048576 characters: "..."')


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (False, "false"),
        (0, "0"),
        (-(2**63), "-9223372036854775808"),
        (1.5, "1.5"),
        (1e300, "1e+300"),
        ("", '""'),
        ("roku", '"roku"'),
        ("\u00fc\u2603 \U0001f600", '"\u00fc\u2603 \U0001f600"'),
        ("a" * 60, '"' + "a" * 60 + '"'),
        ("a" * 300, 'a string of 300 characters: "' + "a" * 60 + '..."'),
        ("a" * (1 << 20), 'a string of 1048576 characters: "' + "a" * 60 + '..."'),
        ('say "no"\\', r'"say \"no\"\\"'),
        ("a\nb\x1b[31m", r'"a\nb\u001b[31m"'),
        ("\u202egnp\u2066", r'"\u202egnp\u2066"'),
        ("\u200b\u00a0\u3164", r'"\u200b\u00a0\u3164"'),
        ("\ud83d", r'"\ud83d"'),
        ("\U000e0041", r'"\udb40\udc41"'),
        ("\x00" * 20, 'a string of 20 characters: "' + r"\u0000" * 10 + '..."'),
        ([], "an empty list"),
        ([1], "a list of 1 item"),
        ([1, [2], 3], "a list of 3 items"),
        (Object(), "an empty object"),
        (Object([("a", 1), ("b", 2)]), "an object of 2 fields"),
    ],
)
def test_a_value_is_described(value: object, text: str) -> None:
    assert shown(value) == text


@given(st.text(alphabet=st.one_of(st.characters(exclude_categories=()), st.sampled_from(BLANKS + '"\\\ud800'))))
def test_any_text_is_short_and_safe(text: str) -> None:
    found = shown(text)
    assert len(found) <= LONGEST
    assert found.isprintable()
    assert not set(found) & (set(BLANKS) - {" "})
    quoted = found[found.index('"') :]
    assert json.loads(quoted) == text or text.startswith(json.loads(quoted).removesuffix("..."))


def test_a_secret_is_masked_before_the_text_is_cut() -> None:
    key = "k" * 100
    assert shown(f"Bearer {key}", lambda text: text.replace(key, "****")) == '"Bearer ****"'
