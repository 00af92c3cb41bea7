"""Parse, check and show the values of keys. Each Kind is a set of allowed values.

`read` converts a value as parsed from TOML. `from_text` converts text (environment, secret files) before `read`. For a
value that is not allowed, `read` returns a `Wrong` and raises nothing. `plain` is the inverse of `read`. Kinds do not
depend on the names of keys or on value sources.
"""

from __future__ import annotations

import json
import re
import tomllib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from relay.event.values import is_blank
from relay.runtime.secret import Secret

DURATION_UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
SIZE_UNITS_BYTES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
MAX_LIST_ITEMS = 64
MAX_SECRET_CHARS = 4_096


_VARIABLE = re.compile(r".*\$\{.*|\$[A-Za-z_][A-Za-z0-9_]*", re.DOTALL)
_ASSIGNMENT = re.compile(r"(?:export\s+)?[A-Z][A-Z0-9_]{2,}=[^=\s]")
_HEADER_LINE = re.compile(r"[A-Za-z][A-Za-z-]*:\s")
_PLACEHOLDER = re.compile(
    r"the-key-of-the-backend-team|<.*>|\{\{.*\}\}|x{3,}|your[-_ ]?(?:api[-_ ]?)?key|my[-_ ]?api[-_ ]?key"
    r"|(?:change|replace)[-_ ]?me|todo",
    re.IGNORECASE,
)


class Wrong(NamedTuple):
    """The reason why a value is not allowed. It never quotes the value, which may be a secret."""

    why: str


class Kind(ABC):
    """A set of allowed values."""

    suffix: ClassVar[str] = ""
    """Unit of the value in Settings, as the suffix of the field's name."""
    secret: ClassVar[bool] = False
    """Whether the value must be masked in all output."""

    @property
    def unit(self) -> str:
        """Return the unit or type of the value, for documentation and messages."""
        return "text"

    @property
    @abstractmethod
    def allowed(self) -> str:
        """Return a description of the allowed values, for documentation and messages."""

    @abstractmethod
    def read(self, raw: object) -> Any:
        """Return the value for Settings, or a Wrong."""

    def from_text(self, text: str) -> object:
        """Return the value that TOML would have for this text."""
        return text

    def located(self, raw: object, directory: Path) -> object:
        """Return `raw` with a relative path resolved against `directory`; other kinds return it unchanged."""
        return raw

    def plain(self, value: Any) -> object:
        """Return the value as TOML and JSON represent it; `read` accepts the result."""
        return value


@dataclass(frozen=True, slots=True)
class Text(Kind):
    """Printable text, which may be empty."""

    max_chars: int = 256
    blank: bool = True
    """Whether the text may consist of white space only."""

    @property
    def allowed(self) -> str:
        if self.blank:
            return f"text, up to {self.max_chars} characters"
        return f'text that is not blank, up to {self.max_chars} characters, or ""'

    def read(self, raw: object) -> str | Wrong:
        if not isinstance(raw, str):
            return Wrong("is not text")
        if len(raw) > self.max_chars:
            return Wrong("is too long")
        if not raw.isprintable():
            return Wrong("has control or other unprintable characters")
        if raw and is_blank(raw) and not self.blank:
            return Wrong("is blank")
        return raw


@dataclass(frozen=True, slots=True)
class OneOf(Kind):
    """One of a fixed set of words."""

    unit = "word"
    words: tuple[str, ...]

    @property
    def allowed(self) -> str:
        return ", ".join(toml(word) for word in self.words)

    def read(self, raw: object) -> str | Wrong:
        return raw if isinstance(raw, str) and raw in self.words else Wrong("is not an allowed word")


class Identifier(Kind):
    """The name of a schema of a database, which needs no quotes."""

    unit = "name"
    allowed = "a lower-case letter, then up to 62 lower-case letters, digits and _"

    def read(self, raw: object) -> str | Wrong:
        return raw if isinstance(raw, str) and re.fullmatch(r"[a-z][a-z0-9_]{0,62}", raw) else Wrong("is not a name")


class Flag(Kind):
    """True or false."""

    unit = "switch"
    allowed = "true, false"

    def from_text(self, text: str) -> object:
        return {"true": True, "false": False}.get(text, text)

    def read(self, raw: object) -> bool | Wrong:
        return raw if isinstance(raw, bool) else Wrong("is neither true nor false")


@dataclass(frozen=True, slots=True)
class Number(Kind):
    """A whole number within bounds."""

    least: int
    most: int
    unit: str
    """What the number counts, for example "requests"."""
    optional: bool = False
    """Whether "" is allowed; it means None."""

    @property
    def allowed(self) -> str:
        return f"{self.least} to {self.most}" + (', or ""' if self.optional else "")

    def from_text(self, text: str) -> object:
        return int(text) if re.fullmatch(r"-?[0-9]{1,20}", text) else text

    def read(self, raw: object) -> int | Wrong | None:
        if self.optional and raw == "":
            return None
        if not isinstance(raw, int) or isinstance(raw, bool):
            return Wrong("is not a whole number")
        return raw if self.least <= raw <= self.most else Wrong("is out of range")

    def plain(self, value: Any) -> object:
        return "" if value is None else value


