"""The log: one pipe to stderr for the relay's own lines and for those of its libraries.

Rules:
- A configured secret is in no line: it is replaced in every string before that is cut, and once more in
  the rendered line.
- What others say (apps, the upstream, exceptions) cannot forge a line or drive a terminal: control
  characters are written as escapes, and every string is cut.
- A traceback is plain text without local variables; in JSON it is one string.
- Writing never raises and never waits: a full disk, a closed pipe or a stalled reader of the log stops no
  part. `log_queue` writes in a thread of its own; a notice stands in place of the lines that it lost.
- The last lines stay in memory, for operators and `relay support-bundle`: a box may have no journal, or one
  that its owner cannot reach.
- No line per event above debug. What apps or the network can repeat goes through a Gate.

There is one log in a process, as in structlog and the standard library; `configure` may be called again.
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
from typing import Any, ClassVar, NamedTuple, Protocol, TextIO

import structlog
from structlog.dev import plain_traceback
from structlog.typing import EventDict, Processor, WrappedLogger

from relay.runtime.clock import Clock, SystemClock, rfc3339
from relay.runtime.log_queue import Counts, LogQueue
from relay.runtime.secret import MASK, Secret, pattern

MESSAGE_CHARS = 256
FIELD_CHARS = 2_000
TRACEBACK_CHARS = 16_000
KEPT_LINES = 300
KEPT_CHARS = 2_000
"""Of each kept line."""
EXIT_FLUSH_S = 0.4
"""A stop has 0.5 s beside the deadline of `signals`."""
MAX_ITEMS = 50
"""Of one list or table in a field."""
MAX_DEPTH = 4
LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}

_MIN_IN_LINE_CHARS = 8
"""A shorter secret is looked for in the fields only: in the rendered line it would hit the line's own syntax."""


class Gate:
    """At most one line per key in each `per_ms`; the others are held back and counted. Reads no clock."""

    def __init__(self, suppressed: Counts | None = None, *, per_ms: int = 1_000, max_keys: int = 256) -> None:
        self._suppressed = suppressed
        self._per_ms = per_ms
        self._max_keys = max_keys
        self._keys: dict[Hashable, _Held] = {}

    def admit(self, key: Hashable, now_ms: int) -> int | None:
        """None: leave this line out. Else write it; so many of its key were left out since the last one."""
        if key not in self._keys and len(self._keys) >= self._max_keys:
            self._keys = {key: held for key, held in self._keys.items() if now_ms < held.until_ms}
            if len(self._keys) >= self._max_keys:
                # whoever can make up keys without end shares one
                key = _OVERFLOW
        held = self._keys.get(key)
        if held is not None and now_ms < held.until_ms:
            self._keys[key] = _Held(held.until_ms, held.lines + 1)
            if self._suppressed is not None:
                self._suppressed.inc()
            return None
        self._keys[key] = _Held(now_ms + self._per_ms, 0)
        return held.lines if held is not None else 0


class _Held(NamedTuple):
    until_ms: int
    lines: int


_OVERFLOW = object()


