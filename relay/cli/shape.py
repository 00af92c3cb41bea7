"""Check the shape of responses before a command uses them, because another server may respond."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

_MAX_NUMBER = 2**63


class Optional(NamedTuple):
    """Match null, or a value of the shape."""

    shape: Any


class Each(NamedTuple):
    """Match an object with any field names and with values of the shape."""

    shape: Any


def difference(value: Any, shape: Any, path: str = "the response") -> str:
    """Return where `value` differs from `shape` and what was expected, or "" if it has the shape.

    A shape is str, int, float (any number) or bool, a dict of shapes by field, a list of one shape, Optional or Each.
    Further fields are allowed, because another version of the relay may send them.
    """
    if isinstance(shape, Optional):
        return "" if value is None else difference(value, shape.shape, path)
    if isinstance(shape, Each):
        if not isinstance(value, dict):
            return f"{path} is {_kind(value)}, expected an object"
        return _first((each, shape.shape, f"{path}.{name[:40]}") for name, each in value.items())
    if isinstance(shape, Mapping):
        if not isinstance(value, dict):
            return f"{path} is {_kind(value)}, expected an object"
        missing = next((name for name in shape if name not in value), None)
        if missing is not None:
            return f"{path} has no field {missing!r}"
        return _first((value[name], each, name) for name, each in shape.items())
    if isinstance(shape, list):
        if not isinstance(value, list):
            return f"{path} is {_kind(value)}, expected a list"
        return _first((each, shape[0], f"{path}[{at}]") for at, each in enumerate(value))
    return "" if _is(value, shape) else f"{path} is {_kind(value)}, expected {_NAMES[shape]}"


_NAMES = {str: "a string", int: "an integer", float: "a number", bool: "true or false"}


def _first(parts: Any) -> str:
    return next((found for part in parts if (found := difference(*part))), "")


def _is(value: Any, kind: type) -> bool:
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    if kind in (int, float):
        # NaN fails every comparison.
        return isinstance(value, (int, kind)) and -_MAX_NUMBER < value < _MAX_NUMBER
    return isinstance(value, kind)


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    kinds: dict[type, str] = {dict: "an object", list: "a list", str: "a string"}
    return kinds.get(type(value), "another number")