@dataclass(frozen=True, slots=True)
class _Quantity(Kind):
    """A whole number with one unit, as text. Bounds are in base units."""

    least: int
    most: int
    units: ClassVar[dict[str, int]]
    zero: ClassVar[str]
    rather_smaller: ClassVar[tuple[int, ...]] = ()
    """Values shown in the second largest unit that fits."""
    sample: ClassVar[str]

    @property
    def allowed(self) -> str:
        return f"{toml(self.plain(self.least))} to {toml(self.plain(self.most))}"

    def read(self, raw: object) -> int | Wrong:
        match = re.fullmatch(r"([0-9]{1,15})([A-Za-z]{1,3})", raw) if isinstance(raw, str) else None
        if match is None or match[2] not in self.units:
            return Wrong(f"is not a whole number with one of the units {', '.join(self.units)}, like {self.sample}")
        amount = int(match[1]) * self.units[match[2]]
        return amount if self.least <= amount <= self.most else Wrong("is out of range")

    def plain(self, value: Any) -> object:
        """Return the value in the largest unit that gives a whole number. One minute is "60s", as in the contract."""
        fitting = [unit for unit, amount in self.units.items() if value and value % amount == 0]
        if value in self.rather_smaller:
            fitting.pop()
        return f"{value // self.units[fitting[-1]]}{fitting[-1]}" if fitting else self.zero


class Duration(_Quantity):
    """A duration. Bounds and value are in milliseconds."""

    suffix = "_ms"
    units = DURATION_UNITS_MS
    zero = "0s"
    rather_smaller = (60_000,)
    sample = '"5s"'
    unit = "time"


class Size(_Quantity):
    """A number of bytes."""

    suffix = "_bytes"
    units = SIZE_UNITS_BYTES
    zero = "0B"
    sample = '"512KiB"'
    unit = "bytes"


@dataclass(frozen=True, slots=True)
class SecretText(Kind):
    """A secret for an HTTP header. A line break in it could begin another header, and spaces are not allowed either."""

    secret = True
    unit = "secret"
    optional: bool = False
    """Whether "" is allowed; it means None."""
    allowed = f"1 to {MAX_SECRET_CHARS} printable ASCII characters without spaces"

    def read(self, raw: object) -> Secret | Wrong | None:
        if not isinstance(raw, str):
            return Wrong("is not text")
        if not raw:
            return None if self.optional else Wrong("is empty")
        if mistake := secret_mistake(raw):
            return Wrong(mistake)
        if len(raw) > MAX_SECRET_CHARS or not re.fullmatch(r"[!-~]+", raw):
            return Wrong("is too long, or has spaces, line breaks or other characters than printable ASCII")
        return Secret(raw)


@dataclass(frozen=True, slots=True)
class Items(Kind):
    """A list of values of the kind `item`. As text, it is separated by commas or a TOML array."""

    item: Kind

    @property
    def unit(self) -> str:
        return f"list of {self.item.unit}s"

    @property
    def allowed(self) -> str:
        return f"a list of up to {MAX_LIST_ITEMS}: {self.item.allowed}"

    def from_text(self, text: str) -> object:
        if not text.lstrip().startswith("["):
            return [self.item.from_text(item) for part in text.split(",") if (item := part.strip())]
        try:
            parsed = tomllib.loads(f"items = {text}")
        except (ValueError, RecursionError):
            return text
        return parsed["items"] if len(parsed) == 1 else text

    def read(self, raw: object) -> tuple[Any, ...] | Wrong:
        if not isinstance(raw, list):
            return Wrong("is not a list")
        if len(raw) > MAX_LIST_ITEMS:
            return Wrong("has too many items")
        items = tuple(self.item.read(item) for item in raw)
        wrong = next((f"item {place}: {item.why}" for place, item in enumerate(items) if isinstance(item, Wrong)), None)
        return Wrong(wrong) if wrong else items

    def plain(self, value: Any) -> object:
        return [self.item.plain(item) for item in value]


def typing_mistake(text: str) -> str | None:
    """Return the likely typing mistake in a value, or None. The result never quotes the text."""
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'`":
        return "is in quotes, and the quotes are part of the value: remove them"
    if _VARIABLE.fullmatch(text):
        return "contains a variable such as ${NAME}; the relay does not expand variables: write the value itself"
    return None


def secret_mistake(text: str) -> str | None:
    """Return why `text` is unlikely to be a key although its characters are allowed, or None."""
    if _ASSIGNMENT.match(text):
        return "has the form NAME=value: write only the value"
    if _HEADER_LINE.match(text):
        return "has the form of a header line (Name: value): write only the value"
    if _PLACEHOLDER.fullmatch(text):
        return "is a placeholder: replace it with the key that the backend team issued"
    return typing_mistake(text)


def toml(plain: object) -> str:
    """Return a plain value as TOML on one printable line. None, which TOML does not have, becomes ""."""
    if plain is None:
        return '""'
    if isinstance(plain, list | tuple):
        return f"[{', '.join(toml(item) for item in plain)}]"
    if isinstance(plain, str):
        quoted = json.dumps(plain, ensure_ascii=False)
        return "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in quoted)
    if isinstance(plain, bool | int | float):
        return json.dumps(plain)
    return toml(str(plain))