class LogSettings(Protocol):
    """The `[log]` section of the configuration, as this module needs it."""

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
    """Send all lines of structlog, of the standard library's logging and of warnings through the pipe.

    `stream` is stderr unless given. `suppressed` counts the libraries' lines beyond one a second, `lost` the
    lines that the stream did not take. The first line starts a thread. The end of the process writes the
    queued lines, for at most EXIT_FLUSH_S.
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
        # level, stream and secrets may change under loggers that exist
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _Libraries)]:
        root.removeHandler(handler)
    root.addHandler(_Libraries(Gate(suppressed), clock))
    root.setLevel(logging.WARNING)
    logging.captureWarnings(True)


def flush(timeout_s: float) -> bool:
    """Wait until the stream has all lines; False if the time is over first."""
    return _shared.queue is None or _shared.queue.flush(timeout_s)


def close() -> None:
    """Write the queued lines, for at most EXIT_FLUSH_S, and end the thread. Later lines stay in memory only."""
    atexit.unregister(close)
    if _shared.queue is not None:
        _shared.queue.close(EXIT_FLUSH_S)
        _shared.queue = None


def set_level(level: str) -> None:
    """The least serious lines that are written, of loggers that exist too."""
    _shared.threshold = LEVELS[level]


def set_secrets(secrets: Iterable[Secret]) -> None:
    """What must be in no line from now on, instead of what was given before."""
    values = {secret.reveal() for secret in secrets}
    _shared.in_text = _any_of(values)
    _shared.in_line = _any_of({value for value in values if len(value) >= _MIN_IN_LINE_CHARS})


def words(text: str) -> str:
    """What an app or the upstream said, fit to be logged or shown: scrubbed, cut to 256 characters, escaped."""
    return _clean(text, MESSAGE_CHARS)


def hide_secrets(text: str) -> str:
    """Return the text with each configured secret masked. The time grows with the text: cut it before."""
    return text if _shared.in_text is None else _shared.in_text.sub(MASK, text)


def last_lines() -> list[str]:
    """The last KEPT_LINES lines, the oldest first."""
    return list(_shared.kept)


class _Shared:
    """What loggers that exist must see change, and what the whole process has said."""

    kept: ClassVar[deque[str]] = deque(maxlen=KEPT_LINES)
    queue: LogQueue | None = None
    threshold = LEVELS["info"]
    in_text: re.Pattern[str] | None = None
    in_line: re.Pattern[str] | None = None


_shared = _Shared()


class _Pipe:
    """From an event's fields to a line in the stream."""

    def __init__(self, stream: TextIO, clock: Clock, lost: Counts | None, console: bool) -> None:
        self._stream = stream
        self._clock = clock
        self._console = console
        self._render: Processor = structlog.processors.JSONRenderer()
        if console:
            colors = stream.isatty() and "NO_COLOR" not in os.environ
            # The traceback is text by then. plain_traceback only says that no prettier one is missing.
            self._render = structlog.dev.ConsoleRenderer(
                colors=colors, sort_keys=False, exception_formatter=plain_traceback
            )
        self.queue = LogQueue(stream, self._notice, lost)

    def processors(self) -> list[Processor]:
        return [_drop_below_level, structlog.processors.format_exc_info, self._shape, self._render, _scrub_line]

    def logger(self, name: str = "", *_: object) -> _Logger:
        return _Logger(name, self)

    def write(self, line: str) -> None:
        _shared.kept.append(line[:KEPT_CHARS])
        self.queue.put(line)

    def _notice(self, lines: int) -> str:
        """Render the line that stands in place of lost ones."""
        logger = _Logger("relay.runtime.log", self)
        shaped = self._shape(logger, "warning", {"event": "log lines are missing", "lines": lines})
        return str(self._render(logger, "warning", shaped))

    def _shape(self, logger: WrappedLogger, method: str, fields: EventDict) -> EventDict:
        """The line's fields in order, fit to be written."""
        shaped: EventDict = {"timestamp": rfc3339(self._clock.wall_ms()), "level": _level(method)}
        if logger.name:
            shaped["logger"] = logger.name
        shaped["event"] = _clean(str(fields.pop("event", "")), FIELD_CHARS)
        traceback = fields.pop("exception", None)
        for name, value in fields.items():
            if name not in shaped:
                shaped[name] = _plain(value)
        if traceback is not None:
            shaped["exception"] = _traceback(str(traceback), indent="    " if self._console else "")
        return shaped


class _Logger:
    """What structlog's methods end in; one per logger name."""

    def __init__(self, name: str, pipe: _Pipe) -> None:
        self.name = name
        self.debug = self.info = self.warning = self.error = self.critical = self.exception = pipe.write


class _Libraries(logging.Handler):
    """Lines of libraries, warning and worse, at most one a second of each: some come once per bad request."""

    def __init__(self, gate: Gate, clock: Clock) -> None:
        super().__init__(logging.WARNING)
        self._gate = gate
        self._clock = clock

    def emit(self, record: logging.LogRecord) -> None:
        template = str(record.msg).partition("\n")[0][:40]
        held = self._gate.admit((record.name, record.levelno, template), self._clock.monotonic_ms())
        if held is None:
            return
        try:
            message = record.getMessage()
        except (TypeError, ValueError, KeyError):
            # a template and arguments that do not fit; logging would print both unscrubbed
            message = str(record.msg)
        fields: dict[str, Any] = {"exc_info": record.exc_info} if record.exc_info else {}
        if held:
            fields["suppressed"] = held
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
    """Its last part where it is long: there stands what happened. Indented, no line of it can pass for a log line."""
    if _shared.in_text is not None:
        text = _shared.in_text.sub(MASK, text)
    lines = text[-TRACEBACK_CHARS:].split("\n")
    return "\n".join(indent + _clean(line, FIELD_CHARS) for line in lines)


def _plain(value: object, depth: int = 0) -> object:
    """A field's value as JSON can show it, whatever it is, within bounds."""
    if isinstance(value, str):
        return _clean(value, FIELD_CHARS)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        # beyond this, int to text is slow and at 4,300 digits refused
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


_REPR = reprlib.Repr()  # unlike repr, never raises
_REPR.maxother = 1_000_000  # cut after the scrubbing, never before


def _any_of(secrets: set[str]) -> re.Pattern[str] | None:
    """Matches each, in whatever form; the longest first, as one may begin another. An empty one cannot be found."""
    longest_first = sorted((secret for secret in secrets if secret), key=len, reverse=True)
    return re.compile("|".join(map(pattern, longest_first))) if longest_first else None
