"""Write log lines of the relay and of its libraries to stderr, through one structlog pipeline.

Rules:
- No line contains a configured secret. Secrets are masked in every string before it is cut, and again in
  the rendered line.
- Text from apps, the upstream or exceptions cannot forge a line or control a terminal: control characters
  are escaped, and every string is cut.
- A traceback is plain text without local variables. In JSON it is one string.
- In the systemd journal every line has its priority (`journal`).
- Logging never raises and never blocks on a full disk, a closed pipe or a stalled reader. `log_queue` writes
  in its own thread. A notice replaces lost lines.
- The last lines stay in memory for operators and `relay support-bundle`, because a machine may have no
  journal, or its owner may not have access to it.
- Above level debug there is no line per event. Lines that apps or the network can repeat pass a Gate.

A process has one log, as in structlog and the standard library. `configure` may be called again.
"""

from __future__ import annotations

import atexit
import logging
import math
import os
import re
import reprlib
import sys
from collections import deque
from collections.abc import Hashable, Iterable, Mapping
from functools import partial
from typing import Any, ClassVar, NamedTuple, Protocol, TextIO

import structlog
from structlog.dev import plain_traceback
from structlog.typing import EventDict, Processor, WrappedLogger

from relay.runtime.clock import Clock, SystemClock, rfc3339
from relay.runtime.journal import is_journal, prefixed
from relay.runtime.log_queue import Counts, LogQueue
from relay.runtime.secret import MASK, Secret, pattern

MESSAGE_CHARS = 256
FIELD_CHARS = 2_000
TRACEBACK_CHARS = 16_000
KEPT_LINES = 300
KEPT_CHARS = 2_000
"""Maximum length of a line kept in memory."""
EXIT_FLUSH_S = 0.4
"""Time to write queued lines at exit. A stop has 0.5 s after the deadline of `signals`."""
MAX_ITEMS = 50
"""Maximum number of items of a list or table in a field."""
MAX_DEPTH = 4
"""Maximum nesting of lists and tables in a field."""
LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}

_MIN_IN_LINE_CHARS = 8
"""Minimum length of a secret to be masked in the rendered line. A shorter one could match the syntax of the line."""


class Gate:
    """Admits at most one line per key in `per_ms` and counts the suppressed lines. Reads no clock."""

    def __init__(self, suppressed: Counts | None = None, *, per_ms: int = 1_000, max_keys: int = 256) -> None:
        self._suppressed = suppressed
        self._per_ms = per_ms
        self._max_keys = max_keys
        self._keys: dict[Hashable, _Interval] = {}

    def admit(self, key: Hashable, now_ms: int) -> int | None:
        """Return None to suppress the line. Otherwise return the number of lines of the key suppressed before it."""
        if key not in self._keys and len(self._keys) >= self._max_keys:
            self._keys = {key: interval for key, interval in self._keys.items() if now_ms < interval.until_ms}
            if len(self._keys) >= self._max_keys:
                # Apps can generate keys without bound. All keys beyond max_keys share one interval.
                key = _OVERFLOW
        interval = self._keys.get(key)
        if interval is not None and now_ms < interval.until_ms:
            self._keys[key] = _Interval(interval.until_ms, interval.suppressed + 1)
            if self._suppressed is not None:
                self._suppressed.inc()
            return None
        self._keys[key] = _Interval(now_ms + self._per_ms, 0)
        return interval.suppressed if interval is not None else 0


class _Interval(NamedTuple):
    """The time until the next line of a key is admitted, and the lines suppressed so far."""

    until_ms: int
    suppressed: int


_OVERFLOW = object()
"""Key that stands for all keys beyond `max_keys`."""


class LogSettings(Protocol):
    """The keys of the `[log]` section that this module uses."""

    @property
    def level(self) -> str: ...

    @property
    def format(self) -> str: ...


