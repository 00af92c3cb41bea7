"""Parse strict JSON, which every upstream can read.

"Strict" means RFC 8259 in UTF-8 without a byte order mark, with these limits: no NaN or Infinity, integers within
signed 64 bits, numbers within a double, no lone surrogates and no U+0000 in strings, and at most MAX_DEPTH levels.
An upstream may reject a whole batch for one event outside of these limits.

An object is a list of pairs, so the caller can detect repeated names. Error messages name the problem and its
position, and quote no text. Independent of events.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from json import JSONDecodeError, JSONDecoder
from typing import NoReturn

SPACE = b" \t\n\r"
MAX_DEPTH = 32
"""Nesting levels of objects and arrays, including the outermost."""

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_MAX_INTEGER_CHARACTERS = 20
"""Length of a signed 64-bit integer. Checked before int(), whose time grows with the square of the digits."""
_LONGEST_TAIL = 16
"""Characters at the end of a cut text that the following text may complete: a literal, an escape, an exponent."""

_spaces = re.compile(r"[ \t\n\r]*").match
_unsafe = re.compile("[\x00\ud800-\udfff]").search


class Malformed(Exception):
    """The text is not strict JSON. The message is a clause that completes an error message."""


class Object(list[tuple[str, object]]):
    """A JSON object as a list of (name, value) pairs in order. A JSON array is a plain list."""


def decode(body: bytes) -> str:
    """Return the text of a body. Raises Malformed."""
    if body.startswith(_BYTE_ORDER_MARK):
        raise Malformed("it starts with a byte order mark")
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise Malformed(f"invalid UTF-8 at byte {error.start}") from error


def parse(text: str) -> object:
    """Return the value of a text, which may have surrounding space. Objects are `Object`. Raises Malformed."""
    try:
        value: object = _strict.decode(text)
    except JSONDecodeError as error:
        raise _at(error) from error
    except RecursionError as error:
        raise _too_deep() from error
    _inspect(value)
    return value


class TooLong(Exception):
    """A value is longer than the caller's limit."""


class Cursor:
    """Walks through the outer levels of a text and returns the positions of values. Every method may raise Malformed.

    The cursor checks the grammar only; apply `parse` to each value that is used. A call processes at most
    `max_value_characters`, because values are decoded in a window of the text. When a value does not fit, the window
    moves to the start of that value.
    """

    def __init__(self, text: str, max_value_characters: int) -> None:
        self.text = text
        self.at = 0
        """Position in the text, in characters."""
        self._window_characters = max_value_characters + _LONGEST_TAIL
        self._window = text[: self._window_characters]
        self._window_at = 0
        """Position of the window in the text, in characters."""

    def peek(self) -> str:
        """Skip space and return the next character; "" at the end."""
        match = _spaces(self.text, self.at)
        assert match is not None  # The pattern also matches the empty string.
        self.at = match.end()
        return self.text[self.at : self.at + 1]

    def take(self, expected: str) -> str:
        """Consume and return the next character, which must be one of `expected`."""
        character = self.peek()
        if not character or character not in expected:
            raise Malformed(f"expecting {' or '.join(expected)} at character {self.at}")
        self.at += 1
        return character

    def skip(self) -> tuple[int, int]:
        """Skip a value; return its start and end, in characters. Raises TooLong and leaves the position unchanged."""
        self.peek()
        start = self.at
        self._value()
        return start, self.at

    def members(self) -> Iterator[str]:
        """Yield the names of the object at the cursor. The caller must skip the value after each name."""
        self.take("{")
        if self.peek() == "}":
            self.take("}")
            return
        while True:
            if self.peek() != '"':
                raise Malformed(f"expecting a name in double quotes at character {self.at}")
            name = self._value()
            self.take(":")
            yield str(name)
            if self.take(",}") == "}":
                return

    def elements(self) -> Iterator[tuple[int, int]]:
        """Yield start and end, in characters, of each element of the array at the cursor."""
        self.take("[")
        if self.peek() == "]":
            self.take("]")
            return
        while True:
            yield self.skip()
            if self.take(",]") == "]":
                return

    def end(self) -> None:
        """Require that only space follows."""
        if self.peek():
            raise Malformed(f"extra data at character {self.at}")

    def _value(self) -> object:
        window, start = self._window, self.at - self._window_at
        try:
            value, end = _lenient.raw_decode(window, start)
            unsure = end > len(window) - _LONGEST_TAIL
            problem = None
        except JSONDecodeError as error:
            unsure = error.pos > len(window) - _LONGEST_TAIL or error.msg.startswith("Unterminated string")
            problem = error
        except RecursionError as error:
            raise _too_deep() from error
        if unsure and self._window_at + len(window) < len(self.text):
            if start == 0:
                raise TooLong
            self._window_at = self.at
            self._window = self.text[self.at : self.at + self._window_characters]
            return self._value()
        if problem is not None:
            raise _at(problem, self._window_at) from problem
        self.at = self._window_at + end
        return value


def _inspect(value: object) -> None:
    """Raise Malformed for unsafe strings and for nesting beyond MAX_DEPTH."""
    level, depth = [value], 1
    while level:
        deeper: list[object] = []
        for item in level:
            if isinstance(item, str):
                _inspect_string(item)
            elif isinstance(item, list):
                if depth > MAX_DEPTH:
                    raise _too_deep()
                if isinstance(item, Object):
                    for name, member in item:
                        _inspect_string(name)
                        deeper.append(member)
                else:
                    deeper.extend(item)
        level, depth = deeper, depth + 1


def _inspect_string(text: str) -> None:
    found = _unsafe(text)
    if found is not None:
        raise Malformed("a string contains U+0000" if found[0] == "\0" else "a string contains a lone surrogate")


def _at(error: JSONDecodeError, text_at: int = 0) -> Malformed:
    return Malformed(f"{error.msg.removesuffix(': ').removesuffix(' at')} at character {text_at + error.pos}")


def _too_deep() -> Malformed:
    return Malformed(f"it is nested deeper than {MAX_DEPTH} levels")


def _integer(digits: str) -> int:
    if len(digits) <= _MAX_INTEGER_CHARACTERS:
        value = int(digits)
        if -(2**63) <= value < 2**63:
            return value
    raise Malformed("an integer does not fit into 64 bits")


def _float(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise Malformed("a number does not fit into a double")
    return value


def _no_constant(name: str) -> NoReturn:
    raise Malformed(f"{name} is not a JSON number")


_strict = JSONDecoder(object_pairs_hook=Object, parse_int=_integer, parse_float=_float, parse_constant=_no_constant)
_lenient = JSONDecoder(parse_int=str, parse_float=str, parse_constant=_no_constant)
"""Finds the ends of values. Numbers stay text, because int() is slow for many digits and rejects more than 4,300."""
