"""Secrets are masked in output, found in text, and files that other users can read are reported."""

from __future__ import annotations

import base64
import copy
import html
import json
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from string import ascii_letters, digits
from urllib.parse import quote

import pytest
from relay.runtime.secret import MASK, Secret, exposed, fingerprint, pattern


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    """Return a file in a directory that all users can access."""
    directory = tmp_path / "etc"
    directory.mkdir()
    directory.chmod(0o755)
    file = directory / "key"
    file.write_text("canary")
    return file


def test_printing_a_secret_shows_the_mask() -> None:
    secret = Secret("canary")
    assert {str(secret), repr(secret), f"{secret}", "%s" % secret, str([secret])} == {MASK, f"[{MASK}]"}  # noqa: UP031


@pytest.mark.parametrize("spread", [pickle.dumps, copy.copy, copy.deepcopy])
def test_secret_cannot_be_pickled_or_copied(spread: object) -> None:
    with pytest.raises(TypeError):
        spread(Secret("canary"))  # type: ignore[operator]


def php_json(text: str) -> str:
    return json.dumps(text).replace("/", "\\/")


def all_escaped(text: str) -> str:
    return "".join(c if c.isalnum() else f"\\u00{ord(c):02X}" for c in text)


@pytest.mark.parametrize(
    "secret", ["Zm9v/+YmFy==", "quo\"te'd", "back\\slash", "a&b<c>d", "plain-key_1.2~3", "$^.*[x](y)|?"]
)
@pytest.mark.parametrize(
    "write",
    [
        str, repr, json.dumps, php_json, quote, lambda text: quote(text, safe=""), html.escape, all_escaped,
        lambda text: repr(repr(text)), lambda text: json.dumps(php_json(text)), lambda text: php_json(json.dumps(text)),
        lambda text: repr({"headers": json.dumps({"key": text})}),
    ],
)  # fmt: skip
def test_pattern_finds_a_secret_in_every_encoding(secret: str, write: Callable[[str], str]) -> None:
    assert MASK in re.sub(pattern(secret), MASK, f"before {write(secret)} after")


_ROTATED = str.maketrans(ascii_letters + digits, ascii_letters[1:] + ascii_letters[0] + digits[1:] + digits[0])


@pytest.mark.parametrize("secret", ["bar-Key_123/abc+=", "canaryKEY12345", "canaryKEY123456", "canaryKEY1234567"])
@pytest.mark.parametrize(
    "write",
    [
        str.upper, str.lower, lambda text: text.encode().hex(), lambda text: text.encode().hex().upper(),
        *(lambda text, n=n: base64.b64encode(b"user:"[:n] + text.encode() + b"xy").decode() for n in range(6)),
        *(lambda text, n=n: base64.urlsafe_b64encode(b"user:"[:n] + text.encode()).decode() for n in range(6)),
        lambda text: f"{text[:5]} {text[5:]}", lambda text: json.dumps(f"{text[:7]}\n  {text[7:]}"),
        lambda text: "".join(f"%{ord(c):02x}" for c in text), lambda text: "".join(f"%{ord(c):02X}" for c in text),
    ],
)  # fmt: skip
def test_pattern_finds_a_long_secret_in_other_cases_and_encodings(secret: str, write: Callable[[str], str]) -> None:
    """The rest depends on the secret only in a character at each end: base64 mixes the bits of neighbouring bytes."""
    masked, of_another = (
        re.sub(pattern(each), MASK, f"before {write(each)} after") for each in (secret, secret.translate(_ROTATED))
    )

    assert MASK in masked
    assert len(masked) == len(of_another)
    assert sum(one != other for one, other in zip(masked, of_another, strict=True)) <= 2


def test_short_secret_is_not_searched_in_other_cases() -> None:
    assert re.search(pattern("token"), "Token TOKEN to ken 746f6b656e") is None


def test_pattern_does_not_match_similar_text() -> None:
    assert re.search(pattern("a/b"), "a//b a\\b ab a%2eb a b") is None


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700, 0o620])
def test_file_that_only_its_owner_can_read_is_not_reported(key_file: Path, mode: int) -> None:
    key_file.chmod(mode)
    assert exposed([key_file]) == []


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o444])
def test_file_that_other_users_can_read_is_reported_with_mode_and_remedy(key_file: Path, mode: int) -> None:
    key_file.chmod(mode)
    assert exposed([key_file]) == [
        f"{key_file} can be read by users other than its owner (mode {mode:04o}): run chmod 600 {key_file}"
    ]


@pytest.mark.parametrize(("directory_mode", "mode"), [(0o700, 0o644), (0o750, 0o604), (0o705, 0o640)])
def test_directory_without_access_for_readers_protects_the_file(key_file: Path, directory_mode: int, mode: int) -> None:
    key_file.chmod(mode)
    key_file.parent.chmod(directory_mode)
    assert exposed([key_file]) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize(("mode", "is_reported"), [(0o440, False), (0o640, False), (0o444, True)])
def test_group_may_read_a_file_of_another_owner(key_file: Path, mode: int, is_reported: bool) -> None:
    """Kubernetes mounts a secret as a file of root that the relay's group can read."""
    key_file.chmod(mode)
    os.chown(key_file, 1, -1)
    assert bool(exposed([key_file])) is is_reported


def test_missing_file_is_skipped(tmp_path: Path) -> None:
    assert exposed([tmp_path / "none"]) == []


def test_the_fingerprint_changes_with_content_and_with_mode(tmp_path: Path) -> None:
    """A key file that the relay could not read is read again when its mode is corrected."""
    file = tmp_path / "key"
    seen = [fingerprint([file])]
    file.write_text("one")
    seen.append(fingerprint([file]))
    file.write_text("three")
    seen.append(fingerprint([file]))
    file.chmod(0o600 if file.stat().st_mode & 0o077 else 0o640)
    seen.append(fingerprint([file]))
    assert len({tuple(each) for each in seen}) == len(seen)