def configure(
    log: LogSettings,
    secrets: Iterable[Secret] = (),
    *,
    stream: TextIO | None = None,
    clock: Clock | None = None,
    suppressed: Counts | None = None,
    lost: Counts | None = None,
) -> None:
    """Log structlog events, records of the standard library's logging, and warnings to `stream`.

    `stream` defaults to stderr. `suppressed` counts the library lines beyond one a second, `lost` the lines that could
    not be written. The first line starts a thread. At exit, the process writes queued lines for at most EXIT_FLUSH_S.
    """
    stream = sys.stderr if stream is None else stream
    clock = SystemClock() if clock is None else clock
    pipe = _Pipe(stream, clock, lost, console=log.format == "console" or (log.format == "auto" and stream.isatty()))
    close()
    _shared.queue = pipe.queue
    atexit.register(close)
    set_level(log.level)
    set_secrets(secrets)
    structlog.configure(
        processors=pipe.processors(),
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=pipe.logger,
        # Level, stream and secrets may change while loggers exist.
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _Libraries)]:
        root.removeHandler(handler)
    root.addHandler(_Libraries(Gate(suppressed), clock))
    root.setLevel(logging.WARNING)
    logging.captureWarnings(True)


def flush(timeout_s: float) -> bool:
    """Wait until all lines are written. Return False after `timeout_s` seconds."""
    return _shared.queue is None or _shared.queue.flush(timeout_s)


def close() -> None:
    """Write the queued lines for at most EXIT_FLUSH_S, and end the thread. Later lines are kept in memory only."""
    atexit.unregister(close)
    if _shared.queue is not None:
        _shared.queue.close(EXIT_FLUSH_S)
        _shared.queue = None


def set_level(level: str) -> None:
    """Set the minimum level of written lines, for existing loggers too."""
    _shared.threshold = LEVELS[level]


def set_secrets(secrets: Iterable[Secret]) -> None:
    """Replace the secrets to mask in all later lines."""
    values = {secret.reveal() for secret in secrets}
    _shared.in_text = _any_of(values)
    _shared.in_line = _any_of({value for value in values if len(value) >= _MIN_IN_LINE_CHARS})


def hide_secrets(text: str) -> str:
    """Return the text with each configured secret masked. The cost is linear in the length: cut long texts first."""
    return text if _shared.in_text is None else _shared.in_text.sub(MASK, text)


def last_lines() -> list[str]:
    """Return the last KEPT_LINES lines, the oldest first."""
    return list(_shared.kept)


class _Shared:
    """State of the process's log that existing loggers share, and the last lines."""

    kept: ClassVar[deque[str]] = deque(maxlen=KEPT_LINES)
    queue: LogQueue | None = None
    threshold = LEVELS["info"]
    in_text: re.Pattern[str] | None = None
    in_line: re.Pattern[str] | None = None


_shared = _Shared()


class _Pipe:
    """The structlog pipeline from the fields of a log event to a line in the stream."""

    def __init__(self, stream: TextIO, clock: Clock, lost: Counts | None, console: bool) -> None:
        self._stream = stream
        self._clock = clock
        self._console = console
        self._is_journal = is_journal(stream, os.environ)
        self._render: Processor = structlog.processors.JSONRenderer()
        if console:
            colors = stream.isatty() and "NO_COLOR" not in os.environ
            # Tracebacks are already text here. plain_traceback prevents a warning that no formatter is installed.
            self._render = structlog.dev.ConsoleRenderer(
                colors=colors, sort_keys=False, exception_formatter=plain_traceback, event_key="message"
            )
        self.queue = LogQueue(stream, self._notice, lost)

    def processors(self) -> list[Processor]:
        return [_drop_below_level, structlog.processors.format_exc_info, self._shape, self._render, _scrub_line]

    def logger(self, name: str = "", *_: object) -> _Logger:
        return _Logger(name, self)

    def write(self, level: str, line: str) -> None:
        _shared.kept.append(line[:KEPT_CHARS])
        self.queue.put(self._prioritized(level, line))

    def _prioritized(self, level: str, line: str) -> str:
        return prefixed(level, line) if self._is_journal else line

    def _notice(self, lines: int) -> str:
        """Render the notice that replaces lost lines."""
        logger = _Logger("relay.runtime.log", self)
        shaped = self._shape(logger, "warning", {"event": "log lines are missing", "lines": lines})
        return self._prioritized("warning", str(self._render(logger, "warning", shaped)))

    def _shape(self, logger: WrappedLogger, method: str, fields: EventDict) -> EventDict:
        """Return the fields in the order of the line, cleaned and cut."""
        shaped: EventDict = {"timestamp": rfc3339(self._clock.wall_ms()), "level": _level(method)}
        if logger.name:
            shaped["logger"] = logger.name
        shaped["message"] = _clean(str(fields.pop("event", "")), FIELD_CHARS)
        traceback = fields.pop("exception", None)
        for name, value in fields.items():
            if name not in shaped:
                shaped[name] = _plain(value)
        if traceback is not None:
            shaped["exception"] = _traceback(str(traceback), indent="    " if self._console else "")
        return shaped


