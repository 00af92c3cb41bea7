"""A simple check for strict JSON that shares no code with the relay."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

MAX_DEPTH = 32


def strict(body: bytes) -> Any:
    """Return the decoded value. A batch may be two levels deeper than MAX_DEPTH.

    Raises ValueError for JSON that an upstream may fail to decode.
    """
    value = json.loads(body.decode("utf-8"), parse_constant=_constant, parse_int=_integer, parse_float=_number)
    _walk(value, 1)
    return value


def _walk(value: object, depth: int) -> None:
    if isinstance(value, str) and ("\0" in value or any("\ud800" <= c <= "\udfff" for c in value)):
        raise ValueError("an unsafe string")
    if isinstance(value, dict | list) and depth > MAX_DEPTH + 2:
        raise ValueError("nested too deeply")
    if isinstance(value, dict):
        for name, member in value.items():
            _walk(name, depth)
            _walk(member, depth + 1)
    if isinstance(value, list):
        for member in value:
            _walk(member, depth + 1)


def _integer(digits: str) -> int:
    value = int(digits)
    if not -(2**63) <= value < 2**63:
        raise ValueError("an integer beyond 64 bits")
    return value


def _number(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError("a number beyond a double")
    return value


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
