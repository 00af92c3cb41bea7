"""Hide secrets in output, find them in text, and check the permissions of their files."""

from __future__ import annotations

import base64
import html
import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path

MASK = "********"
_SLASHES = r"(?:\\{1,16})"
"""Backslashes of up to four JSON encodings. Without a bound, a text of backslashes would take quadratic time."""

MIN_ENCODED_CHARS = 12
"""Minimum length of a secret to be found in other cases and encodings. Ordinary text could match a shorter one."""
_SPLIT = rf"(?:\s|{_SLASHES}[nrt]){{0,4}}"
_URL_SAFE = str.maketrans("+/", "-_")


class Secret:
    """An API key or a token. repr, str and format return a mask; pickling raises TypeError."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return MASK

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __reduce__(self) -> tuple[type[Secret], tuple[str]]:
        raise TypeError("a secret cannot be pickled or copied")


def pattern(secret: str) -> str:
    """Return a regular expression for a secret as it is, in JSON encodings and reprs, in a URL and in HTML.

    An upstream may repeat a key in another form. PHP, for example, writes the `/` of base64 as `\\/`. A secret of at
    least MIN_ENCODED_CHARS is also found in upper and lower case, split by whitespace, in hex and inside base64.
    """
    forms = [_forms(c) for c in secret]
    if len(secret) < MIN_ENCODED_CHARS:
        return "".join(forms)
    return "|".join([_SPLIT.join(forms), *map(re.escape, _encoded(secret))])


def _encoded(secret: str) -> list[str]:
    """Return the secret in other cases and encodings, without duplicates."""
    data = secret.encode()
    texts = [secret.upper(), secret.lower(), data.hex(), data.hex().upper()]
    for before in range(3):
        # The first and last characters also depend on the neighbouring bytes.
        text = base64.b64encode(b"\0" * before + data).decode().rstrip("=")
        start = (0, 2, 3)[before]
        end = len(text) - ((before + len(data)) % 3 > 0)
        texts += [text[start:end], text[start:end].translate(_URL_SAFE)]
    return [text for text in dict.fromkeys(texts) if text != secret]


def _forms(c: str) -> str:
    code = f"{ord(c):02x}"
    forms = {rf"{_SLASHES}(?i:u00{code})", rf"(?i:%{code})", rf"&#(?:0*{ord(c)}|(?i:x0*{code}));"}
    forms |= {c if c.isalnum() else _SLASHES if c == "\\" else rf"{_SLASHES}?{re.escape(c)}"}
    forms |= {re.escape(html.escape(c))} - {re.escape(c)}
    return f"(?:{'|'.join(sorted(forms))})"


def exposed(files: Iterable[Path]) -> list[str]:
    """Return a message for each file that users other than its owner can read. Missing files are skipped.

    A directory without access for others protects its files, as systemd's credentials directory does. The group may
    read a file of another owner, because the relay reads Kubernetes secrets that way.
    """
    return [
        f"{path} can be read by users other than its owner (mode {mode:04o}): run chmod 600 {path}"
        for path in files
        if (mode := _mode(path)) & _readers(path)
    ]


def fingerprint(files: Iterable[Path]) -> list[tuple[int, ...]]:
    """Return inode, times of modification and change in nanoseconds, and size of each file; () for a missing file.

    The value changes when a file is changed, replaced, created or removed, and when its mode or owner is changed: a
    file that could not be read may be readable now.
    """
    prints: list[tuple[int, ...]] = []
    for path in files:
        try:
            at = path.stat()
            prints.append((at.st_ino, at.st_mtime_ns, at.st_ctime_ns, at.st_size))
        except OSError:
            prints.append(())
    return prints


def _readers(path: Path) -> int:
    """Return the read bits of unintended readers of a file: users other than its owner with access to its directory."""
    directory_mode = _mode(path.absolute().parent)
    group = stat.S_IRGRP if directory_mode & stat.S_IXGRP and _is_ours(path) else 0
    return group | (stat.S_IROTH if directory_mode & stat.S_IXOTH else 0)


def _is_ours(path: Path) -> bool:
    try:
        return path.stat().st_uid == os.geteuid()
    except OSError:
        return False


def _mode(path: Path) -> int:
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return 0
