"""JSON as it can safely be passed on, read slowly and exactly.

Owns what "strict" means: RFC 8259 in UTF-8 without a byte order mark, and besides, because an upstream
that is less exact would choke on the whole batch: no NaN or Infinity, integers within signed 64 bits,
numbers within a double, no lone surrogates and no U+0000 in strings, at most MAX_DEPTH levels.

Repeated names stay visible (an object is its pairs), so that the caller may judge them. Knows nothing of
events. Messages say what is wrong and where, and quote nothing of the text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from json import JSONDecodeError, JSONDecoder
from typing import NoReturn

SPACE = b" \t\n\r"
MAX_DEPTH = 32
"""Levels of objects and arrays, the outermost included."""

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_MAX_INTEGER_CHARACTERS = 20
"""Of a signed 64-bit integer; checked before int(), whose time grows with the square of the digits."""
_LONGEST_TAIL = 16
"""Characters at the end of a cut text whose meaning the rest may change: of a literal, an escape, an exponent."""

_spaces = re.compile(r"[ \t\n\r]*").match
_unsafe = re.compile("[\x00\ud800-\udfff]").search


class Malformed(Exception):
    """Not strict JSON; the message is half a sentence for people."""


class Object(list[tuple[str, object]]):
    """An object as its pairs in order; an array is a plain list."""


def decode(body: bytes) -> str:
    """The text of a body. Raises Malformed."""
    if body.startswith(_BYTE_ORDER_MARK):
        raise Malformed("it starts with a byte order mark")
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise Malformed(f"invalid UTF-8 at byte {error.start}") from error


def parse(text: str) -> object:
    """One value, space around it allowed; objects come as Object. Raises Malformed."""
    try:
        value: object = _strict.decode(text)
    except JSONDecodeError as error:
        raise _at(error) from error
    except RecursionError as error:
        raise _too_deep() from error
    _inspect(value)
    return value


class TooLong(Exception):
    """A value is longer than the caller accepts."""


class Cursor:
    """Walks the outer levels of a text to learn where values lie; every method may raise Malformed.

    Checks the grammar of what it passes, not the further rules: `parse` what is used. No single call works on more
    than `max_value_characters`: the values are looked for in a window of the text, which begins where a value did not
    fit into the previous one.
    """

    def __init__(self, text: str, max_value_characters: int) -> None:
        self.text = text
        self.at = 0
        """Characters passed."""
        self._window_characters = max_value_characters + _LONGEST_TAIL
        self._window = text[: self._window_characters]
        self._window_at = 0
        """Where the window begins in the text."""

    def peek(self) -> str:
        """The next character that is no space; "" at the end."""
        match = _spaces(self.text, self.at)
        assert match is not None  # the pattern matches nothing at all, too
        self.at = match.end()
        return self.text[self.at : self.at + 1]

    def take(self, expected: str) -> str:
        """Pass the next character, which must be one of `expected`."""
        character = self.peek()
        if not character or character not in expected:
            raise Malformed(f"expecting {' or '.join(expected)} at character {self.at}")
        self.at += 1
        return character

    def skip(self) -> tuple[int, int]:
        """Pass a value; return where it starts and ends, in characters. Raises TooLong, and stays before the value."""
        self.peek()
        start = self.at
        self._value()
        return start, self.at

    def members(self) -> Iterator[str]:
        """Names of the object that opens here; at each, the caller passes the value."""
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
        """Where the elements of the array that opens here start and end, in characters."""
        self.take("[")
        if self.peek() == "]":
            self.take("]")
            return
        while True:
            yield self.skip()
            if self.take(",]") == "]":
                return

    def end(self) -> None:
        """Nothing but space may follow."""
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
        raise Malformed("a string contains U+0000" if found[0] == "\0" else "a string contains half a surrogate pair")


def _at(error: JSONDecodeError, text_at: int = 0) -> Malformed:
    return Malformed(f"{error.msg.removesuffix(': ').removesuffix(' at')} at character {text_at + error.pos}")


def _too_deep() -> Malformed:
    return Malformed(f"it is nested deeper than {MAX_DEPTH} levels")


def _integer(digits: str) -> int:
    if len(digits) <= _MAX_INTEGER_CHARACTERS:
        value = int(digits)
        if -(2**63) <= value < 2**63:
            return value
    raise Malformed("an integer does not fit 64 bits")


def _float(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise Malformed("a number does not fit a double")
    return value


def _no_constant(name: str) -> NoReturn:
    raise Malformed(f"{name} is no JSON number")


_strict = JSONDecoder(object_pairs_hook=Object, parse_int=_integer, parse_float=_float, parse_constant=_no_constant)
_lenient = JSONDecoder(parse_int=str, parse_float=str, parse_constant=_no_constant)
"""Only says where values end: numbers stay text, for int() is slow on many digits and refuses more."""