class _Logger:
    """The wrapped logger of structlog, one per logger name."""

    def __init__(self, name: str, pipe: _Pipe) -> None:
        self.name = name
        self.debug, self.info, self.warning, self.error, self.critical = (partial(pipe.write, each) for each in LEVELS)
        self.exception = self.error


class _Libraries(logging.Handler):
    """Logs warnings and errors of libraries, each at most once a second, because bad requests can repeat some."""

    def __init__(self, gate: Gate, clock: Clock) -> None:
        super().__init__(logging.WARNING)
        self._gate = gate
        self._clock = clock

    def emit(self, record: logging.LogRecord) -> None:
        template = str(record.msg).partition("\n")[0][:40]
        suppressed = self._gate.admit((record.name, record.levelno, template), self._clock.monotonic_ms())
        if suppressed is None:
            return
        try:
            message = record.getMessage()
        except (TypeError, ValueError, KeyError):
            # The arguments do not match the template. `logging` would print both without masking secrets.
            message = str(record.msg)
        fields: dict[str, Any] = {"exc_info": record.exc_info} if record.exc_info else {}
        if suppressed:
            fields["suppressed"] = suppressed
        level = max((name for name, number in LEVELS.items() if number <= record.levelno), key=LEVELS.__getitem__)
        getattr(structlog.get_logger(record.name), level)(message, **fields)


def _level(method: str) -> str:
    return "error" if method == "exception" else method


def _drop_below_level(logger: WrappedLogger, method: str, fields: EventDict) -> EventDict:
    if LEVELS[_level(method)] < _shared.threshold:
        raise structlog.DropEvent
    return fields


def _scrub_line(logger: WrappedLogger, method: str, line: Any) -> Any:
    return _shared.in_line.sub(MASK, line) if _shared.in_line is not None else line


def _clean(text: str, max_chars: int) -> str:
    if _shared.in_text is not None:
        text = _shared.in_text.sub(MASK, text)
    if len(text) > max_chars:
        text = f"{text[:max_chars]}... ({len(text) - max_chars} more)"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def _traceback(text: str, indent: str) -> str:
    """Return the end of a traceback, which contains the error. Indented lines cannot be mistaken for log lines."""
    if _shared.in_text is not None:
        text = _shared.in_text.sub(MASK, text)
    lines = text[-TRACEBACK_CHARS:].split("\n")
    return "\n".join(indent + _clean(line, FIELD_CHARS) for line in lines)


def _plain(value: object, depth: int = 0) -> object:
    """Return a bounded JSON-compatible form of any value."""
    if isinstance(value, str):
        return _clean(value, FIELD_CHARS)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        # Python converts large integers slowly, and raises ValueError above 4,300 digits.
        return value if value.bit_length() <= 64 else f"<integer of {value.bit_length()} bits>"
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, bytes | bytearray):
        return _clean(bytes(value).decode("utf-8", "backslashreplace"), FIELD_CHARS)
    if depth < MAX_DEPTH and isinstance(value, Mapping):
        items = list(value.items())[:MAX_ITEMS]
        return {_clean(str(name), MESSAGE_CHARS): _plain(item, depth + 1) for name, item in items}
    if depth < MAX_DEPTH and isinstance(value, list | tuple | set | frozenset):
        return [_plain(item, depth + 1) for item in list(value)[:MAX_ITEMS]]
    return _clean(_REPR.repr_instance(value, 0), FIELD_CHARS)


_REPR = reprlib.Repr()  # Unlike repr, it never raises.
_REPR.maxother = 1_000_000  # Secrets must be masked before the text is cut.


def _any_of(secrets: set[str]) -> re.Pattern[str] | None:
    """Return a pattern for all secrets in all their forms, or None.

    Longer secrets are first, because a secret may be a prefix of another one. Empty secrets are ignored.
    """
    longest_first = sorted((secret for secret in secrets if secret), key=len, reverse=True)
    return re.compile("|".join(map(pattern, longest_first))) if longest_first else None
