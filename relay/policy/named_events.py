"""Find the events that a response body names, by their index in the request.

Rules: if one index is out of range, all indexes of the body are ignored, because they count something else. A success
that lists or counts rejected events does not deliver these events.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

_NAMED = re.compile(r'events"?\s*[./\[,]+\s*"?(\d+)\b', re.ASCII)
_INDEX_MAX_DIGITS = 9
_REJECTED_KEYS = (
    "rejected", "failed", "invalid", "failures",
    "rejected_events", "failed_events", "invalid_events",
    "rejected_count", "failed_count", "invalid_count",
)  # fmt: skip
_RESULT_KEYS = ("results", "items", "events")
_OUTCOME_KEYS = frozenset({*_REJECTED_KEYS, *_RESULT_KEYS, "accepted"})
"""A success without any of them rejects no event."""
_INDEX_KEYS = ("index", "event_index", "position")
_FAILED_WORDS = frozenset({"error", "failed", "failure", "invalid", "rejected"})
_FAILED_STATUS_FROM = 300


def named(content: Any, events: int, clean: Callable[[str], str]) -> dict[int, str]:
    """Return the message of each event that a rejection names, by index; empty if it names none.

    Shapes: {"errors": {"events.3.source.platform": ["..."]}} and lists of objects or sentences that
    hold such a path, under "errors" or "detail". `clean` makes one line of a message.
    """
    if not isinstance(content, dict):
        return {}
    found: dict[int, list[str]] = {}
    for path, message in _errors_by_path(content.get("errors") or content.get("detail")):
        match = _NAMED.search(path)
        if match is None:
            continue
        digits = match[1]
        if len(digits) > _INDEX_MAX_DIGITS or int(digits) >= events:
            return {}
        found.setdefault(int(digits), []).append(message)
    return {index: clean("; ".join(messages)) for index, messages in found.items()}


def rejected_in_success(content: Mapping[str, Any], events: int, clean: Callable[[str], str]) -> dict[int, str] | None:
    """Return the message of each event that a success rejects, by index.

    None: the success rejects no event. Empty: it rejects events without naming all of them.
    """
    if _OUTCOME_KEYS.isdisjoint(content):
        return None
    found: dict[int, str] = {}
    unnamed = False
    for value in (content[key] for key in _REJECTED_KEYS if content.get(key)):
        listed = _listed(value)
        unnamed = unnamed or (not listed and _count(value) is None)
        for entry in listed:
            index = _index_of(entry)
            unnamed = unnamed or index is None
            found[events if index is None else index] = _message(entry, clean)
    for position, entry in _failed_results(content, events):
        index = _index_of(entry)
        found[position if index is None else index] = _message(entry, clean)
    counted = _counted(content, events)
    if not found and not unnamed and counted <= 0:
        return None
    return found if found and not unnamed and len(found) >= counted and max(found) < events else {}


def _listed(value: Any) -> list[Any]:
    """Return the entries of a list of rejected events, or of an object with an entry per index."""
    if isinstance(value, dict):
        return [{"index": _index(key), "message": message} for key, message in value.items()]
    return value if isinstance(value, list) else []


def _counted(content: Mapping[str, Any], events: int) -> int:
    """Return the number of events that a success counts as rejected, or does not count as accepted."""
    counted = max((_count(content.get(key)) or 0 for key in _REJECTED_KEYS), default=0)
    accepted = _count(content.get("accepted"))
    if accepted is None or any(key in content for key in _REJECTED_KEYS):
        return counted
    repeated = _count(content.get("duplicates")) or _count(content.get("duplicate")) or 0
    return max(counted, events - accepted - repeated)


def _count(value: Any) -> int | None:
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}", value):
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _failed_results(content: Mapping[str, Any], events: int) -> Iterator[tuple[int, Any]]:
    """Yield (position, entry) of each failed entry of a list with one entry per event or with indexes."""
    for value in (content.get(key) for key in _RESULT_KEYS):
        if not isinstance(value, list):
            continue
        for position, entry in enumerate(value):
            if isinstance(entry, dict) and _is_failed(entry):
                # Without an index, the position counts only in a list with one entry per event; otherwise out of range.
                yield (position if len(value) == events else events), entry


def _is_failed(entry: Mapping[str, Any]) -> bool:
    status = entry.get("status")
    if isinstance(status, str) and status.lower() in _FAILED_WORDS:
        return True
    code = _count(status)
    if code is not None and code >= _FAILED_STATUS_FROM:
        return True
    return entry.get("success") is False or bool(entry.get("error") or entry.get("errors"))


def _index_of(entry: Any) -> int | None:
    if isinstance(entry, dict):
        return next((index for key in _INDEX_KEYS if (index := _index(entry.get(key))) is not None), None)
    return _index(entry)


def _index(value: Any) -> int | None:
    """Return the index in a value, also in a path such as events.3.id; None without an index."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value if value >= 0 else None
    if not isinstance(value, str):
        return None
    match = re.fullmatch(r"[0-9]{1,9}", value) or _NAMED.search(value)
    digits = match[match.lastindex or 0] if match else ""
    return int(digits) if 0 < len(digits) <= _INDEX_MAX_DIGITS else None


def _message(entry: Any, clean: Callable[[str], str]) -> str:
    if isinstance(entry, dict):
        entry = next((entry[key] for key in ("message", "error", "errors", "reason") if entry.get(key)), entry)
    if isinstance(entry, int):
        return "rejected without a reason"
    return clean(entry if isinstance(entry, str) else _text(entry))


def _errors_by_path(errors: Any) -> Iterator[tuple[str, str]]:
    """Yield (path, message) of each validation error in a response body."""
    if isinstance(errors, dict):
        for path, message in errors.items():
            texts = message if isinstance(message, list) else [message]
            yield str(path), " ".join(text if isinstance(text, str) else _text(text) for text in texts)
    elif isinstance(errors, list):
        for error in errors:
            text = error if isinstance(error, str) else _text(error)
            yield text, text


def _text(value: Any) -> str:
    return msgspec.json.encode(value).decode()
